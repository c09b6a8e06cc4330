"""Django's settings, read from environment variables. docs/settings.md explains each variable."""

import re
import secrets
import sys
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from buckets import addresses
from config.env import BASE_DIR, variable
from config.local.urls import is_local_database, local_database_url, local_redis_url
from config.notices import check_webhook, mail_server
from config.web import static_files
from config.web.connections import OutageConnection, keep_connecting
from serving.address import Server, VLLMServer

DEBUG = variable(
    "TIEBREAK_DEBUG", "0", "1 shows errors in the browser. Never use it on a public server."
).flag()

VAR_DIR = Path(
    variable("TIEBREAK_VAR", str(BASE_DIR / "var"), "Folder to which Tiebreak writes.").text()
).absolute()

try:
    STORAGE = addresses.read(
        variable(
            "TIEBREAK_STORAGE",
            "",
            "Root of all stored files: file:///FOLDER, s3://, abfs:// or gs://BUCKET/PREFIX.",
        ).text()
    )
except addresses.WrongAddress as _error:
    raise ImproperlyConfigured(f"TIEBREAK_STORAGE: {_error}") from None
_files = STORAGE if isinstance(STORAGE, Path) else VAR_DIR

CACHE_GB = variable(
    "TIEBREAK_CACHE_GB",
    "100",
    "Size of the local copies of an object store, in GB. 0 means no limit.",
).number()

RUNS_DIR = Path(
    variable(
        "TIEBREAK_RUNS_DIR", str(_files / "runs"), "Folder that contains run directories."
    ).text()
).absolute()

UPLOADS_DIR = Path(
    variable("TIEBREAK_UPLOADS_DIR", str(_files / "uploads"), "Folder for uploaded files.").text()
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

ENDPOINTS = Path(
    variable(
        "TIEBREAK_ENDPOINTS",
        str(VAR_DIR / "endpoints.toml"),
        "TOML file with the OpenAI-compatible servers that runs may use.",
    ).text()
).absolute()

MLFLOW_TRACKING_URI = (
    variable(
        "MLFLOW_TRACKING_URI",
        "",
        "Address of an MLflow server for the curves of runs and promoted models.",
    )
    .text()
    .rstrip("/")
)
MLFLOW_TRACKING_TOKEN = variable("MLFLOW_TRACKING_TOKEN", "", "Bearer token for MLflow.").text()
MLFLOW_TRACKING_USERNAME = variable(
    "MLFLOW_TRACKING_USERNAME", "", "User name for MLflow, if it has no token."
).text()
MLFLOW_TRACKING_PASSWORD = variable("MLFLOW_TRACKING_PASSWORD", "", "Password of this user.").text()

MLFLOW_EXPERIMENT_NAME = variable(
    "MLFLOW_EXPERIMENT_NAME", "", "Experiment that gets the curves of runs, or one per project."
).text()
WANDB_API_KEY = variable(
    "WANDB_API_KEY", "", "Key of Weights & Biases for the curves of runs."
).text()
WANDB_OFFLINE = (
    variable(
        "WANDB_MODE", "online", "offline writes the files of Weights & Biases without a key."
    ).text()
    == "offline"
)
variable("WANDB_PROJECT", "", "Project in Weights & Biases, or one per project of Tiebreak.")
variable("WANDB_ENTITY", "", "Team or user in Weights & Biases.")
variable("WANDB_BASE_URL", "", "Address of your own server of Weights & Biases.")

SITE_URL = (
    variable(
        "TIEBREAK_URL", "", "Address of the site for links in notices, as https://rank.example.org."
    )
    .text()
    .rstrip("/")
)
NOTIFY = variable(
    "TIEBREAK_NOTIFY", "ended", "Which runs cause a notice: ended for all, or failed."
).choice("ended", "failed")
EMAIL_URL = variable(
    "TIEBREAK_EMAIL_URL",
    "",
    "Mail server for notices, invitations and password links: smtp://USER:PASSWORD@HOST:587, or smtps:// with TLS from the start.",
).text()
EMAIL_FROM = variable("TIEBREAK_EMAIL_FROM", "tiebreak@localhost", "Sender of e-mails.").text()
if EMAIL_URL:
    _mail = mail_server(EMAIL_URL)
    EMAIL_HOST, EMAIL_PORT = _mail.host, _mail.port
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail.user, _mail.password
    EMAIL_USE_TLS, EMAIL_USE_SSL = _mail.starttls, _mail.tls
EMAIL_TIMEOUT = 10
WEBHOOK_URL = variable(
    "TIEBREAK_WEBHOOK_URL", "", "Address that gets a signed POST request when a run has ended."
).text()
WEBHOOK_SECRET = variable(
    "TIEBREAK_WEBHOOK_SECRET", "", "Key that signs these requests. Required with the address."
).text()
WEBHOOK_PRIVATE = variable(
    "TIEBREAK_WEBHOOK_PRIVATE",
    "0",
    "1 allows webhooks in the private network, those of projects included.",
).flag()
if WEBHOOK_URL:
    check_webhook(WEBHOOK_URL, WEBHOOK_SECRET)

SNAPSHOTS_DIR = Path(
    variable("TIEBREAK_SNAPSHOTS_DIR", str(_files / "snapshots"), "Folder for snapshots.").text()
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

CERTIFICATE_KEY = variable(
    "TIEBREAK_CERTIFICATE_KEY",
    "",
    "Private key that signs certificates: 64 hexadecimal digits. If empty, TIEBREAK_SECRET_KEY is used.",
).text()
if CERTIFICATE_KEY and not re.fullmatch(r"[0-9a-fA-F]{64}", CERTIFICATE_KEY):
    raise ImproperlyConfigured(
        "TIEBREAK_CERTIFICATE_KEY must have 64 hexadecimal digits. Make one with: openssl rand -hex 32"
    )

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
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.mfa",
    "accounts",
    "webhooks",
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
    "config.web.request_ids.RequestIds",
    "config.web.metrics.ApiDurations",
    "config.web.outage.OutageMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "accounts.zones.BrowserZone",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.sign_in.sessions.extend_active_sessions",
    "accounts.sign_in.throttle.answer_429",
    "config.web.limits.limit_bodies",
    "config.web.limits.refuse_null_characters",
    "config.web.limits.keep_private",
    "django.contrib.messages.middleware.MessageMiddleware",
    "accounts.sign_in.second_factor.require_second_factor",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "config.web.limits.explain_wrong_method",
    "config.web.faults.StorageFaults",
]

ROOT_URLCONF = "config.urls"
PATH_PREFIX = variable(
    "TIEBREAK_PATH_PREFIX",
    "",
    "Path under which Tiebreak is served, such as /tiebreak. If empty, it is the root of the host.",
).path_prefix()
# Without this setting, a client's header could change the prefix.
FORCE_SCRIPT_NAME = PATH_PREFIX
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = LANGUAGE_COOKIE_PATH = f"{PATH_PREFIX}/"
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
            # If the network to the server is cut, a statement fails after this time instead of minutes.
            "tcp_user_timeout": 20_000,
            "keepalives_idle": 20,
            "keepalives_interval": 5,
            "keepalives_count": 3,
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
SIGN_IN_TRIES_A_MINUTE = variable(
    "TIEBREAK_SIGN_IN_TRIES_A_MINUTE",
    "10",
    "Number of failed attempts to sign in per minute, for an account and from an address.",
).number(minimum=1)
PASSWORDS = variable(
    "TIEBREAK_PASSWORDS", "1", "0 turns passwords off, so that people use an identity provider."
).flag()
PROVIDERS = Path(
    variable(
        "TIEBREAK_PROVIDERS",
        str(VAR_DIR / "providers.toml"),
        "TOML file with the identity providers for single sign-on.",
    ).text()
).absolute()
SECOND_FACTOR_ROLES = variable(
    "TIEBREAK_SECOND_FACTOR",
    "",
    "Roles that need a second factor, separated by commas, such as administrator,trainer.",
).choices("reviewer", "lead", "trainer", "administrator")

# django-allauth. Its own limits count in the memory of a process; accounts.sign_in.throttle replaces them.
ACCOUNT_ADAPTER = "accounts.sign_in.adapters.AccountAdapter"
ACCOUNT_EMAIL_NOTIFICATIONS = False
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_RATE_LIMITS = False
ACCOUNT_REAUTHENTICATION_METHODS = ["password", "mfa"] if PASSWORDS else ["mfa"]
ACCOUNT_SIGNUP_FIELDS = ["username*"]
ACCOUNT_UNIQUE_EMAIL = False
SOCIALACCOUNT_ADAPTER = "config.sign_in.ProviderAdapter"
MFA_ADAPTER = "accounts.sign_in.adapters.SecondFactorAdapter"
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_FORMS = {
    "authenticate": "accounts.sign_in.second_factor.CodeForm",
    "reauthenticate": "accounts.sign_in.second_factor.ConfirmCodeForm",
    "add_webauthn": "accounts.sign_in.passkeys.AddForm",
    "authenticate_webauthn": "accounts.sign_in.passkeys.SecondFactorForm",
    "login_webauthn": "accounts.sign_in.passkeys.SignInForm",
    "reauthenticate_webauthn": "accounts.sign_in.passkeys.ConfirmForm",
    "edit_webauthn": "accounts.sign_in.passkeys.NameForm",
}
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RATE_LIMITS = False
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_TOTP_ISSUER = "Tiebreak"
MFA_TOTP_TOLERANCE = 1
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

STATICFILES_DIRS = [BASE_DIR / "static"]
# With debugging, files may change while the server runs, so browsers must not keep them.
STATIC_VERSION = "" if DEBUG else f"{static_files.version_of(BASE_DIR / 'static')}/"
STATIC_CDN = variable(
    "TIEBREAK_STATIC_URL",
    "",
    "Address of a CDN that gets static files from /static/, such as https://cdn.example.org/static/.",
).address()
STATIC_URL = f"{STATIC_CDN or 'static/'}{STATIC_VERSION}"
WHITENOISE_STATIC_PREFIX = f"/static/{STATIC_VERSION}"
WHITENOISE_USE_FINDERS = True
WHITENOISE_IMMUTABLE_FILE_TEST = static_files.is_immutable
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
LIVE_PORT = variable(
    "TIEBREAK_LIVE_PORT",
    "0",
    "Port on which browsers reach the live server directly. 0 means that the proxy passes /live/ to it.",
).number()
_static_sources = [SELF, *(["/".join(STATIC_CDN.split("/")[:3])] if STATIC_CDN else [])]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": _static_sources,
        "style-src": _static_sources,
        "img-src": [*_static_sources, "data:"],
        "font-src": _static_sources,
        "connect-src": [
            SELF,
            *(f"ws://{host}:{LIVE_PORT}" for host in ("127.0.0.1", "localhost") if LIVE_PORT),
        ],
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
CELERY_TASK_ROUTES = {
    "runs.tasks.execute": {"queue": "gpu"},
    "runs.tasks.measure_forecast": {"queue": "gpu"},
}

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

LAUNCHER = variable(
    "TIEBREAK_LAUNCHER",
    "local",
    "Where runs are executed: local for the machines of workers, or ray for jobs of a Ray cluster.",
).choice("local", "ray")
RAY_ADDRESS = (
    variable(
        "TIEBREAK_RAY_ADDRESS",
        "",
        "Address of the Ray cluster's dashboard, such as http://10.0.0.5:8265.",
    )
    .text()
    .rstrip("/")
)
if LAUNCHER == "ray" and not re.fullmatch(r"https?://[^\s/@?#]+", RAY_ADDRESS):
    raise ImproperlyConfigured(
        f"TIEBREAK_RAY_ADDRESS is {RAY_ADDRESS!r}; with TIEBREAK_LAUNCHER=ray, it must be the address of "
        "the cluster's dashboard, such as http://10.0.0.5:8265."
    )
RAY_TOKEN = variable(
    "TIEBREAK_RAY_TOKEN", "", "Token of the Ray cluster, if it requires one (RAY_AUTH_MODE=token)."
).text()
RAY_FOLDER = variable(
    "TIEBREAK_RAY_FOLDER", str(BASE_DIR), "Folder of manage.py on the nodes of the Ray cluster."
).text()
RAY_PYTHON = variable(
    "TIEBREAK_RAY_PYTHON", sys.executable, "Python with Tiebreak's packages on these nodes."
).text()
RAY_CPUS = variable(
    "TIEBREAK_RAY_CPUS", "1", "Number of CPUs that a job of the Ray cluster reserves."
).number(minimum=1)
RAY_GPUS = variable(
    "TIEBREAK_RAY_GPUS",
    "1",
    "Number of GPUs of a job whose program can use several. Others get one. 0 means no GPUs.",
).number()
RAY_RESOURCES = variable(
    "TIEBREAK_RAY_RESOURCES", "", "Further resources that a node must have, such as tiebreak=1."
).amounts()
RAY_PENDING_JOBS = variable(
    "TIEBREAK_RAY_PENDING_JOBS", "1", "Number of jobs that may wait in the Ray cluster."
).number(minimum=1)
RAY_START_SECONDS = variable(
    "TIEBREAK_RAY_START_SECONDS",
    "300",
    "A job that has not claimed its run after this many seconds is stopped and submitted again.",
).number(minimum=1)

PRICE_PER_HOUR = variable(
    "TIEBREAK_PRICE_PER_HOUR",
    "",
    "Price of an hour of a run's machine, for forecasts of cost, such as 2.50 EUR.",
).price()

MODEL_SERVER = Server(
    variable(
        "TIEBREAK_MODEL_SERVER",
        f"unix:{VAR_DIR / 'models.sock'}",
        "Address of the model server: unix:/PATH or HOST:PORT.",
    ).text(),
    variable(
        "TIEBREAK_MODEL_SERVER_TOKEN",
        "",
        "Secret that the web server and the model server share. Required for other machines.",
    ).text(),
    variable(
        "TIEBREAK_MODEL_SERVER_CA",
        "",
        "PEM file of the certificate by which the web server recognises the model server.",
    ).text(),
)
VLLM = VLLMServer(
    variable(
        "TIEBREAK_VLLM_URL",
        "",
        "Address of a vLLM server that answers for promoted adapters, such as http://127.0.0.1:8100.",
    )
    .text()
    .rstrip("/"),
    variable("TIEBREAK_VLLM_KEY", "", "API key of the vLLM server.").text(),
)
MODEL_SERVER_CERTIFICATE = variable(
    "TIEBREAK_MODEL_SERVER_CERTIFICATE", "", "PEM file of the model server's certificate."
).text()
MODEL_SERVER_KEY = variable(
    "TIEBREAK_MODEL_SERVER_KEY", "", "PEM file of the private key of this certificate."
).text()
MODEL_SERVER_IDLE_SECONDS = variable(
    "TIEBREAK_MODEL_SERVER_IDLE_SECONDS",
    "600",
    "The model server unloads its models after this many seconds without a request.",
).number(minimum=1)
MODEL_SERVER_MEMORY_MB = variable(
    "TIEBREAK_MODEL_SERVER_MEMORY_MB",
    "0",
    "Maximum memory of the model server in MB. 0 means half of the machine's, or the whole GPU's.",
).number()
MODEL_SERVER_ADAPTERS = variable(
    "TIEBREAK_MODEL_SERVER_ADAPTERS", "8", "Number of adapters that it keeps loaded per base model."
).number(minimum=1)
MODEL_SERVER_STREAMS = variable(
    "TIEBREAK_MODEL_SERVER_STREAMS", "64", "Number of requests that it answers at the same time."
).number(minimum=1)
MODEL_SERVER_WAITING = variable(
    "TIEBREAK_MODEL_SERVER_WAITING", "64", "Number of further requests that may wait."
).number()
MODEL_SERVER_MAX_TOKENS = variable(
    "TIEBREAK_MODEL_SERVER_MAX_TOKENS", "4096", "Maximum number of tokens of an answer."
).number(minimum=1)
CHAT_DTYPE = variable(
    "TIEBREAK_CHAT_DTYPE",
    "fast",
    "Number format of the answers on the chat page: fast, auto, float32, bfloat16, float16 or int8.",
).choice("fast", "auto", "float32", "bfloat16", "float16", "int8")
API_SCORE_SECONDS = variable(
    "TIEBREAK_API_SCORE_SECONDS",
    "30",
    "How many seconds the API waits for scores before it answers 503.",
).number(minimum=1)
API_AT_ONCE = variable(
    "TIEBREAK_API_AT_ONCE",
    "2",
    "Number of threads of a web process that may wait for the model server.",
).number(minimum=1)
API_RESPONSES_A_MINUTE = variable(
    "TIEBREAK_API_RESPONSES_A_MINUTE",
    "6000",
    "Number of responses that a token may have scored per minute.",
).number(minimum=1)
API_CHARACTERS = variable(
    "TIEBREAK_API_CHARACTERS", "500000", "Maximum number of characters in an API request."
).number(minimum=1)

API_REQUESTS_A_MINUTE = variable(
    "TIEBREAK_API_REQUESTS_A_MINUTE",
    "600",
    "Number of API requests that a token may make per minute.",
).number(minimum=1)

API_STREAMS = variable(
    "TIEBREAK_API_STREAMS",
    "64",
    "Number of chat answers in progress per token and web process.",
).number(minimum=1)
API_CHAT_SECONDS = variable(
    "TIEBREAK_API_CHAT_SECONDS", "300", "Maximum time of a chat answer of the API, in seconds."
).number(minimum=1)

METRICS_TOKEN = variable(
    "TIEBREAK_METRICS_TOKEN",
    "",
    "Token with which Prometheus reads /metrics/. Without one, there are no metrics.",
).text()

CELERY_BEAT_SCHEDULE = {
    "send-notices": {"task": "runs.tasks.send_notices", "schedule": 15},
    "send-webhooks": {"task": "webhooks.tasks.send_webhooks", "schedule": 5},
    "forget-deliveries": {"task": "webhooks.tasks.forget_deliveries", "schedule": 3600},
    "announce-finished": {"task": "labeling.tasks.announce_finished_projects", "schedule": 15},
    "reap-runs": {"task": "runs.tasks.reap", "schedule": max(1, RUN_LEASE_SECONDS // 3)},
    "release-leases": {"task": "labeling.tasks.release_expired_leases", "schedule": 30},
    "reap-file-imports": {"task": "labeling.importing.tasks.reap_file_imports", "schedule": 10},
    "forget-sign-ins": {"task": "accounts.tasks.forget_old_sign_ins", "schedule": 3600},
    "forget-keys": {"task": "accounts.tasks.forget_old_keys", "schedule": 3600},
    "count-large-projects": {"task": "labeling.tasks.count_large_projects", "schedule": 300},
    "deliver-promotions": {"task": "finetune.tasks.deliver_promotions", "schedule": 30},
    "stop-evaluations": {"task": "finetune.tasks.stop_decided_evaluations", "schedule": 10},
}
CELERY_BEAT_SCHEDULER = "config.scheduler:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR_DIR / "celerybeat-schedule")

LOG_FORMAT = variable(
    "TIEBREAK_LOG_FORMAT", "text", "Format of log lines: text, or json for one object per line."
).choice("text", "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "formatting.log_lines.TextFormatter"},
        "json": {"()": "formatting.log_lines.JsonFormatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
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
