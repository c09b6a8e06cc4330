"""Generations: the promoted models of a project, their chained win rates, and the project page."""

import json
import re

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Role, User
from finetune.evaluation.generations import EVEN, Interval, chain, generations_of
from finetune.models import Certificate, Model
from labeling.models import Membership, Project
from tests.finetune.factory import make_adapter, make_base, make_evaluation, make_snapshot
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db
WINS = (1.0,) * 12


@pytest.fixture
def project() -> Project:
    return make_project(promotion_policy=Project.Promotion.JUDGE)


@pytest.fixture
def base(project: Project) -> Model:
    return make_base(project, name="the-base")


def promoted(parent: Model, name: str, *, verdicts: tuple[float, ...] = WINS, **fields) -> Model:
    """Return a promoted model that was compared with its parent. `fields` are of its evaluation."""
    snapshot = parent.snapshot or make_snapshot(parent.project, prompts=4, test_fraction=0.4)
    model = make_adapter(parent, snapshot, name=name)
    if verdicts:
        make_evaluation(model, verdicts=verdicts, **fields)
    model.promote(by=None, reason="" if verdicts == WINS else "A test needs it.")
    return model


def page_for(user: User, project: Project, **cookies: str) -> str:
    client = Client()
    client.force_login(user)
    client.cookies.load(cookies)
    return client.get(reverse("project", args=[project.slug])).text


def test_chained_odds_are_the_product_of_the_odds() -> None:
    first, second = Interval(0.8, 0.7, 0.9, 0.04), Interval(0.6, 0.5, 0.75, 0.04)
    # 4 · 3/2 = 6, 7/3 · 1 = 7/3, and 9 · 3 = 27 to one
    both = chain(first, second)
    assert (both.value, both.low, both.high) == pytest.approx((6 / 7, 0.7, 27 / 28))
    assert both.alpha == pytest.approx(0.08)
    assert chain(EVEN, second).value == pytest.approx(0.6)


def test_a_model_that_always_wins_can_still_be_chained() -> None:
    certain, lost = Interval(1.0, 0.9, 1.0), Interval(0.0, 0.0, 0.1)
    assert chain(certain, certain).value == pytest.approx(1.0)
    assert chain(certain, lost).value == pytest.approx(0.5)


def test_each_promotion_has_the_figures_of_its_certificate(base: Model) -> None:
    first = promoted(base, "first")
    second = promoted(first, "second")
    one, two = generations_of(base.project)
    certificates = Certificate.objects.order_by("number")
    assert [one.certificate, two.certificate] == [row.pk for row in certificates]
    assert (one.promotion.before, two.promotion.before) == (base.pk, first.pk)
    assert (one.promotion.model, two.promotion.model) == (first.pk, second.pk)
    (evaluation,) = json.loads(certificates[0].text)["content"]["evaluations"]
    evidence, rate = evaluation["judge"]["evidence"], one.promotion.win_rate
    assert rate == Interval(evidence["win_rate"], *evidence["interval"], evidence["alpha"])
    assert (one.promotion.source, one.promotion.evaluation) == ("judge", evaluation["evaluation"])
    # the candidate's scores are 0 to 11, the baseline's are 1
    assert one.promotion.score and one.promotion.score_before
    assert (one.promotion.score.value, one.promotion.score_before.value) == (5.5, 1.0)
    assert one.over_first and two.over_first and two.promotion.win_rate and rate
    assert two.over_first == chain(chain(EVEN, rate), two.promotion.win_rate)


def test_verdicts_after_the_promotion_do_not_change_its_figures(base: Model) -> None:
    model = promoted(base, "first")
    before = generations_of(base.project)
    make_evaluation(model, verdicts=[0.0] * 30)
    assert generations_of(base.project) == before


def test_a_promotion_without_an_evaluation_breaks_the_chain(base: Model) -> None:
    first = promoted(base, "first")
    second = promoted(first, "second", verdicts=())
    promoted(second, "third")
    first.promote(by=None, reason="The third one answers too slowly.")
    has_rate = [generation.over_first is not None for generation in generations_of(base.project)]
    assert has_rate == [True, False, False, True], "the first one keeps its win rate"


def test_an_overridden_evaluation_still_gives_the_win_rate(base: Model) -> None:
    promoted(base, "first", verdicts=(1.0, 0.0, 1.0))
    (generation,) = generations_of(base.project)
    assert generation.promotion.win_rate
    assert generation.promotion.win_rate.value == pytest.approx(2 / 3)


def test_a_promoted_base_is_the_first_model(base: Model) -> None:
    base.promote(by=None)
    promoted(base, "first")
    start, first = generations_of(base.project)
    assert start.over_first == EVEN
    assert first.over_first and first.over_first.value > 0.9


def test_certificates_are_read_once(base: Model, django_assert_num_queries) -> None:
    promoted(promoted(base, "first"), "second")
    with django_assert_num_queries(3):
        generations_of(base.project)
    with django_assert_num_queries(1):
        generations_of(base.project)


def test_leads_see_the_plot_and_its_figures(base: Model) -> None:
    promoted(promoted(base, "first"), "second", verdicts=(1.0, 0.0, 0.5))
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=base.project, user=lead, role=Membership.Role.LEAD)
    page = page_for(lead, base.project)
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        assert chart.count("<circle") == 3
        assert all(f"<title>{name}: " in chart for name in ("the-base", "first", "second"))
    assert "first: 100.0% (" in charts[0] and "the-base: 50.0%" in charts[0]
    assert "first: 5.50 (" in charts[1]
    table = page[page.index('aria-label="Generations"') :]
    assert "50.0%" in table and "the-base" in table


def test_reviewers_do_not_see_the_names_of_models(base: Model) -> None:
    promoted(base, "first")
    reviewer = make_user()
    Membership.objects.create(project=base.project, user=reviewer)
    page = page_for(reviewer, base.project)
    assert "the-base" not in page and "first" not in page and '<svg class="chart"' not in page


def test_a_project_without_promotions_has_no_plot(base: Model) -> None:
    assert "Generations" not in page_for(make_user(Role.TRAINER), base.project)


def test_the_plot_is_translated(base: Model) -> None:
    promoted(base, "first")
    page = page_for(make_user(Role.TRAINER), base.project, django_language="de")
    assert "Generationen" in page and "first: 100,0" in page
