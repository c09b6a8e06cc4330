"""Names for responses on pages where they are judged blind.

Ids show which response was stored first, so a reviewer could guess from them which model wrote which
response. Pages therefore name a response by a hash of its task and id, keyed with SECRET_KEY.
"""

from collections.abc import Iterable, Mapping

from django.utils.crypto import salted_hmac

IN_FIELDS = ("rank", "flag", "rating")
"""Prefixes of form fields that contain a response's name: rank-NAME, flag-NAME, rating-NAME-CRITERION."""


def page_names(task_id: int, response_ids: Iterable[int]) -> dict[int, str]:
    """Return the name of each response, keyed by id, on pages that show this task."""
    return {
        pk: "r" + salted_hmac("labeling.response", f"{task_id}:{pk}").hexdigest()[:16]
        for pk in response_ids
    }


def fields_by_id(fields: Mapping[str, list[str]], names: Mapping[int, str]) -> dict[str, list[str]]:
    """Return form fields with ids instead of page names.

    Fields that already have ids are unchanged; drafts from older versions contain them.
    """
    ids = {name: str(pk) for pk, name in names.items()}
    return {
        _replaced(field, ids): _order_by_id(values, ids) if field == "shown_order" else values
        for field, values in fields.items()
    }


def field_by_name(field: str, names: Mapping[int, str]) -> str:
    """Return the page's name for a field such as `rank-7` that contains an id."""
    return _replaced(field, {str(pk): name for pk, name in names.items()})


def _replaced(field: str, replacements: Mapping[str, str]) -> str:
    prefix, dash, rest = field.partition("-")
    if prefix not in IN_FIELDS:
        return field
    response, *criterion = rest.split("-", 1)
    return "-".join([prefix, replacements.get(response, response), *criterion]) if dash else field


def _order_by_id(values: list[str], ids: Mapping[str, str]) -> list[str]:
    return [",".join(ids.get(part, part) for part in text.split(",")) for text in values]
