from django.urls import include, path

from labeling.views import (
    confirmation,
    data,
    disputes,
    gold,
    history,
    others,
    project,
    quality,
    relabel,
    review,
    settings,
)

of_a_project = [
    path("", project.overview, name="project"),
    path("guideline/", project.guideline, name="project-guideline"),
    path("quality/", quality.quality, name="project-quality"),
    path("data/", data.data, name="project-data"),
    path("data/<int:task_id>/", data.task, name="project-task"),
    path("gold/", gold.gold_list, name="project-gold"),
    path("gold/<int:gold_id>/", gold.gold_detail, name="project-gold-detail"),
    path("gold/<int:gold_id>/retire/", gold.gold_retire, name="project-gold-retire"),
    path("gold/make/<int:task_id>/", gold.gold_make, name="project-gold-make"),
    path("gold/allow/<int:user_id>/", gold.allow_again, name="project-gold-allow"),
    path("disputes/", disputes.disputes, name="project-disputes"),
    path("disputes/<int:task_id>/", disputes.dispute, name="project-dispute"),
    path("relabel/", relabel.relabel, name="project-relabel"),
    path("settings/", settings.settings, name="project-settings"),
    path("review/", review.review, name="review"),
    path("review/feedback/<int:ranking_id>/", gold.feedback, name="review-feedback"),
    path("review/qualification/", gold.own_qualification, name="review-qualification"),
    path("review/next/", review.next_sheet, name="review-next"),
    path("review/guideline/", confirmation.confirm_guideline, name="review-guideline"),
    path("review/slot/<int:slot_id>/skip/", review.skip, name="review-skip"),
    path("review/slot/<int:slot_id>/draft/", review.save_draft, name="review-draft"),
    path("review/slot/<int:slot_id>/renew/", review.renew, name="review-renew"),
    path("review/history/", history.history, name="review-history"),
    path("review/history/<int:ranking_id>/", history.own_ranking, name="review-ranking"),
    path("review/history/<int:ranking_id>/undo/", review.undo, name="review-undo"),
    path("review/history/<int:ranking_id>/others/", others.others, name="review-others"),
]

urlpatterns = [
    path("review/", review.start_review, name="start-review"),
    path("p/<slug:slug>/", include(of_a_project)),
]
