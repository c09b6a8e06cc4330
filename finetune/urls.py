from django.urls import URLPattern, path

from finetune import views

urlpatterns: list[URLPattern] = [
    path("models/", views.models, name="models"),
    path("models/add/", views.add_model, name="add-model"),
    path("models/<int:pk>/", views.model, name="model"),
    path("models/<int:pk>/move/", views.move_model, name="move-model"),
    path("models/evaluations/<int:pk>/", views.evaluation, name="evaluation"),
]
