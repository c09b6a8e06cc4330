from django.urls import path

from runs import views
from runs.catalog.views import run_archive, run_list, run_notes
from runs.comparison.views import compare
from runs.disk.views import disk
from runs.launching import views as launching
from runs.launching.forecast_panel import forecast

urlpatterns = [
    path("", run_list, name="runs"),
    path("compare/", compare, name="run-compare"),
    path("disk/", disk, name="run-disk"),
    path("queue/", views.run_queue, name="run-queue"),
    path("new/", launching.choose_kind, name="run-new"),
    path("new/<slug:kind>/", launching.launch, name="run-launch"),
    path("new/<slug:kind>/preview", launching.launch_preview, name="run-preview"),
    path("new/<slug:kind>/first-batch", launching.launch_first_batch, name="run-first-batch"),
    path("new/<slug:kind>/forecast", forecast, name="run-forecast"),
    path("<int:run_id>/", views.run_page, name="run"),
    path("<int:run_id>/live", views.run_live, name="run-live"),
    path("<int:run_id>/log", views.run_log, name="run-log"),
    path("<int:run_id>/notes", run_notes, name="run-notes"),
    path("<int:run_id>/archive", run_archive, name="run-archive"),
    path("<int:run_id>/priority", views.run_priority, name="run-priority"),
    path("<int:run_id>/cancel", views.run_cancel, name="run-cancel"),
    path("<int:run_id>/continue", views.run_restart, name="run-restart"),
]
