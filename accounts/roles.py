"""The permissions that each role has in the admin. docs/people.md describes the roles.

The querysets of the admins limit the rows to the user's projects (labeling.admin.big_tables, runs.admin).
Outside the admin, the first line of each view decides access: leads, trainers and administrators may
create projects; a membership makes a user a reviewer, lead or trainer of one project; only administrators
manage accounts.
"""

from typing import Any

from django.contrib.auth.backends import BaseBackend

from accounts.models import Role, User

LEAD_PERMISSIONS = {
    "labeling": {"add", "change", "delete", "view"},
}
TRAINER_PERMISSIONS = {
    **LEAD_PERMISSIONS,
    "runs": {"view"},
    "reward": {"view", "change"},
    "finetune": {"view", "add", "change"},
}
PERMISSIONS = {Role.LEAD: LEAD_PERMISSIONS, Role.TRAINER: TRAINER_PERMISSIONS}


class RoleBackend(BaseBackend):
    """A backend that grants permissions according to the role. It authenticates nobody."""

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
