from http import HTTPStatus
from typing import Any

from allauth.account.internal.flows.login import (
    perform_login,
    perform_password_login,
    record_authentication,
)
from allauth.account.models import Login
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import (
    INTERNAL_RESET_SESSION_TOKEN,
    LoginView,
    PasswordChangeView,
    PasswordResetConfirmView,
)
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse, reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts import people
from accounts.access import administrator_required, user_of
from accounts.forms import ThrottledPasswordChange
from accounts.models import User, audit
from accounts.sign_in import listing, throttle
from accounts.sign_in.adapters import refusal as refused
from accounts.sign_in.providers import offered

PEOPLE_PER_PAGE = 50


@method_decorator(never_cache, name="dispatch")
class SignIn(LoginView):
    """The sign-in page, with passwords, passkeys and identity providers."""

    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not settings.PASSWORDS:
            raise PermissionDenied(
                _("Passwords are turned off. Sign in through your organisation.")
            )
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        """Continue to the second factor, if the account has one, and sign the user in."""
        login = Login(user=form.get_user(), redirect_url=self.get_redirect_url() or None)
        credentials = {"username": form.get_user().get_username()}
        return perform_password_login(self.request, credentials, login)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        providers = offered()
        nobody = not providers and not people.anyone_can_sign_in()
        return super().get_context_data(
            nobody=nobody,
            passwords=settings.PASSWORDS,
            providers=list(providers.values()),
            **context,
        )


class AdminSignIn(SignIn):
    """The sign-in page at the address that Django's admin redirects to."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        user = request.user
        if isinstance(user, User) and not user.is_staff:
            raise PermissionDenied(_("Only leads, trainers and administrators may see this page."))
        return super().dispatch(request, *args, **kwargs)

    def get_default_redirect_url(self) -> str:
        return reverse("admin:index")


@method_decorator(never_cache, name="dispatch")
class ChangePassword(PasswordChangeView):
    """The page on which users change their password. This ends their other sessions."""

    template_name = "accounts/password.html"
    form_class = ThrottledPasswordChange
    success_url = reverse_lazy("profile")

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "request": self.request}

    @transaction.atomic
    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        # Django only refuses the other sessions. Their rows would still be listed on the profile page.
        listing.end_all(form.user, keep=self.request.session.session_key)
        audit(user_of(self.request), "password changed", form.user)
        messages.success(self.request, _("Your password was changed."))
        return response


@method_decorator(never_cache, name="dispatch")
class OneTimeLink(PasswordResetConfirmView):
    """The page that a one-time link opens. It sets a password and signs the user in."""

    template_name = "accounts/one_time_link.html"
    token_generator = people.link_tokens
    success_url = reverse_lazy("home")

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        """Count a wrong link as an attempt to sign in from the address."""
        try:
            with throttle.address_attempt(self.request) as attempt:
                response = super().dispatch(*args, **kwargs)
                if getattr(self, "validlink", True):
                    attempt.succeed()
        except throttle.Throttled as refusal:
            return refused(self.request, refusal.messages[0], status=HTTPStatus.TOO_MANY_REQUESTS)
        return response

    def get_form_class(self) -> Any:
        return super().get_form_class() if settings.PASSWORDS else people.LinkForm

    @transaction.atomic
    def form_valid(self, form: Any) -> HttpResponse:
        # Because of the lock, a link works only once even if two requests arrive together.
        person = User.objects.select_for_update().get(pk=form.user.pk)
        token = self.request.session.get(INTERNAL_RESET_SESSION_TOKEN)
        if not people.link_tokens.check_token(person, token):
            self.validlink = False
            return self.render_to_response(self.get_context_data(form=None))
        people.use_link(person=person)
        super().form_valid(form)
        listing.end_all(person, keep=self.request.session.session_key)
        if settings.PASSWORDS:
            audit(person, "password set by a one-time link", person)
        form.user.refresh_from_db()
        record_authentication(self.request, form.user, method="link")
        response = perform_login(self.request, Login(user=form.user))
        if settings.PASSWORDS and self.request.user.is_authenticated:
            messages.success(self.request, _("Your password is set, and you are signed in."))
        return response


# --- people, for administrators ------------------------------------------------------------------


@administrator_required
@require_http_methods(["GET", "POST"])
def people_list(request: HttpRequest) -> HttpResponse:
    """List the accounts and, on POST, create one."""
    form = people.PersonForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        person = people.create(form=form, by=user_of(request))
        return link_page(request, person, reverse_lazy("people"))
    query = request.GET.get("q", "").strip().replace("\x00", "")
    accounts = User.objects.order_by("username")
    if query:
        accounts = accounts.filter(username__icontains=query)
    page = Paginator(accounts, PEOPLE_PER_PAGE).get_page(request.GET.get("page"))
    context = {"form": form, "page": page, "query": query, "section": "people"}
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/people.html", context, status=status)


@administrator_required
@require_http_methods(["GET", "POST"])
def person(request: HttpRequest, user_id: int) -> HttpResponse:
    """Show an account's role and rights and, on POST, change them."""
    account = get_object_or_404(User, pk=user_id)
    data = request.POST if request.method == "POST" else None
    form = people.RoleForm(data, instance=account)
    if request.method == "POST" and form.is_valid():
        if account == request.user and {"is_active", "is_superuser"} & set(form.changed_data):
            form.add_error(None, "You cannot remove your own rights.")
        else:
            changed = people.change(form=form, by=user_of(request))
            messages.success(request, "Saved." if changed else "Nothing was changed.")
            return redirect("people")
    context = {
        "form": form, "person": User.objects.get(pk=user_id), "section": "people",
    }  # fmt: skip
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/person.html", context, status=status)


@administrator_required
@require_POST
def new_link(request: HttpRequest, user_id: int) -> HttpResponse:
    """Issue a one-time link for the account and show it."""
    account = get_object_or_404(User, pk=user_id)
    return link_page(request, account, reverse_lazy("people"))


@never_cache
def link_page(request: HttpRequest, person: User, back: Any) -> HttpResponse:
    """Issue a one-time link for a person and show it. Loading the page again issues a new link.

    The calling view must have checked access.
    """
    try:
        path = people.issue_link(person=person, by=user_of(request))
    except people.LinkError as error:
        messages.error(request, str(error))
        return redirect(back)
    context = {
        "person": person,
        "link": request.build_absolute_uri(path),
        "hours": settings.PASSWORD_RESET_TIMEOUT // 3600,
        "back": back,
    }
    return render(request, "accounts/link.html", context)
