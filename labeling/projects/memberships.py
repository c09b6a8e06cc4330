"""Add, change and remove the members of a project, for the pages, the admin and the commands."""

from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, transaction

from accounts import people
from accounts.models import Role, User, audit
from labeling.models import Membership, Project

RANKS = {"reviewer": 0, "lead": 1, "trainer": 2}
"""The roles of accounts and of members. A role includes the rights of those with a smaller number."""

NO_LEAD = "A project needs a lead. Make another member a lead first."


class MembershipError(ValueError):
    """Raised if a change is refused, before anything is written. The message is for the lead."""


def leads_as(*, person: User | None, role: str) -> bool:
    """Return whether a person with this role in a project leads it, or will when it is saved.

    The role of an account follows a higher role in a project.
    """
    return person is not None and person.is_active and RANKS.get(role, 0) >= RANKS["lead"]


def rank_in(project: Project | None, user: User) -> int:
    """Return the rank of a user's role in a project, or -1 for none. At most one query.

    The project is None if it is about to be created, which makes a lead or trainer its first member.
    """
    if user.is_superuser:
        return RANKS["trainer"] if user.is_active else -1
    if user.is_everywhere or project is None:
        return RANKS[user.role]
    membership = Membership.objects.filter(project=project, user=user).first()
    return min(RANKS[membership.role], RANKS[user.role]) if membership and user.is_active else -1


def can_grant(*, by: User | None, person: User | None, role: str, project: Project | None) -> bool:
    """Return whether a user may give a person a role in the project. At most one query.

    Nobody can give a role above their own, except to a person whose account already has it: there, an
    administrator or the lead of another project has decided this. `person` is None for someone without
    an account, and `by` is None for commands.
    """
    if by is None or (person is not None and RANKS[role] <= RANKS[person.role]):
        return True
    return RANKS[role] <= rank_in(project, by)


def problem(*, person: User, role: str, by: User | None, project: Project | None) -> str:
    """Return a sentence that says why a person cannot get a role in a project, or ""."""
    if not person.is_active:
        return f"{person} cannot sign in, so they cannot be a member."
    if not can_grant(by=by, person=person, role=role, project=project):
        return (
            f"Only trainers of the project can make {person} a trainer, because the account has a "
            "lower role. An administrator can change the role under People."
        )
    return ""


def raise_account(*, person: User, role: str, by: User | None) -> None:
    """Give the account of a new lead or trainer this role, if its role is lower.

    Administrators keep theirs, because they have all rights anyway. The caller must have checked that the
    role may be given.
    """
    if RANKS[role] <= RANKS[person.role] or person.is_superuser:
        return
    person.role, person.is_staff = role, True
    person.save(update_fields=["role", "is_staff"])
    audit(by, "user changed", person, role=role)


@transaction.atomic
def add(*, project: Project, person: User, role: str, by: User | None) -> Membership:
    """Add a person to a project. Raises MembershipError, for example if they are already a member."""
    if sentence := problem(person=person, role=role, by=by, project=project):
        raise MembershipError(sentence)
    try:
        with transaction.atomic():
            membership = Membership.objects.create(project=project, user=person, role=role)
    except IntegrityError:
        raise MembershipError(f"{person} is already a member of this project.") from None
    raise_account(person=person, role=role, by=by)
    _note(by, "member added", membership)
    return membership


@transaction.atomic
def create_person(*, project: Project, form: people.PersonForm, role: str, by: User) -> User:
    """Create an account, and make its owner a member of the project. Raises MembershipError."""
    person = people.create(form=form, by=by)
    add(project=project, person=person, role=role, by=by)
    return person


@transaction.atomic
def change_role(*, membership: Membership, role: str, by: User | None) -> bool:
    """Change a member's role; return whether it was different. Raises MembershipError."""
    person, project = membership.user, membership.project
    if sentence := problem(person=person, role=role, by=by, project=project):
        raise MembershipError(sentence)
    if RANKS[role] < RANKS["lead"] <= RANKS[membership.role]:
        _keep_a_lead(membership, by)
    raise_account(person=person, role=role, by=by)
    changed = Membership.objects.filter(pk=membership.pk).exclude(role=role).update(role=role)
    if changed:
        membership.role = role
        _note(by, "member’s role changed", membership)
    return bool(changed)


@transaction.atomic
def remove(*, membership: Membership, by: User | None) -> None:
    """End a membership. The member's rankings are kept. Raises MembershipError.

    A trigger frees the member's leases.
    """
    if RANKS[membership.role] >= RANKS["lead"]:
        _keep_a_lead(membership, by)
    Membership.objects.filter(pk=membership.pk).delete()
    _note(by, "member removed", membership)


def linkable(by: User, persons: Iterable[User]) -> set[int]:
    """Return the ids of those people for whom a user may create a one-time sign-in link.

    Administrators may create links for everyone. A lead could use a link to sign in as that person, so
    leads may create them only for reviewers whose account has never been used and who are in no project
    of another lead. Costs at most one query.
    """
    active = [person for person in persons if person.is_active and not person.simulated]
    if by.is_superuser or not by.can_lead:
        return {person.pk for person in active if by.is_superuser}
    unused = {
        person.pk
        for person in active
        if person.role == Role.REVIEWER
        and not person.is_staff
        and not person.has_usable_password()
        and person.last_login is None
    }
    if not unused or by.is_everywhere:
        return unused
    own = Membership.objects.leading().filter(user=by).values("project")
    elsewhere = Membership.objects.filter(user__in=unused).exclude(project__in=own)
    return unused - set(elsewhere.values_list("user", flat=True))


def note(formset: Any, by: User) -> None:
    """Finish the changes of memberships that were saved in an admin formset: accounts, audit entries."""
    for membership in formset.new_objects:
        raise_account(person=membership.user, role=membership.role, by=by)
        _note(by, "member added", membership)
    for membership, _fields in formset.changed_objects:
        raise_account(person=membership.user, role=membership.role, by=by)
        _note(by, "member’s role changed", membership)
    for membership in formset.deleted_objects:
        _note(by, "member removed", membership)


def _note(by: User | None, action: str, membership: Membership) -> None:
    person, role = membership.user.username, membership.role
    audit(by, action, membership.project, person=person, role=role)


def _keep_a_lead(membership: Membership, by: User | None) -> None:
    """Raise MembershipError if the project would lose its last lead.

    Users who lead every project may leave one without a lead.
    """
    if by is None or by.is_everywhere:
        return
    project = Project.objects.select_for_update().get(pk=membership.project_id)
    others = Membership.objects.leading().filter(project=project).exclude(pk=membership.pk)
    if not others.filter(user__is_active=True).exclude(user__role=Role.REVIEWER).exists():
        raise MembershipError(NO_LEAD)
