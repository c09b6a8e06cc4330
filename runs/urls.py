from django.urls import path

from runs import views

urlpatterns = [
    path("", views.run_list, name="runs"),
    path("new/", views.choose_kind, name="run-new"),
    path("new/<slug:kind>/", views.launch, name="run-launch"),
    path("<int:run_id>/", views.run_page, name="run"),
    path("<int:run_id>/live", views.run_live, name="run-live"),
    path("<int:run_id>/log", views.run_log, name="run-log"),
    path("<int:run_id>/cancel", views.run_cancel, name="run-cancel"),
    path("<int:run_id>/continue", views.run_restart, name="run-restart"),
]
