from django.urls import URLPattern, path

from finetune import views
from finetune.removal import views as removal_views

urlpatterns: list[URLPattern] = [
    path(
        "p/<slug:slug>/data/erase/<str:kind>/<int:pk>/",
        removal_views.erase_content,
        name="erase-content",
    ),
    path("p/<slug:slug>/delete/", removal_views.delete_project, name="delete-project"),
    path("people/<int:pk>/erase/", removal_views.erase_person, name="erase-person"),
    path("models/", views.models, name="models"),
    path("models/add/", views.add_model, name="add-model"),
    path("models/<int:pk>/", views.model, name="model"),
    *(
        path(f"models/<int:pk>/{part}/", views.download, {"part": part}, name=f"model-{part}")
        for part in ("archive", "card", "report")
    ),
    path("models/<int:pk>/move/", views.move_model, name="move-model"),
    path("models/evaluations/<int:pk>/", views.evaluation, name="evaluation"),
]
