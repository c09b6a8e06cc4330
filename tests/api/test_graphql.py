"""Tests of the GraphQL endpoint: access, limits and the number of statements."""

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from graphql import parse

from accounts.models import Role, Scope
from api.graphql.limits import TooExpensive, check_cost
from labeling.models import Membership
from runs.models import Run
from tests.api.caller import Caller, refused
from tests.finetune.factory import make_adapter, make_base, make_evaluation, make_snapshot
from tests.labeling.world import make_member, make_project, make_user
from tests.reward.factory import make_prompt, rank
from tests.reward.factory import make_task as make_unslotted

pytestmark = pytest.mark.django_db

EVERYTHING = """
query All($first: Int = 5) {
  projects(first: $first) { next items {
    slug
    tasks(first: 3) { id messages responses { text } rankings { reviewer tiers guidelineVersion } }
    few: tasks(first: 1) { id }
    runs { kind state project }
    models { name evaluations { candidate baseline registered } }
    ...more
  } }
}
fragment more on Project { evaluations { runId judge } }
"""


def fill(project):
    task = make_unslotted(make_prompt(project))
    rank(task, make_member(project))
    snapshot = make_snapshot(project, prompts=1)
    make_evaluation(make_adapter(make_base(project), snapshot))
    Run.objects.filter(project=None).update(project=project)


@pytest.fixture
def project():
    project = make_project()
    fill(project)
    return project


@pytest.fixture
def lead(project):
    return Caller(make_member(project, Membership.Role.LEAD))


def ask(caller, query, **variables):
    return caller.ask("POST", "graphql", {"query": query, "variables": variables})


def data_of(answer):
    content = answer.json()
    assert answer.status_code == 200 and "errors" not in content, content
    return content["data"]


def test_a_query_reads_nested_objects(project, lead):
    [found] = data_of(ask(lead, EVERYTHING))["projects"]["items"]
    assert found["slug"] == project.slug
    task = found["tasks"][0]
    assert len(task["responses"]) == 3 and len(task["rankings"][0]["tiers"]) == 3
    assert found["few"] == [{"id": task["id"]}]
    [model] = [m for m in found["models"] if m["evaluations"]]
    assert model["evaluations"][0]["candidate"] == model["name"]
    assert found["evaluations"] and found["runs"][0]["project"] == project.slug
    one = ask(lead, "query($s: String!) { project(slug: $s) { tasks { id } } }", s=project.slug)
    assert data_of(one)["project"]["tasks"][0] == {"id": task["id"]}


def test_lists_have_pages(project, lead):
    for _ in range(2):
        make_unslotted(make_prompt(project))
    count = project.tasks.count()
    query = "query($a: ID) { tasks(project: %s, first: 3, after: $a) { next items { id } } }"
    query %= json.dumps(project.slug)
    first = data_of(ask(lead, query))["tasks"]
    rest = data_of(ask(lead, query, a=first["next"]))["tasks"]
    assert len(first["items"]) == 3 and len(rest["items"]) == count - 3 and rest["next"] is None
    assert (
        ask(lead, query, a="x").json()["errors"][0]["message"] == "after must be the id of a row."
    )


def test_more_rows_cost_no_more_statements(project, lead):
    def statements():
        data_of(ask(lead, EVERYTHING))
        with CaptureQueriesContext(connection) as queries:
            data_of(ask(lead, EVERYTHING))
        return len(queries)

    before = statements()
    fill(project)
    other = make_project()
    Membership.objects.create(project=other, user=lead.user, role=Membership.Role.LEAD)
    fill(other)
    assert statements() == before == 11


def test_only_tokens_that_may_read_get_an_answer(project, lead):
    introspection = "{ __schema { types { name } } }"
    assert "Project" in str(data_of(ask(lead, introspection)))
    lead.client.force_login(lead.user)
    for key in ("", "Bearer none"):
        refused(lead.ask("POST", "graphql", {"query": introspection}, Authorization=key), 401)
    narrow = Caller(lead.user, scopes=[Scope.LABEL])
    refused(ask(narrow, introspection), 403, "scope read")
    refused(lead.ask("GET", "graphql?query={__typename}"), 405, "Use POST")


def test_a_token_reads_only_the_projects_of_its_owner_and_its_limit(project, lead):
    other = make_project()
    fill(other)
    trainer = make_user(Role.TRAINER)
    queries = ["models { items { project } }", "evaluations { items { project } }",
               "runs { items { project } }", "projects { items { project: slug } }"]  # fmt: skip
    for caller in (lead, Caller(trainer, project=project)):
        for query in queries:
            [found] = data_of(ask(caller, f"{{ {query} }}")).values()
            assert {item["project"] for item in found["items"]} == {project.slug}, query
        for name in ("tasks", "rankings"):
            query = f'{{ {name}(project: "{other.slug}") {{ next }} }}'
            assert "no project" in ask(caller, query).json()["errors"][0]["message"]
        assert (
            data_of(ask(caller, f'{{ project(slug: "{other.slug}") {{ id }} }}'))["project"] is None
        )
    reviewer = Caller(make_member(project))
    assert data_of(ask(reviewer, "{ projects { items { slug } } }"))["projects"]["items"] == []
    answer = ask(reviewer, f'{{ tasks(project: "{project.slug}") {{ next }} }}')
    assert "Only leads" in answer.json()["errors"][0]["message"]


NESTED = "{ projects(first: 200) { items { tasks(first: 200) { rankings(first: 200) { id } } } } }"
CYCLE = "{ projects { ...a } } fragment a on ProjectPage { items { slug } ...a }"
MANY = "{" + " ".join(f"a{n}: projects {{ next }}" for n in range(16)) + "}"
DEEP = "{ __schema { types {" + "ofType {" * 30 + "name" + "}" * 30 + "} } }"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (NESTED, "more than 50,000 values"),
        (CYCLE, "nested deeper"),
        (MANY, "aliases"),
        (DEEP, "nested deeper"),
        ("{ projects { items { secret } } }", "Cannot query field"),
        ("{ projects ", "Syntax Error"),
        ("{ __typename " * 3000, ""),
        ("mutation { a }", "mutation"),
    ],
)  # fmt: skip
def test_a_query_above_a_limit_or_with_an_error_is_refused(lead, query, sentence):
    with CaptureQueriesContext(connection) as queries:
        answer = ask(lead, query)
    assert answer.status_code == 400
    assert sentence in answer.json()["errors"][0]["message"], answer.content
    assert not any("labeling_project" in query["sql"] for query in queries), "nothing was read"


def test_the_cost_of_a_query_counts_the_rows_of_its_lists():
    assert check_cost(parse("{ projects(first: 3) { next } }"), {}) == 1 + 3
    query = parse("query($n: Int = 4) { projects(first: $n) { next } }")
    assert check_cost(query, {}) == 5 and check_cost(query, {"n": 7}) == 8
    with pytest.raises(TooExpensive):
        check_cost(parse(NESTED), {})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400), ("[]", 422), ('{"query": 1}', 422), ('{"query": "{a}", "variables": 3}', 422),
        ('{"query": "{ project(slug: \\"\\\\u0000\\") { id } }"}', 422),
        ('{"query": "query($s: String!) { project(slug: $s) { id } }", "variables": {"s": "\\u0000"}}', 422),
        ('{"query": "\\ud800"}', 422), ('{"query": "' + "x" * 100_001 + '"}', 413),
        ("[" * 20_000, 400),
    ],
)  # fmt: skip
def test_a_hostile_body_gets_a_sentence(lead, body, status):
    refused(lead.ask("POST", "graphql", body), status)
