import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models import Value
from django.utils import timezone

from database import clock

LAST_USE_PRECISION = timedelta(minutes=1)
"""Precision of `Token.last_used_at`. It is updated only this often, so that few requests write it."""


KEYS_KEPT = timedelta(days=1)
"""The time for which the answer to a request with an Idempotency-Key is kept."""


class Scope(models.TextChoices):
    """An action that a token allows, if its owner has the permission too."""

    READ = "read", "Read projects, rankings, runs and models"
    LABEL = "label", "Add and withdraw tasks"
    TRAIN = "train", "Freeze data, start runs, evaluate and promote models"
    ADMIN = "admin", "Change projects, members, guidelines and webhooks"
    INFERENCE = "inference", "Score responses and chat with models"


class Role(models.TextChoices):
    REVIEWER = "reviewer", "Reviewer"
    LEAD = "lead", "Lead"
    TRAINER = "trainer", "Trainer"


class User(AbstractUser):
    """An account. A membership gives it a role in one project, which its own role limits.

    The account's role is the highest role that the account can have in a project. Leads and trainers
    may also create projects. With `all_projects`, the role applies to every project.
    """

    role = models.CharField(max_length=16, choices=Role, default=Role.REVIEWER)
    all_projects = models.BooleanField(
        "all projects",
        default=False,
        help_text="Whether a lead or trainer has this role in every project, also without membership.",
    )
    simulated = models.BooleanField(
        default=False,
        help_text="Whether this is a program instead of a person. Pages that show its rankings say so.",
    )
    link_number = models.PositiveIntegerField(
        default=0,
        editable=False,
        help_text="The number of one-time links so far. Only the newest link works.",
    )

    objects: ClassVar[UserManager["User"]] = UserManager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="user_role_known", condition=models.Q(role__in=[role.value for role in Role])
            ),
        ]

    @property
    def can_lead(self) -> bool:
        """Return whether the user may lead projects: write guidelines and see others' rankings.

        The querysets of labeling.models.Project decide which projects these are.
        """
        return self.is_active and (self.is_superuser or self.role in {Role.LEAD, Role.TRAINER})

    @property
    def can_train(self) -> bool:
        """Return whether the user may train in projects: freeze data, start runs, promote models.

        The querysets of labeling.models.Project decide which projects these are.
        """
        return self.is_active and (self.is_superuser or self.role == Role.TRAINER)

    @property
    def is_everywhere(self) -> bool:
        """Return whether the account's rights apply to every project, without a membership."""
        return self.is_active and (self.is_superuser or (self.all_projects and self.can_lead))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the account. Leads, trainers and administrators get access to the admin."""
        if self.role in {Role.LEAD, Role.TRAINER} or self.is_superuser:
            self.is_staff = True
        super().save(*args, **kwargs)


class Token(models.Model):
    """A key with which scripts use the API. It is shown once, and only its SHA-256 is stored.

    A token can do what its owner can do, within its scopes and, if it has one, its project.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tokens"
    )
    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    scopes = ArrayField(
        models.CharField(max_length=16, choices=Scope),
        default=list,
        help_text="What the token may do.",
    )
    project = models.ForeignKey(
        "labeling.Project",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="The only project that the token can use. If empty, all projects of its owner.",
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="When the token stops working. If empty, it never does."
    )
    request_minute = models.BigIntegerField(
        default=0, editable=False, help_text="The minute of the newest request, counted from 1970."
    )
    requests = models.PositiveIntegerField(
        default=0, editable=False, help_text="The number of requests in that minute."
    )
    minute = models.BigIntegerField(
        default=0, editable=False, help_text="The minute of the newest request, counted from 1970."
    )
    spent = models.PositiveIntegerField(
        default=0, editable=False, help_text="The number of responses scored in that minute."
    )

    busy_until = models.DateTimeField(
        null=True,
        editable=False,
        help_text="If a request with this token is in progress, it ends by this time.",
    )

    def __str__(self) -> str:
        return f"{self.name} of {self.user}"

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @classmethod
    def issue(
        cls,
        *,
        user: User,
        name: str,
        scopes: Iterable[str] = (Scope.INFERENCE,),
        project: Any = None,
        expires_at: datetime | None = None,
    ) -> tuple["Token", str]:
        """Create a token and return it with its key. `project` limits it to one project."""
        key = f"tb_{secrets.token_urlsafe(32)}"
        token = cls.objects.create(
            user=user,
            name=name,
            digest=cls.digest_of(key),
            scopes=[str(scope) for scope in scopes],
            project=project,
            expires_at=expires_at,
        )
        return token, key

    @classmethod
    def of_key(cls, key: str, *, expired: bool = False) -> "Token | None":
        """Return the token with this key and its user, or None if there is no such token.

        The token of an inactive user is treated as missing, and so is an expired one, unless `expired`.
        Costs one query, and once a minute a second one.
        """
        token = cls.objects.select_related("user").filter(digest=cls.digest_of(key)).first()
        if token is None or not token.user.is_active:
            return None
        if token.is_expired:
            return token if expired else None
        now = timezone.now()
        if token.last_used_at is None or token.last_used_at < now - LAST_USE_PRECISION:
            cls.objects.filter(pk=token.pk).update(last_used_at=now)
        return token

    def count_request(self) -> int:
        """Count a request, and return how many requests the token has made in this minute.

        This is one statement, so that concurrent requests are all counted.
        """
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE accounts_token SET request_minute = %(minute)s, requests ="
                " CASE WHEN request_minute = %(minute)s THEN LEAST(requests, 1000000000) + 1"
                " ELSE 1 END WHERE id = %(id)s RETURNING requests",
                {"minute": int(timezone.now().timestamp()) // 60, "id": self.pk},
            )
            row = cursor.fetchone()
        return row[0] if row else 1

    def spend(self, amount: int, *, limit: int) -> bool:
        """Add `amount` to the count of the current minute, or return False if it would exceed `limit`.

        This is one statement, so that two requests cannot both use the last unit. The first request in a
        minute is always allowed, however large it is.
        """
        minute = int(timezone.now().timestamp()) // 60
        new_minute = ~models.Q(minute=minute)
        spent = models.Case(
            models.When(new_minute, then=models.Value(amount)), default=models.F("spent") + amount
        )
        allowed = type(self).objects.filter(
            new_minute | models.Q(spent__lte=limit - amount), pk=self.pk
        )
        return allowed.update(minute=minute, spent=spent) == 1

    @contextmanager
    def turn(self, *, seconds: float) -> Iterator[bool]:
        """Reserve the token for one request at a time; yield False if another request has it.

        The reservation lasts at most `seconds`, so that it ends even if the process dies. Costs two
        queries.
        """
        until = timezone.now() + timedelta(seconds=seconds)
        free = models.Q(busy_until=None) | models.Q(busy_until__lt=timezone.now())
        acquired = type(self).objects.filter(free, pk=self.pk).update(busy_until=until) == 1
        try:
            yield acquired
        finally:
            if acquired:
                own = type(self).objects.filter(pk=self.pk, busy_until=until)
                own.update(busy_until=None)

    @staticmethod
    def digest_of(key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()


MOST_DAYS = 3650
"""The longest time after which a token can expire, in days."""


def projects_visible_to(user: User) -> Any:
    """Return the projects to which a token of the user can be limited.

    The project model decides this. This package must not import it, and gets it from the foreign key.
    """
    project: Any = Token._meta.get_field("project").related_model
    return project.objects.visible_to(user)


class IdempotentRequest(models.Model):
    """A request with an Idempotency-Key and its answer; see api.idempotency.

    The row is inserted in the transaction of the request's effects, so it exists only if they do.
    """

    token = models.ForeignKey(Token, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="SHA-256 of method, address and body.")
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    body = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint("token", "key", name="idempotency_key_once")]

    def __str__(self) -> str:
        return f"request {self.key} of {self.token}"

    @classmethod
    def forget_old(cls) -> int:
        """Delete the rows of keys that were used first more than a day ago; return their number."""
        return cls.objects.filter(created_at__lt=timezone.now() - KEYS_KEPT).delete()[0]


class UserSession(models.Model):
    """A session of a signed-in user; see sign_in.listing.

    The database deletes the row together with the session, which is not a foreign key here, so that
    Django still deletes expired sessions in one statement.
    """

    session_key = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="sessions"
    )
    signed_in_at = models.DateTimeField()
    address = models.CharField(max_length=45, blank=True)
    browser = models.CharField(max_length=60, blank=True)

    class Meta:
        ordering = ["-signed_in_at", "-id"]

    def __str__(self) -> str:
        return f"session of {self.user} since {self.signed_in_at:%Y-%m-%d %H:%M}"


class SignInAttempts(models.Model):
    """The number of recent sign-in attempts for an account or from an address; see sign_in.throttle."""

    key = models.CharField(max_length=64, primary_key=True)
    count = models.PositiveIntegerField()
    since = models.DateTimeField(db_index=True)
    recent = ArrayField(
        models.DateTimeField(),
        default=list,
        db_default=Value([], output_field=ArrayField(models.DateTimeField())),
        help_text="The times of the newest attempts that were allowed, oldest first.",
    )

    def __str__(self) -> str:
        return f"{self.count} attempts since {self.since:%H:%M}"


class AuditEntry(models.Model):
    """A record of a user's action on an object that the object itself does not show."""

    at = models.DateTimeField(default=clock.now, editable=False, db_index=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT)
    action = models.CharField(max_length=60)
    subject = models.CharField(max_length=200)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.user} {self.action} {self.subject}"


def audit(user: User | None, action: str, subject: object, **details: Any) -> AuditEntry:
    """Write an entry to the audit trail, in the caller's transaction. All entries are written here.

    `user` is None for commands and anonymous visitors. `subject` is a model instance, or a text if
    there is no row. Never pass a password or a key.
    """
    text = subject if isinstance(subject, str) else f"{subject.__class__.__name__} {subject}"
    return AuditEntry.objects.create(user=user, action=action, subject=text[:200], details=details)
