from django.contrib.auth.views import LogoutView
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from accounts import profile, reset, tokens, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", views.SignIn.as_view(), name="login"),
    path("login/", views.SignIn.as_view(), name="account_login"),  # allauth's name for it
    path("admin/login/", views.AdminSignIn.as_view(), name="admin-login"),
    path("", include("accounts.sign_in.urls")),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("password/", views.ChangePassword.as_view(), name="change-password"),
    path("password/reset/", reset.ask, name="reset-password"),
    path("profile/", profile.show, name="profile"),
    path("profile/sessions/<int:session_id>/end/", profile.end_session, name="end-session"),
    path("profile/sessions/end/", profile.end_other_sessions, name="end-other-sessions"),
    path("link/<uidb64>/<token>/", views.OneTimeLink.as_view(), name="one-time-link"),
    path("tokens/", tokens.tokens, name="tokens"),
    path("tokens/<int:token_id>/revoke/", tokens.revoke, name="token-revoke"),
    path("people/", views.people_list, name="people"),
    path("people/<int:user_id>/", views.person, name="person"),
    path("people/<int:user_id>/sessions/end/", profile.end_sessions_of, name="person-sessions"),
    path("people/<int:user_id>/link/", views.new_link, name="person-link"),
    # The admin's own form would write no audit entry.
    path("admin/password_change/", RedirectView.as_view(pattern_name="change-password")),
]
