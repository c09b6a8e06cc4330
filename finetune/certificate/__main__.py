"""Checks a certificate from its file alone: `python -m finetune.certificate FILE`.

Needs Python, numpy and the folders `finetune` and `formatting`; no database and no Django.

Exit status: 0 everything matches, 1 something does not match, 2 the file cannot be read.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.certificate import document, recomputing
from finetune.certificate.document import Unreadable
from finetune.certificate.recomputing import Malformed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m finetune.certificate",
        description="Check the hashes and the signature of a certificate, and recompute its conclusion.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the JSON file of the certificate")
    parser.add_argument(
        "--key", default="", metavar="HEX", help="the public key that must have signed it"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="also compare the model files in this folder"
    )
    options = parser.parse_args(arguments)
    try:
        certificate = document.read(options.file.read_bytes())
    except OSError as error:
        return _fail([f"{options.file} cannot be read: {error.strerror}."], status=2)
    except Unreadable as error:
        return _fail([str(error)], status=2)
    problems = problems_of(certificate, key=options.key)
    if options.folder and not problems:
        problems += problems_of_folder(certificate["content"]["candidate"], options.folder)
    if problems:
        return _fail([*problems, "This certificate is not valid."], status=1)
    print("\n".join(summary(certificate, key=options.key)))
    return 0


def problems_of(certificate: dict[str, Any], *, key: str = "") -> list[str]:
    """Return a sentence for everything that does not match; an empty list for a valid certificate."""
    problems = document.problems_of(certificate, key=key)
    try:
        problems += recomputing.problems_of(certificate["content"])
        summary(certificate, key=key)  # shows every value that the command prints
    except Malformed as error:
        problems.append(str(error))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        problems.append("A value that the summary needs is missing or of the wrong kind.")
    return problems


def problems_of_folder(candidate: dict[str, Any], folder: Path) -> list[str]:
    """Return a sentence for each file of the model that is missing or different in the folder."""
    problems = []
    for file in candidate["files"]:
        path = folder / file["name"]
        try:
            sha256 = _sha256_of(path)
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}.")
            continue
        if sha256 != file["sha256"]:
            problems.append(f"{path} is not the file that was promoted.")
    return problems or (
        [] if candidate["files"] else ["The certificate lists no files of the model."]
    )


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or that of the output of `sha256sum` for all files in a folder."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{_sha256_of(file)}  {file.relative_to(path.parent)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def summary(certificate: dict[str, Any], *, key: str = "") -> list[str]:
    """Return the lines that describe a valid certificate."""
    content, public_key = certificate["content"], certificate["signature"]["public_key"]
    about, promotion = content["certificate"], content["promotion"]
    account = promotion["account"]
    who = "the command line" if account is None else f"account {account}"
    signed = "the key that you gave" if key else f"the key {public_key}"
    return [
        f"Certificate {about['number']} of {content['project']['name']}: "
        f"{content['candidate']['name']} was promoted on {about['issued_at'][:10]} by {who}.",
        *recomputing.sentences(content),
        f"Recomputed from {sum(_verdicts(each) for each in content['evaluations'])} verdicts: all "
        "figures match.",
        f"Signed with {signed}."
        + ("" if key else " Compare it with the key of the site, or pass it with --key."),
    ]


def _verdicts(evaluation: dict[str, Any]) -> int:
    return len(evaluation["people"]["verdicts"]) + len(evaluation["judge"]["verdicts"])


def _fail(problems: list[str], *, status: int) -> int:
    print("\n".join(problems), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
