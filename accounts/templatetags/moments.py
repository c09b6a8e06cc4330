from datetime import datetime

from django import template
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.zones import is_of_browser

register = template.Library()


@register.filter(expects_localtime=True)
def moment(value: datetime | None, style: str = "minute") -> SafeString | str:
    """Return a <time> element in the user's time zone, or in the server's with the zone's name.

    `style` is day, minute, long (with the year), clock or second. static/js/moments.js has the same
    styles.
    """
    if not value:
        return ""
    shapes = {
        "day": _("j M Y"),
        "minute": _("j M, H:i"),
        "long": _("j M Y, H:i"),
        "clock": "H:i",
        "second": "H:i:s",
    }
    text = formats.date_format(value, shapes[style])
    zone = value.tzname() or ""
    if style != "day" and not is_of_browser():
        text = f"{text} {zone}"
    title = f"{formats.date_format(value, shapes['long'])} {zone}"
    stamp = value.astimezone(timezone.get_default_timezone()).isoformat()
    return format_html(
        '<time datetime="{}" data-moment="{}" title="{}">{}</time>', stamp, style, title, text
    )
