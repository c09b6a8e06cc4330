"""Django's settings, read from environment variables. docs/settings.md explains each variable."""

import secrets
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from config.env import BASE_DIR, variable
from config.local.urls import is_local_database, local_database_url, local_redis_url
from config.web.connections import OutageConnection, keep_connecting

DEBUG = variable(
    "TIEBREAK_DEBUG", "0", "1 shows errors in the browser. Never use it on a public server."
).flag()

VAR_DIR = Path(
    variable("TIEBREAK_VAR", str(BASE_DIR / "var"), "Folder to which Tiebreak writes.").text()
).absolute()

RUNS_DIR = Path(
    variable(
        "TIEBREAK_RUNS_DIR", str(VAR_DIR / "runs"), "Folder that contains run directories."
    ).text()
).absolute()

UPLOADS_DIR = Path(
    variable("TIEBREAK_UPLOADS_DIR", str(VAR_DIR / "uploads"), "Folder for uploaded files.").text()
)

IMPORT_VALUE_MB = variable(
    "TIEBREAK_IMPORT_VALUE_MB", "4", "Maximum size of a line, element or row to import, in MB."
).number(minimum=1)
IMPORT_UNPACKED_MB = variable(
    "TIEBREAK_IMPORT_UNPACKED_MB", "2048", "Maximum unpacked size of a compressed file, in MB."
).number(minimum=1)
IMPORT_ROWS = variable(
    "TIEBREAK_IMPORT_ROWS", "5000000", "Maximum number of rows in an imported file."
).number(minimum=1)
IMPORT_SECONDS = variable(
    "TIEBREAK_IMPORT_SECONDS", "3600", "Maximum CPU time for reading a file, in seconds."
).number(minimum=1)
IMPORT_MEMORY_MB = variable(
    "TIEBREAK_IMPORT_MEMORY_MB", "512", "Maximum memory for reading a file, in MB."
).number(minimum=64)

SNAPSHOTS_DIR = Path(
    variable("TIEBREAK_SNAPSHOTS_DIR", str(VAR_DIR / "snapshots"), "Folder for snapshots.").text()
).absolute()

DATABASE_URL = variable(
    "DATABASE_URL",
    "",
    "postgresql:// URL of the database. If empty, a local PostgreSQL under var/ is used.",
)
REDIS_URL = variable(
    "REDIS_URL", "", "redis:// URL of the broker. If empty, a local Redis under var/ is used."
)


def _local_secret_key() -> str:
    """Return the key that is stored with the local data. It is created on first use, with mode 0600."""
    path = VAR_DIR / "secret_key"
    if not path.exists():
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".secret_key.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


_secret_key = variable(
    "TIEBREAK_SECRET_KEY", "", "Key that signs sessions. Required with DATABASE_URL."
).text()
if (
    not _secret_key
    and DATABASE_URL.text()
    and not DEBUG
    and not is_local_database(VAR_DIR, DATABASE_URL.text())
):
    raise ImproperlyConfigured(
        "TIEBREAK_SECRET_KEY is not set. With DATABASE_URL set, every web process needs the same "
        "secret: set it to 50 random characters."
    )
SECRET_KEY = _secret_key or _local_secret_key()

ALLOWED_HOSTS = variable(
    "TIEBREAK_ALLOWED_HOSTS",
    "localhost,127.0.0.1,[::1]",
    "Host names to serve, separated by commas.",
).words()
CSRF_TRUSTED_ORIGINS = variable(
    "TIEBREAK_CSRF_TRUSTED_ORIGINS",
    "",
    "Origins from which forms are accepted, such as https://rank.example.org, separated by commas.",
).words()
HTTPS = variable(
    "TIEBREAK_HTTPS", "0", "Set to 1 behind a TLS proxy, for secure cookies, redirects and HSTS."
).flag()

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.forms",
    "django_htmx",
    "csp",
    "accounts",
    "runs",
    "labeling",
    "reward",
    "finetune",
    "demo",
    "config",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.web.outage.OutageMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "accounts.zones.BrowserZone",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.sign_in.sessions.extend_active_sessions",
    "accounts.sign_in.throttle.answer_429",
    "config.web.limits.limit_bodies",
    "config.web.limits.refuse_null_characters",
    "config.web.limits.keep_private",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "config.web.limits.explain_wrong_method",
    "config.web.faults.StorageFaults",
]

ROOT_URLCONF = "config.urls"
# Tiebreak is served at the root of its host. Without this setting, a client's header could change it.
FORCE_SCRIPT_NAME = ""
HEADER_SECONDS = variable(
    "TIEBREAK_HEADER_SECONDS", "10", "Time limit for receiving a request's header, in seconds."
).number(minimum=1)
BODY_SECONDS = variable(
    "TIEBREAK_BODY_SECONDS",
    "20",
    "Time limit for receiving a body, in seconds, plus 1 s per 50 kB.",
).number(minimum=1)
READ_SECONDS = variable(
    "TIEBREAK_READ_SECONDS",
    "20",
    "A client that reads less than 2 kB/s for this many seconds is disconnected.",
).number(minimum=1)
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]


def _database(url: str) -> dict[str, Any]:
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError as error:
        raise ImproperlyConfigured(f"DATABASE_URL is not a PostgreSQL URL: {error}") from None
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", "tiebreak"),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": parts.pop("port", ""),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            **parts,
            "pool": {
                "connection_class": OutageConnection,
                "min_size": 1,
                "max_size": 16,
                "timeout": 10,
                "max_idle": 60,
                # psycopg_pool doubles the pause after each failed attempt. Giving up after half a second
                # starts with a short pause again, so the site recovers soon after its database does.
                "reconnect_timeout": 0.5,
                "reconnect_failed": keep_connecting,
            },
            "prepare_threshold": 5,
        },
    }


DATABASES = {"default": _database(DATABASE_URL.text() or local_database_url(VAR_DIR))}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "shared": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "django_cache",
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "accounts.backends.PasswordBackend",
    "accounts.roles.RoleBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
PASSWORD_RESET_TIMEOUT = 3600 * variable(
    "TIEBREAK_LINK_HOURS", "72", "How many hours a one-time link to set a password works."
).number(minimum=1)
SIGN_IN_FAILURES = variable(
    "TIEBREAK_SIGN_IN_FAILURES",
    "10",
    "Number of wrong passwords after which an account is blocked.",
).number(minimum=1)
SIGN_IN_FAILURES_BY_ADDRESS = variable(
    "TIEBREAK_SIGN_IN_FAILURES_BY_ADDRESS",
    "50",
    "Number of wrong passwords after which an address is blocked.",
).number(minimum=1)
SIGN_IN_MINUTES = variable(
    "TIEBREAK_SIGN_IN_MINUTES", "15", "How many minutes a failed attempt counts."
).number(minimum=1)
PROXIES = variable(
    "TIEBREAK_PROXIES", "0", "Number of your proxies that append to X-Forwarded-For."
).number()
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

FORM_RENDERER = "config.web.forms.Renderer"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_SECURE = HTTPS
TIME_ZONE = variable(
    "TIEBREAK_TIME_ZONE",
    "UTC",
    "Time zone for statistics, commands and browsers that do not send their own.",
).text()
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_ENGINE = "accounts.sign_in.sessions"
SESSION_IDLE_HOURS = variable(
    "TIEBREAK_SESSION_IDLE_HOURS",
    "12",
    "Users are signed out after this many hours without activity.",
).number(minimum=1)
SESSION_MAX_HOURS = variable(
    "TIEBREAK_SESSION_MAX_HOURS", "336", "Users are signed out after this many hours in any case."
).number(minimum=1)
SESSION_COOKIE_AGE = SESSION_MAX_HOURS * 3600
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "django.views.csrf.csrf_failure"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}

CELERY_BROKER_URL = REDIS_URL.text() or local_redis_url(VAR_DIR)
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_PUBLISH_RETRY = False  # each attempt may wait for the broker, and the reaper retries
# Messages are acknowledged early, so that a worker survives a restart of Redis. No work is lost, because
# messages only wake workers, and the reaper finds work without a message in the database.
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # A page that starts a run waits this long for an unreachable broker. The reaper then sends the
    # message later.
    "socket_connect_timeout": 0.5,
    "socket_timeout": 1,
    "max_retries": 1,
    "interval_start": 0,
    "interval_max": 0.2,
}
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"runs.tasks.execute": {"queue": "gpu"}}

RUN_LEASE_SECONDS = variable(
    "TIEBREAK_RUN_LEASE_SECONDS",
    "30",
    "A run returns to the queue if its worker is silent for this many seconds.",
).number(minimum=2)
RUN_MAX_ATTEMPTS = variable(
    "TIEBREAK_RUN_MAX_ATTEMPTS", "3", "Maximum number of times that a run is started."
).number(minimum=1)
RUN_GRACE_SECONDS = variable(
    "TIEBREAK_RUN_GRACE_SECONDS",
    "60",
    "How many seconds a cancelled run may take to write a checkpoint.",
).number(minimum=1)
RUNS_AT_ONCE = variable(
    "TIEBREAK_RUNS_AT_ONCE",
    "1",
    "Maximum number of concurrent runs per machine, each on its own GPUs.",
).number(minimum=1)

SCORER_SOCKET = Path(
    variable(
        "TIEBREAK_SCORER_SOCKET", str(VAR_DIR / "scorer.sock"), "Path of the scorer's socket."
    ).text()
).absolute()
SCORER_SECONDS = variable(
    "TIEBREAK_SCORER_SECONDS",
    "30",
    "How many seconds the API waits for scores before it answers 503.",
).number(minimum=1)
SCORER_AT_ONCE = variable(
    "TIEBREAK_SCORER_AT_ONCE", "2", "Number of requests per web process that may wait for scores."
).number(minimum=1)
SCORER_WAITING = variable(
    "TIEBREAK_SCORER_WAITING", "16", "Number of requests that may wait in the scorer's own queue."
).number(minimum=1)
SCORER_IDLE_SECONDS = variable(
    "TIEBREAK_SCORER_IDLE_SECONDS",
    "600",
    "The scorer unloads a model that was idle for this many seconds.",
).number(minimum=1)
SCORER_MEMORY_MB = variable(
    "TIEBREAK_SCORER_MEMORY_MB",
    "0",
    "Maximum memory of the scorer in MB. 0 means half of the machine's.",
).number()
SCORER_MODELS = variable(
    "TIEBREAK_SCORER_MODELS", "1", "Number of reward models that the scorer keeps loaded."
).number(minimum=1)
API_RESPONSES_A_MINUTE = variable(
    "TIEBREAK_API_RESPONSES_A_MINUTE",
    "6000",
    "Number of responses that a token may have scored per minute.",
).number(minimum=1)
API_CHARACTERS = variable(
    "TIEBREAK_API_CHARACTERS", "500000", "Maximum number of characters in an API request."
).number(minimum=1)

CELERY_BEAT_SCHEDULE = {
    "reap-runs": {"task": "runs.tasks.reap", "schedule": max(1, RUN_LEASE_SECONDS // 3)},
    "release-leases": {"task": "labeling.tasks.release_expired_leases", "schedule": 30},
    "reap-file-imports": {"task": "labeling.importing.tasks.reap_file_imports", "schedule": 10},
    "forget-sign-ins": {"task": "accounts.tasks.forget_old_sign_ins", "schedule": 3600},
    "count-large-projects": {"task": "labeling.tasks.count_large_projects", "schedule": 300},
}
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR_DIR / "celerybeat-schedule")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "filters": {"outages": {"()": "config.web.outage.OutagesWithoutTraceback"}},
    "loggers": {
        "tiebreak": {"level": "INFO"},
        "django.request": {"filters": ["outages"]},
        "psycopg.pool": {
            "level": "ERROR"
        },  # psycopg warns at each failed connection, but tiebreak.outage logs an outage only once
    },
}
