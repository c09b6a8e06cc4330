"""Names for responses on pages where they are judged blind.

The id of a row shows which response was stored first, so a reviewer could guess which model wrote
it. A page therefore names a response by a keyed hash of its task and id, which reveals nothing
without SECRET_KEY.
"""

from collections.abc import Iterable, Mapping

from django.utils.crypto import salted_hmac

IN_FIELDS = ("rank", "flag", "rating")
"""Fields named after a response: rank-NAME, flag-NAME, rating-NAME-CRITERION."""


def page_names(task_id: int, response_ids: Iterable[int]) -> dict[int, str]:
    """Return the name of each response on pages that show this task."""
    return {
        pk: "r" + salted_hmac("labeling.response", f"{task_id}:{pk}").hexdigest()[:16]
        for pk in response_ids
    }


def fields_by_id(fields: Mapping[str, list[str]], names: Mapping[int, str]) -> dict[str, list[str]]:
    """Return form fields with ids instead of page names.

    Fields with ids are unchanged. Drafts from versions that did not use names have such fields.
    """
    ids = {name: str(pk) for pk, name in names.items()}
    return {
        _replaced(field, ids): _order_by_id(values, ids) if field == "shown_order" else values
        for field, values in fields.items()
    }


def field_by_name(field: str, names: Mapping[int, str]) -> str:
    """Return the name on the page of a field with an id, such as `rank-7`."""
    return _replaced(field, {str(pk): name for pk, name in names.items()})


def _replaced(field: str, replacements: Mapping[str, str]) -> str:
    prefix, dash, rest = field.partition("-")
    if prefix not in IN_FIELDS:
        return field
    response, *criterion = rest.split("-", 1)
    return "-".join([prefix, replacements.get(response, response), *criterion]) if dash else field


def _order_by_id(values: list[str], ids: Mapping[str, str]) -> list[str]:
    return [",".join(ids.get(part, part) for part in text.split(",")) for text in values]
