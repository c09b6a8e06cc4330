import hashlib
import secrets

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from labeling.models.projects import Membership, Project

MAX_DAYS, MAX_USES = 90, 1000


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def open(self) -> "InvitationQuerySet":
        """Return the invitations that have not been revoked or used up, and have not expired."""
        return self.filter(revoked_at=None, expires_at__gt=timezone.now(), uses__lt=F("max_uses"))


class Invitation(models.Model):
    """A link with which people join a project, with or without an account.

    The link is shown once, and only the SHA-256 of its key is stored. It is valid as long as the person
    who made it may give its role; see labeling.projects.invitations.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(
        max_length=16, choices=Membership.Role, default=Membership.Role.REVIEWER
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)
    email = models.EmailField(blank=True, help_text="The address to which the link was sent.")
    max_uses = models.PositiveSmallIntegerField(
        default=1, help_text="The number of people who can join with the link."
    )
    uses = models.PositiveSmallIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )

    objects = InvitationQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                name="invitation_role_known", condition=Q(role__in=["reviewer", "lead", "trainer"])
            ),
            models.CheckConstraint(
                name="invitation_uses",
                condition=Q(max_uses__range=(1, MAX_USES), uses__lte=F("max_uses")),
            ),
        ]

    def __str__(self) -> str:
        return f"invitation {self.pk} to {self.project}"

    @property
    def is_open(self) -> bool:
        return (
            self.revoked_at is None
            and self.expires_at > timezone.now()
            and self.uses < self.max_uses
        )

    @staticmethod
    def new_key() -> str:
        """Return a key with 256 random bits, in letters, digits, hyphens and underscores."""
        return secrets.token_urlsafe(32)

    @staticmethod
    def digest_of(key: str) -> str:
        return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
