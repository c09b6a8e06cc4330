"""The file of a certificate: its format, its hashes and its signature. Needs only Python.

A file is a JSON object with four keys:

`format`     FORMAT
`content`    an object of sections, such as `promotion` and `evaluations`
`sha256`     the SHA-256 of the canonical JSON of each section
`signature`  `algorithm` (Ed25519), `public_key` and `value`, in hexadecimal

The signature covers the format and the hashes, and through them every section. Canonical JSON has
sorted keys, no spaces and no escapes beyond those that JSON requires, so the layout of the file may change,
but not its values.
"""

import hashlib
import json
from typing import Any

from finetune.certificate import ed25519

FORMAT = "tiebreak-certificate-1"
SECTIONS = (
    "certificate", "project", "candidate", "promotion", "guideline", "prompts", "evaluations",
)  # fmt: skip
MAX_BYTES = 256 * 1024 * 1024


class Unreadable(ValueError):  # noqa: N818
    """The text is not a certificate. The message says why, in a sentence."""


def canonical(value: Any) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hashes_of(content: dict[str, Any]) -> dict[str, str]:
    return {name: digest(section) for name, section in content.items()}


def message_of(hashes: dict[str, str]) -> bytes:
    """Return the bytes that the signature signs."""
    return canonical([FORMAT, hashes])


def id_of(document: dict[str, Any]) -> str:
    """Return the SHA-256 by which the next certificate refers to this one."""
    return digest([FORMAT, document["sha256"]])


def read(text: str | bytes) -> dict[str, Any]:
    """Return the document. Raises Unreadable if its form is not that of a certificate."""
    if len(text) > MAX_BYTES:
        raise Unreadable(f"The file is larger than {MAX_BYTES >> 20} MB.")
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_refused)
        canonical(document)  # fails for numbers that are too large and for lone surrogates
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("The file is nested too deeply.") from None
    except ValueError as error:
        raise Unreadable(f"The file is not valid JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise Unreadable(f'The file is not a certificate: its "format" is not {FORMAT!r}.')
    _expect_keys("The file", document, ("content", "format", "sha256", "signature"))
    _expect_keys("The content", document["content"], SECTIONS)
    _expect_keys('"sha256"', document["sha256"], SECTIONS)
    _expect_keys('"signature"', document["signature"], ("algorithm", "public_key", "value"))
    return document


def problems_of(document: dict[str, Any], *, key: str = "") -> list[str]:
    """Return a sentence for each section that was changed, and for a signature that does not match.

    With `key`, a public key in hexadecimal, the signature must be of this key.
    """
    hashes = hashes_of(document["content"])
    changed = [name for name in SECTIONS if hashes[name] != document["sha256"][name]]
    problems = [f'The section "{name}" does not match its SHA-256.' for name in changed]
    signature = document["signature"]
    if signature["algorithm"] != "Ed25519":
        return [*problems, "The algorithm of the signature is not Ed25519."]
    public_key, value = (_bytes(signature[name]) for name in ("public_key", "value"))
    if not ed25519.is_valid(public_key, message_of(document["sha256"]), value):
        problems.append("The signature does not match the hashes.")
    if key and signature["public_key"] != key.lower():
        problems.append(
            f"The certificate is signed with the key {signature['public_key']}, not with {key}."
        )
    return problems


def _bytes(value: Any) -> bytes:
    """Return the bytes of lower-case hexadecimal digits, or none for anything else."""
    if not isinstance(value, str) or set(value) - set("0123456789abcdef") or len(value) % 2:
        return b""
    return bytes.fromhex(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise Unreadable("An object of the file has the same key twice.")
    return result


def _refused(name: str) -> None:
    raise Unreadable(f"The file contains {name}, which is not a number in JSON.")


def _expect_keys(what: str, value: Any, names: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not an object.")
    if missing := sorted(set(names) - set(value)):
        raise Unreadable(f"{what} has no {missing[0]!r}.")
    if extra := sorted(set(value) - set(names)):
        raise Unreadable(f"{what} has an unknown key {extra[0]!r}.")
