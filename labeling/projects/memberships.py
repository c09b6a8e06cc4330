"""Add, change and remove the members of a project, for the pages, the admin and the commands."""

from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, transaction

from accounts import people
from accounts.models import Role, User, audit
from labeling.models import Membership, Project

LEAD = Membership.Role.LEAD


class MembershipError(ValueError):
    """Raised if a change is refused, before anything is written. The message is for the lead."""


def problem(*, person: User, role: str) -> str:
    """Return a sentence that says why a person cannot have a role in a project, or ""."""
    if not person.is_active:
        return f"{person} cannot sign in, so they cannot be a member."
    if role == LEAD and not person.can_lead:
        return (
            f"{person} has a reviewer account. Only leads and trainers can "
            "lead a project. An administrator can change the role under People."
        )
    return ""


@transaction.atomic
def add(*, project: Project, person: User, role: str, by: User | None) -> Membership:
    """Add a person to a project. Raises MembershipError, for example if they are already a member."""
    if sentence := problem(person=person, role=role):
        raise MembershipError(sentence)
    try:
        with transaction.atomic():
            membership = Membership.objects.create(project=project, user=person, role=role)
    except IntegrityError:
        raise MembershipError(f"{person} is already a member of this project.") from None
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
    if sentence := problem(person=membership.user, role=role):
        raise MembershipError(sentence)
    if membership.role == LEAD != role:
        _keep_a_lead(membership, by)
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
    if membership.role == LEAD:
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
    if not unused or by.can_train:
        return unused
    own = Membership.objects.filter(user=by, role=LEAD).values("project")
    elsewhere = Membership.objects.filter(user__in=unused).exclude(project__in=own)
    return unused - set(elsewhere.values_list("user", flat=True))


def note(formset: Any, by: User) -> None:
    """Write the audit entries for memberships that were saved in an admin formset."""
    for membership in formset.new_objects:
        _note(by, "member added", membership)
    for membership, _fields in formset.changed_objects:
        _note(by, "member’s role changed", membership)
    for membership in formset.deleted_objects:
        _note(by, "member removed", membership)


def _note(by: User | None, action: str, membership: Membership) -> None:
    person, role = membership.user.username, membership.role
    audit(by, action, membership.project, person=person, role=role)


def _keep_a_lead(membership: Membership, by: User | None) -> None:
    """Raise MembershipError if the project would lose its last lead.

    Trainers may leave a project without a lead, because they lead every project themselves.
    """
    if by is None or by.can_train:
        return
    project = Project.objects.select_for_update().get(pk=membership.project_id)
    others = project.memberships.filter(role=LEAD).exclude(pk=membership.pk)
    if not others.filter(user__is_active=True).exclude(user__role=Role.REVIEWER).exists():
        raise MembershipError("A project needs a lead. Make another member a lead first.")
