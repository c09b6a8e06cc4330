from collections.abc import Callable
from typing import Any, NamedTuple

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User

register = template.Library()


class Item(NamedTuple):
    section: str
    label: str | Promise
    url_name: str
    shown_to: Callable[[User], bool]


def anyone(user: User) -> bool:
    return True


ITEMS = (
    Item("review", _("Review"), "start-review", anyone),
    Item("projects", _("Projects"), "projects", anyone),
    Item("snapshots", _("Snapshots"), "snapshots", lambda user: user.can_lead),
    Item("runs", _("Runs"), "runs", lambda user: user.can_lead),
    Item("models", _("Models"), "models", lambda user: user.can_lead),
    Item("chats", _("Chats"), "chats", lambda user: user.can_lead),
    Item("people", _("People"), "people", lambda user: user.is_superuser),
    Item("admin", _("Admin"), "admin:index", lambda user: user.is_staff),
)


@register.inclusion_tag("navigation.html", takes_context=True)
def navigation(context: template.Context) -> dict[str, Any]:
    """Return the menu entries that the user may open. Costs no query."""
    request = context.get("request")
    user = getattr(request, "user", None)
    if request is None or not isinstance(user, User):
        return {"items": []}
    section = context.get("section", "")
    items = []
    for item in ITEMS:
        if item.shown_to(user) and (url := _address(item.url_name)):
            current = section == item.section or request.path.startswith(url)
            items.append({"label": item.label, "url": url, "current": current})
    return {"items": items}


def _address(name: str) -> str:
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""
