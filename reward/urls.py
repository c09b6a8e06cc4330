from django.urls import URLPattern, path

from reward import download_views, export_views, mistake_views, order_views, views

urlpatterns: list[URLPattern] = [
    path("p/<slug:slug>/data/export/", export_views.choose, name="project-export"),
    path("p/<slug:slug>/data/export/file/", export_views.download, name="project-export-file"),
    path("p/<slug:slug>/data/export/about/", export_views.about, name="project-export-about"),
    path("p/<slug:slug>/data/order/", order_views.show, name="queue-order"),
    path("p/<slug:slug>/data/order/back/", order_views.put_back, name="queue-order-put-back"),
    path("p/<slug:slug>/label-mistakes/", mistake_views.listed, name="project-label-mistakes"),
    path("snapshots/", views.snapshots, name="snapshots"),
    path("snapshots/new/", views.new_snapshot, name="new-snapshot"),
    path("snapshots/<int:pk>/", views.snapshot, name="snapshot"),
    path("snapshots/<int:pk>/rankings/", views.snapshot_rankings, name="snapshot-rankings"),
    path("snapshots/<int:pk>/file/", views.snapshot_file, name="snapshot-file"),
    path("models/reward/<int:pk>/", views.reward_model, name="reward-model"),
    *(
        path(
            f"models/reward/<int:pk>/{part}/",
            download_views.download,
            {"part": part},
            name=f"reward-model-{part}",
        )
        for part in ("archive", "card", "report")
    ),
    path("models/reward/<int:pk>/move/", views.move_reward_model, name="move-reward-model"),
]
