from django.urls import include, path

from labeling.views import data, findings, imports, project, quality, review

of_a_project = [
    path("", project.overview, name="project"),
    path("guideline/", project.guideline, name="project-guideline"),
    path("quality/", quality.quality, name="project-quality"),
    path("data/", data.data, name="project-data"),
    path("data/<int:task_id>/", data.task, name="project-task"),
    path("data/import/", imports.choose, name="project-import"),
    path("data/import/<uuid:key>/", imports.look, name="project-import-look"),
    path("findings/", findings.waiting, name="project-findings"),
    path("findings/decide/", findings.decide, name="project-findings-decide"),
    path("review/", review.review, name="review"),
    path("review/slot/<int:slot_id>/skip/", review.skip, name="review-skip"),
    path("review/slot/<int:slot_id>/draft/", review.save_draft, name="review-draft"),
    path("review/slot/<int:slot_id>/renew/", review.renew, name="review-renew"),
    path("review/history/", review.history, name="review-history"),
    path("review/history/<int:ranking_id>/", review.own_ranking, name="review-ranking"),
]

urlpatterns = [
    path("review/", review.start_review, name="start-review"),
    path("p/<slug:slug>/", include(of_a_project)),
]
