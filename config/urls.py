from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from api.graphql.view import graphql
from config.web.api import urls as api
from config.web.health import health
from config.web.language import Catalog
from config.web.metrics import metrics
from config.web.readiness import ready
from config.web.static_files import current
from config.web.views import home, projects

handler400 = "config.web.limits.bad_request"
handler500 = "config.web.outage.server_error"

urlpatterns: list[URLPattern | URLResolver] = [
    path("", home, name="home"),
    path("projects/", projects, name="projects"),
    path("", include("labeling.urls")),
    path("", include("accounts.urls")),
    path("runs/", include("runs.urls")),
    path("", include("reward.urls")),
    path("", include("finetune.urls")),
    path("i18n.js", Catalog.as_view(), name="words"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/graphql", graphql, name="graphql"),
    path("api/v1/", api),
    path("v1/", include("finetune.serving.urls")),
    path("static/<path:path>", current, name="static-file"),
    path("health/", health, name="health"),
    path("ready/", ready, name="ready"),
    path("metrics/", metrics, name="metrics"),
    path("admin/", admin.site.urls),
]
