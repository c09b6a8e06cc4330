from django.urls import URLPattern, path

from reward.pages import downloads, exports, mistakes, order, views

urlpatterns: list[URLPattern] = [
    path("p/<slug:slug>/data/export/", exports.choose, name="project-export"),
    path("p/<slug:slug>/data/export/file/", exports.download, name="project-export-file"),
    path("p/<slug:slug>/data/export/about/", exports.about, name="project-export-about"),
    path("p/<slug:slug>/data/order/", order.show, name="queue-order"),
    path("p/<slug:slug>/data/order/undo/", order.undo, name="queue-order-undo"),
    path("p/<slug:slug>/label-mistakes/", mistakes.show, name="project-label-mistakes"),
    path("snapshots/", views.snapshots, name="snapshots"),
    path("snapshots/new/", views.new_snapshot, name="new-snapshot"),
    path("snapshots/<int:pk>/", views.snapshot, name="snapshot"),
    path("snapshots/<int:pk>/rankings/", views.snapshot_rankings, name="snapshot-rankings"),
    path("snapshots/<int:pk>/file/", views.snapshot_file, name="snapshot-file"),
    path("models/reward/<int:pk>/", views.reward_model, name="reward-model"),
    *(
        path(
            f"models/reward/<int:pk>/{part}/",
            downloads.download,
            {"part": part},
            name=f"reward-model-{part}",
        )
        for part in ("archive", "card", "report")
    ),
    path("models/reward/<int:pk>/onnx/", downloads.download_onnx, name="reward-model-onnx"),
    path("models/reward/<int:pk>/move/", views.move_reward_model, name="move-reward-model"),
]
