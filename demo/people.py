"""The demo's accounts: three for people who try the demo, and those of the simulated reviewers."""

import json
import secrets
from pathlib import Path

from django.conf import settings

from accounts.models import Role, User

PEOPLE = {
    "ada": (Role.TRAINER, "Ada", "launches runs, compares, promotes"),
    "june": (Role.LEAD, "June", "writes the guideline, watches quality"),
    "otis": (Role.REVIEWER, "Otis", "ranks answers"),
}


def passwords_file() -> Path:
    return settings.VAR_DIR / "demo_accounts.json"


def ensure_people() -> dict[str, User]:
    """Return the three accounts. On first use, create them with random passwords in a private file."""
    passwords = _passwords()
    people = {}
    for username, (role, first_name, _) in PEOPLE.items():
        user, created = User.objects.get_or_create(
            username=username, defaults={"role": role, "first_name": first_name}
        )
        if created:
            user.set_password(passwords[username])
            user.save(update_fields=["password"])
        people[username] = user
    return people


def _passwords() -> dict[str, str]:
    path = passwords_file()
    if not path.exists():
        passwords = {username: secrets.token_urlsafe(9) for username in PEOPLE}
        path.touch(mode=0o600)
        path.write_text(json.dumps(passwords, indent=2) + "\n")
    return json.loads(path.read_text())


def sign_in_lines() -> list[str]:
    """Return a line with name, password and role for each account whose password was not changed."""
    passwords = _passwords()
    return [
        f"  {username:<6} {passwords[username]:<14} {tasks}"
        for username, (_, _, tasks) in PEOPLE.items()
        if User.objects.get(username=username).check_password(passwords[username])
    ]


def simulated_reviewer(name: str) -> User:
    user, _ = User.objects.get_or_create(
        username=f"{name.lower()}-simulated",
        defaults={"first_name": name, "simulated": True, "is_active": False},
    )
    return user
