"""Limits for the chat templates that come with models: programs in Jinja, from anywhere.

transformers renders them in a sandbox that protects files and objects, but bounds neither loops nor
memory. So each template is tried once, before its model is used, in a process of its own with limits:

    python -m recipes.models.chat_template SECONDS < TEMPLATE

and each rendering after that has a time limit. Left out: a template that wastes memory only for
certain words is not found here; the system ends its run.
"""

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

LONGEST = 200_000
"""Characters. The longest in use have some 20,000."""
SECONDS = 5
MEGABYTES = 1024
RENDER_SECONDS = 10
TOO_MUCH = 3
ROOT = Path(__file__).parents[2]


class TemplateTooCostly(Exception):  # noqa: N818
    """The template takes more time or memory than any conversation needs; the text says which."""


def check(template: Any) -> None:
    """Raise TemplateTooCostly where a tokenizer's template exceeds the limits on short samples.

    Costs about 0.2 seconds. `template` may be a dict of several, or None.
    """
    templates = template.values() if isinstance(template, dict) else [template or ""]
    for text in filter(None, templates):
        if len(text) > LONGEST:
            raise TemplateTooCostly(f"has {len(text):,} characters; {LONGEST:,} are allowed")
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "recipes.models.chat_template", str(SECONDS)],
                cwd=ROOT, input=text, text=True, capture_output=True, timeout=4 * SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TemplateTooCostly(f"takes more than {SECONDS} seconds") from None
        if ended.returncode == TOO_MUCH:
            raise TemplateTooCostly(f"needs more than {MEGABYTES} MB of memory")
        if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise TemplateTooCostly(f"takes more than {SECONDS} seconds")


@contextmanager
def time_limit(seconds: float | None = None) -> Iterator[None]:
    """Raise TemplateTooCostly when the block takes longer. Signals reach the main thread only."""
    seconds = RENDER_SECONDS if seconds is None else seconds
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TemplateTooCostly(f"takes more than {seconds:g} seconds for one conversation")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- the process that tries it --------------------------------------------------------------------


def samples() -> list[list[dict[str, str]]]:
    user, answer = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}
    system = {"role": "system", "content": "Be brief."}
    return [[user], [system, user], [user, answer], [system, user, answer, user]]


def try_out(template: str) -> None:
    """Render it for each sample. Errors of the template itself are for the real rendering to tell."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value)
    environment.globals["strftime_now"] = lambda format: "2026-01-01"
    environment.globals["raise_exception"] = _refuse
    compiled = environment.from_string(template)
    for messages, opening in product(samples(), (True, False)):
        try:
            compiled.render(messages=messages, add_generation_prompt=opening)
        except MemoryError:
            raise
        except Exception:  # noqa: S112 - it refuses this conversation, and need not like all of them
            continue


def _refuse(text: str) -> None:
    raise ValueError(text)


def main() -> int:
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    try:
        try_out(sys.stdin.read())
    except MemoryError:
        return TOO_MUCH
    except Exception:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
