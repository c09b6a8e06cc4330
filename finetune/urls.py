from django.urls import URLPattern, path

from finetune import views
from finetune.chat import views as chat_views
from finetune.removal import views as removal_views

urlpatterns: list[URLPattern] = [
    path(
        "p/<slug:slug>/data/erase/<str:kind>/<int:pk>/",
        removal_views.erase_content,
        name="erase-content",
    ),
    path("p/<slug:slug>/delete/", removal_views.delete_project, name="delete-project"),
    path(
        "p/<slug:slug>/members/<int:user_id>/withdraw/",
        removal_views.withdraw_reviewer,
        name="withdraw-reviewer",
    ),
    path("p/<slug:slug>/withdrawals/", removal_views.withdrawals, name="withdrawals"),
    path("p/<slug:slug>/withdrawals/<int:pk>/", removal_views.withdrawal, name="withdrawal"),
    path(
        "p/<slug:slug>/withdrawals/<int:pk>/train/", removal_views.train_again, name="train-again"
    ),
    path("people/<int:pk>/erase/", removal_views.erase_person, name="erase-person"),
    path("models/", views.models, name="models"),
    path("models/add/", views.add_model, name="add-model"),
    path("models/<int:pk>/", views.model, name="model"),
    *(
        path(f"models/<int:pk>/{part}/", views.download, {"part": part}, name=f"model-{part}")
        for part in ("archive", "card", "report")
    ),
    path("models/<int:pk>/move/", views.move_model, name="move-model"),
    path("p/<slug:slug>/regression/", views.regression_set, name="regression-set"),
    path("p/<slug:slug>/certificates/", views.certificates, name="certificates"),
    path("models/certificates/<int:pk>/", views.certificate, name="certificate"),
    path(
        "models/certificates/<int:pk>/download/",
        views.download_certificate,
        name="certificate-download",
    ),
    path("chats/", chat_views.chats, name="chats"),
    path("chats/<int:pk>/", chat_views.chat, name="chat"),
    path("chats/<int:pk>/reveal/", chat_views.reveal, name="reveal-chat"),
    path("chats/<int:pk>/delete/", chat_views.delete, name="delete-chat"),
    path("chats/<int:pk>/<int:turn_number>/", chat_views.turn, name="chat-turn"),
    path("chats/<int:pk>/<int:turn_number>/vote/", chat_views.vote, name="vote-in-chat"),
    path("chats/<int:pk>/<int:turn_number>/correct/", chat_views.correct, name="correct-in-chat"),
    path("chats/<int:pk>/<int:turn_number>/queue/", chat_views.queue, name="queue-chat"),
    path("models/evaluations/<int:pk>/", views.evaluation, name="evaluation"),
]
