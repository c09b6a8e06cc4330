"""What a role may do in the admin.

On the product's pages the first line of each view decides, by the same roles: leads, trainers and
administrators create projects, and the creator of one leads it; a membership says who leads or
reviews in a project; trainers lead every project; administrators alone manage accounts. See
docs/people.md. Which rows a lead sees in the admin is decided by labeling.admin.big_tables.
"""

from typing import Any

from django.contrib.auth.backends import BaseBackend

from accounts.models import Role, User

LEAD_MAY = {
    "labeling": {"add", "change", "delete", "view"},
}
TRAINER_MAY = {
    **LEAD_MAY,
    "runs": {"view"},
    "reward": {"view", "change"},
    "finetune": {"view", "add", "change"},
}
PERMISSIONS = {Role.LEAD: LEAD_MAY, Role.TRAINER: TRAINER_MAY}


class RoleBackend(BaseBackend):
    """Grants model permissions by role; it never authenticates anyone."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        if not isinstance(user_obj, User) or not user_obj.is_active:
            return False
        app, _, codename = perm.partition(".")
        allowed = PERMISSIONS.get(Role(user_obj.role), {}).get(app, set())
        return codename.partition("_")[0] in allowed

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        if not isinstance(user_obj, User) or not user_obj.is_active:
            return False
        return app_label in PERMISSIONS.get(Role(user_obj.role), {})
