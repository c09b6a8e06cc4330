"""Sign-in through identity providers, with the memberships of projects that their claims give."""

import logging

from accounts.models import User
from accounts.sign_in import adapters
from accounts.sign_in.claims import Grant
from accounts.sign_in.providers import Provider
from labeling.projects import provisioning

logger = logging.getLogger("tiebreak.sign_in")


class ProviderAdapter(adapters.ProviderAdapter):
    """The rules of accounts, and the memberships of projects."""

    def apply(self, provider: Provider, person: User, grant: Grant) -> None:
        super().apply(provider, person, grant)
        person.refresh_from_db()
        problems = provisioning.apply(
            person=person, memberships=grant.memberships, managed=grant.managed_projects
        )
        for problem in problems:
            logger.warning("The identity provider %s: %s", provider.name, problem)
