from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from accounts import people
from accounts.access import user_of
from accounts.models import AuditEntry, Token, User, audit
from accounts.views import link_page

AUDITED = ("role", "all_projects", "is_active", "is_superuser", "is_staff")

# Groups give no rights here. Providers are declared in a file, and second factors contain secrets.
admin.site.unregister([Group, EmailAddress, SocialAccount, SocialApp, SocialToken, Authenticator])


class TokenInline(admin.TabularInline):
    model = Token
    extra = 0
    fields = readonly_fields = ("name", "created_at", "last_used_at")
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(admin.ModelAdmin):
    """The admin for accounts. New users set their own password through a one-time link."""

    list_display = ("username", "name", "role", "is_active", "simulated", "last_login")
    list_filter = ("role", "all_projects", "is_active", "simulated", "is_superuser")
    search_fields = ("username", "first_name", "last_name", "email")
    ordering = ("username",)
    show_full_result_count = False
    list_per_page = 50
    inlines = (TokenInline,)
    change_form_template = "admin/accounts/user/change_form.html"
    fieldsets = (
        (None, {"fields": ("username", "role", "all_projects", "is_active", "is_superuser")}),
        ("Person", {"fields": ("first_name", "last_name", "email", "simulated")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "first_name", "last_name", "role", "all_projects")}),
    )
    readonly_fields = ("last_login", "date_joined", "simulated")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else self.add_fieldsets

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any
    ) -> Any:
        if obj is None:
            options = {"form": people.PersonForm, **options}
        return super().get_form(request, obj, change, **options)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """Refuse filters on the password hash, which could reveal it character by character."""
        return not lookup.startswith("password") and super().lookup_allowed(lookup, value, request)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """Redirect to the page for erasing if the account has rankings, which must keep their author."""
        account = self.get_object(request, object_id)
        allowed = account is not None and self.has_delete_permission(request, account)
        if account is not None and allowed and account.rankings.exists():
            return redirect("erase-person", account.pk)
        return super().delete_view(request, object_id, extra_context)

    @admin.display(description="Name")
    def name(self, user: User) -> str:
        return user.get_full_name()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the account, set its access to the admin by its role, and write an audit entry."""
        if "role" in form.changed_data or "is_superuser" in form.changed_data:
            obj.is_staff = obj.is_superuser or obj.role != "reviewer"
        super().save_model(request, obj, form, change)
        changed = {name: getattr(obj, name) for name in AUDITED if name in form.changed_data}
        if changed or not change:
            audit(user_of(request), "user changed" if change else "user added", obj, **changed)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        audit(user_of(request), "user deleted", obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for user in queryset:
            audit(user_of(request), "user deleted", user)
        super().delete_queryset(request, queryset)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        """Show the link with which the new person sets a password."""
        return link_page(request, obj, reverse("admin:accounts_user_change", args=[obj.pk]))


@admin.register(Token)
class TokenAdmin(admin.ModelAdmin):
    """The admin for tokens. A new token's key is shown once; deleting a token revokes it."""

    list_display = ("name", "user", "scopes", "project", "expires_at", "last_used_at")
    list_select_related = ("user", "project")
    search_fields = ("name", "user__username")
    autocomplete_fields = ("user",)
    fields = ("user", "name")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        token, key = Token.issue(user=obj.user, name=obj.name)
        obj.pk = token.pk
        audit(user_of(request), "token issued", token)
        self.message_user(request, f"The key is {key}. It is shown only once.", messages.WARNING)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        audit(user_of(request), "token deleted", obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for token in queryset.select_related("user"):
            audit(user_of(request), "token deleted", token)
        super().delete_queryset(request, queryset)


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin):
    """The audit trail, which administrators can read but not change."""

    list_display = ("at", "user", "action", "subject", "details")
    list_select_related = ("user",)
    search_fields = ("action", "subject", "user__username")
    search_help_text = "An action such as “sign-in failed”, a subject, or a username."
    date_hierarchy = "at"
    show_full_result_count = False
    list_per_page = 50
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
