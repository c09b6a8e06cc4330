"""The page on which people make and revoke their own tokens for the API."""

from datetime import timedelta
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import user_of
from accounts.models import Scope, Token, User, audit, projects_visible_to

MOST_TOKENS = 50
DAYS = {7: "7 days", 30: "30 days", 90: "90 days", 365: "1 year", 0: "Never"}


class TokenForm(forms.Form):
    name = forms.CharField(
        max_length=80, help_text="What the token is for, such as nightly export."
    )
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        initial=[Scope.READ],
        widget=forms.CheckboxSelectMultiple,
        help_text="A token can never do more than you can.",
        error_messages={"required": "Choose at least one scope."},
    )
    project: Any = forms.ModelChoiceField(
        queryset=Token.objects.none(),
        required=False,
        empty_label="All my projects",
        to_field_name="slug",
    )
    days = forms.TypedChoiceField(
        choices=list(DAYS.items()), coerce=int, initial=90, label="Expires after"
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.user = user
        project: Any = self.fields["project"]
        project.queryset = projects_visible_to(user).order_by("name")

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if self.user.tokens.count() >= MOST_TOKENS:
            self.add_error(None, f"You have {MOST_TOKENS} tokens. Revoke one first.")
        return values


@transaction.atomic
def issue(*, user: User, form: TokenForm) -> tuple[Token, str]:
    """Make a token from a valid form, and return it with its key."""
    values = form.cleaned_data
    days = values["days"]
    token, key = Token.issue(
        user=user,
        name=values["name"],
        scopes=values["scopes"],
        project=values["project"],
        expires_at=timezone.now() + timedelta(days=days) if days else None,
    )
    audit(user, "token issued", token, scopes=token.scopes)
    return token, key


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """List the user's tokens and, on POST, make one and show its key once."""
    user = user_of(request)
    form = TokenForm(request.POST if request.method == "POST" else None, user=user)
    key = ""
    if request.method == "POST" and form.is_valid():
        _, key = issue(user=user, form=form)
        form = TokenForm(user=user)
    context = {
        "form": form,
        "key": key,
        "tokens": user.tokens.select_related("project").order_by("-pk"),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/tokens.html", context, status=status)


@login_required
@require_POST
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Revoke one of the user's own tokens. It stops working immediately."""
    user = user_of(request)
    token = get_object_or_404(user.tokens, pk=token_id)
    with transaction.atomic():
        audit(user, "token deleted", token)
        token.delete()
    messages.success(request, f"The token {token.name} was revoked.")
    return redirect("tokens")
