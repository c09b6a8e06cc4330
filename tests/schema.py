"""Compare JSON with a TypedDict, key by key."""

import types
from collections.abc import Iterator
from typing import (
    Any,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)


def differences(value: Any, schema: Any, path: str = "report") -> list[str]:
    """Return what is undeclared, missing or of another type in `value`, each with its path."""
    return list(_differences(value, schema, path))


def _differences(value: Any, schema: Any, path: str) -> Iterator[str]:
    origin, arguments = get_origin(schema), get_args(schema)
    if origin in (NotRequired, Required):
        yield from _differences(value, arguments[0], path)
    elif schema is Any:
        return
    elif is_typeddict(schema):
        yield from _of_dict(value, schema, path)
    elif origin in (Union, types.UnionType):
        options = [differences(value, option, path) for option in arguments]
        yield from min(options, key=len)
    elif origin is list:
        yield from _of_type(value, list, path)
        for number, item in enumerate(value if isinstance(value, list) else ()):
            yield from _differences(item, arguments[0], f"{path}[{number}]")
    elif origin is dict:
        yield from _of_type(value, dict, path)
        for name, item in value.items() if isinstance(value, dict) else ():
            yield from _differences(item, arguments[1], f"{path}.{name}")
    elif origin is tuple:
        yield from _of_type(value, list, path)  # JSON has no tuples
        for number, (item, kind) in enumerate(zip(value, arguments, strict=True)):
            yield from _differences(item, kind, f"{path}[{number}]")
    else:
        yield from _of_type(value, schema, path)


def _of_dict(value: Any, schema: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is not an object"
        return
    hints = get_type_hints(schema, include_extras=True)
    for name in sorted(value.keys() - hints.keys()):
        yield f"{path}.{name} is not declared"
    for name in sorted(schema.__required_keys__ - value.keys()):
        yield f"{path}.{name} is missing"
    for name in hints.keys() & value.keys():
        yield from _differences(value[name], hints[name], f"{path}.{name}")


def _of_type(value: Any, kind: Any, path: str) -> Iterator[str]:
    allowed = (int, float) if kind is float else kind
    wrong = not isinstance(value, type(None) if kind is None else allowed)
    if wrong or (isinstance(value, bool) and kind in (int, float)):
        yield f"{path} is {value!r}, not {kind}"
