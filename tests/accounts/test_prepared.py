import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts.models import Role, User
from database.prepared import Prepared
from labeling.models import Membership
from tests.labeling.world import make_project, make_user

pytestmark = pytest.mark.django_db


def named(name):
    return User.objects.filter(username=name, is_active=True)


def test_a_prepared_query_returns_the_querysets_row(django_assert_num_queries):
    user = make_user()
    prepared = Prepared(named, name=str)
    with django_assert_num_queries(2):
        assert prepared.first(name=user.username) == user
        assert prepared.first(name="nobody") is None


def test_each_call_uses_its_own_value():
    ada, otis = make_user(), make_user()
    prepared = Prepared(lambda pk: User.objects.filter(pk=pk), pk=int)
    assert [prepared.first(pk=user.pk) for user in (ada, otis)] == [ada, otis]


def test_instances_include_selected_relations(django_assert_num_queries):
    member = Membership.objects.create(project=make_project(), user=make_user())
    build = lambda pk: Membership.objects.filter(pk=pk).select_related("project__current_version")  # noqa: E731
    prepared, version = Prepared(build, pk=int), member.project.current_version
    with django_assert_num_queries(1):
        result = prepared.first(pk=member.pk)
        assert result.project.current_version == version


def test_a_queryset_that_ignores_a_value_is_refused():
    prepared = Prepared(lambda name, pk: named(name), name=str, pk=int)
    with pytest.raises(TypeError, match="does not use pk"):
        prepared.first(name="ada", pk=1)


def test_an_expired_session_signs_nobody_in(client):
    client.force_login(make_user())
    assert client.get("/").status_code == 200
    Session.objects.update(expire_date=timezone.now())
    assert client.get("/").status_code == 302


def test_a_deactivated_user_is_signed_out_immediately(client):
    client.force_login(user := make_user(Role.TRAINER))
    assert client.get("/").status_code == 200
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert client.get("/").status_code == 302
