"""Tests of the 403 page, which names the roles that have access."""

import pytest
from django.urls import reverse

from accounts.models import Role
from tests.clients import signed_in
from tests.labeling.world import make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("role", "page", "english", "german"),
    [
        (Role.REVIEWER, "models", "Only leads may", "nur für Leitungen"),
        (Role.LEAD, "run-new", "Only trainers may", "nur für Trainierende"),
        (Role.TRAINER, "people", "Only administrators may", "nur für die Administration"),
    ],
)
def test_the_403_page_names_the_roles_with_access(role, page, english, german):
    client = signed_in(make_user(role))
    for language, sentence in (("en", english), ("de", german)):
        refused = client.get(reverse(page), headers={"accept-language": language})
        assert refused.status_code == 403
        assert sentence in refused.content.decode()
