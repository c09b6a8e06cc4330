"""The profile page: a user's name, e-mail address, password, sessions and tokens."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts import zones
from accounts.access import administrator_required, user_of
from accounts.models import User, audit
from accounts.sign_in import listing, throttle


class ProfileForm(forms.ModelForm):
    """A user's own name and e-mail address.

    A new address needs the password, because links to set a password can be sent to it.
    """

    current_password = forms.CharField(
        label=gettext_lazy("Current password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
        help_text=gettext_lazy("Only needed to change the e-mail address."),
    )

    class Meta:
        model = User
        fields = ("first_name", "last_name", "email")

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.request = request
        self.email_before = self.instance.email
        if not self.instance.has_usable_password():
            del self.fields["current_password"]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        changes_email = "email" in values and values["email"] != self.email_before
        if changes_email and "current_password" in self.fields:
            try:
                self._check_password(values.get("current_password", ""))
            except ValidationError as error:
                self.add_error("current_password", error)
        return values

    def _check_password(self, password: str) -> None:
        """Raise ValidationError for a wrong password, which counts as a failed attempt to sign in."""
        if not password:
            raise ValidationError(_("Enter your password to change the e-mail address."))
        with throttle.attempt(self.request, self.instance.get_username()) as attempt:
            if not self.instance.check_password(password):
                raise ValidationError(_("The password is wrong."))
            attempt.succeed()


@transaction.atomic
def change(*, form: ProfileForm, by: User) -> bool:
    """Save the changes in a valid form, and return whether there were any.

    The audit trail names the changed fields, without their values.
    """
    changed = [name for name in form.changed_data if name in ProfileForm.Meta.fields]
    if changed:
        form.instance.save(update_fields=changed)
        audit(by, "profile changed", by, fields=changed)
    return bool(changed)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def show(request: HttpRequest) -> HttpResponse:
    """Show the user's profile and, on POST, change it."""
    user = user_of(request)
    account = User.objects.get(pk=user.pk)  # the form changes it, also if it is invalid
    data = request.POST if request.method == "POST" else None
    form = ProfileForm(data, instance=account, request=request)
    if request.method == "POST" and form.is_valid():
        if change(form=form, by=user):
            messages.success(request, _("Your profile was saved."))
        return redirect("profile")
    context = {
        "form": form,
        "sessions": listing.sessions_of(user, request.session.session_key),
        "tokens": user.tokens.order_by("-pk"),
        "zone_of_browser": zones.is_of_browser(),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/profile.html", context, status=status)


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: int) -> HttpResponse:
    """End one of the user's sessions. Others' sessions look as if they had already ended."""
    user = user_of(request)
    if listing.end(user, [session_id]):
        audit(user, "session ended", user)
        messages.success(request, _("The session has ended."))
    else:
        messages.info(request, _("The session had already ended."))
    return redirect("profile")


@login_required
@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    """End all of the user's sessions except the current one."""
    user = user_of(request)
    if number := listing.end_all(user, keep=request.session.session_key):
        audit(user, "sessions ended", user, number=number)
    messages.success(request, _("You are signed out everywhere else."))
    return redirect("profile")


@administrator_required
@require_POST
def end_sessions_of(request: HttpRequest, user_id: int) -> HttpResponse:
    """End all sessions of an account. The administrator's current session continues."""
    person = get_object_or_404(User, pk=user_id)
    number = listing.end_all(person, keep=request.session.session_key)
    if number:
        audit(user_of(request), "sessions ended", person, number=number)
    messages.success(request, f"{person} is signed out everywhere.")
    return redirect("person", user_id)
