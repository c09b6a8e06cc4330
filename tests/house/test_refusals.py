"""A page of a role says whom it is for, in the reader's language."""

import pytest
from django.urls import reverse

from accounts.models import Role
from tests.labeling.test_blindness import signed_in
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
def test_a_page_of_another_role_says_whom_it_is_for(role, page, english, german):
    client = signed_in(make_user(role))
    for language, sentence in (("en", english), ("de", german)):
        refused = client.get(reverse(page), headers={"accept-language": language})
        assert refused.status_code == 403
        assert sentence in refused.content.decode()
