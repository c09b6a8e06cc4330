from django.urls import URLPattern, path

from finetune.serving import views

urlpatterns: list[URLPattern] = [
    path("models", views.models, name="openai-models"),
    path("models/<path:name>", views.one_model, name="openai-model"),
    path("chat/completions", views.chat_completions, name="openai-chat"),
    path("", views.not_found, name="openai-root"),
    path("<path:rest>", views.not_found),
]
