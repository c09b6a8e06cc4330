"""Chat templates as programs: their limits, the names they read and the date they print.

Chat templates are Jinja programs from untrusted sources. transformers renders them in a sandbox,
which protects files and objects but limits neither loops nor memory. So before a model is used, its
template is tried once in a separate process with limits:

    python -m recipes.models.chat_template SECONDS < TEMPLATE

Each later rendering has a time limit. This does not detect a template that wastes memory only for
certain words. In that case, the operating system kills the run.
"""

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

from recipes.errors import RecipeError

MAX_CHARACTERS = 200_000
"""The maximum length of a template. The longest templates in use have about 20,000 characters."""
SECONDS = 5
MEGABYTES = 1024
RENDER_SECONDS = 10
TOO_MUCH = 3
ROOT = Path(__file__).parents[2]


class TemplateTooCostly(Exception):  # noqa: N818
    """A template that takes more time or memory than any conversation needs.

    The text says which of the two it is.
    """


def check(template: Any) -> None:
    """Raise TemplateTooCostly if a tokenizer's template exceeds the limits for short samples.

    The check takes about 0.2 seconds. `template` may be a dict of several templates, or None.
    """
    templates = template.values() if isinstance(template, dict) else [template or ""]
    for text in filter(None, templates):
        if len(text) > MAX_CHARACTERS:
            raise TemplateTooCostly(f"has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed")
        try:
            process = subprocess.run(
                [sys.executable, "-m", "recipes.models.chat_template", str(SECONDS)],
                cwd=ROOT, input=text, text=True, capture_output=True, timeout=4 * SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TemplateTooCostly(f"takes more than {SECONDS} seconds") from None
        if process.returncode == TOO_MUCH:
            raise TemplateTooCostly(f"needs more than {MEGABYTES} MB of memory")
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise TemplateTooCostly(f"takes more than {SECONDS} seconds")


@contextmanager
def time_limit(seconds: float | None = None) -> Iterator[None]:
    """Raise TemplateTooCostly if the block takes longer than `seconds`.

    Outside the main thread, there is no limit.
    """
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


# --- the template as a program --------------------------------------------------------------------


def environment() -> Any:
    """Return a Jinja environment with the names and tags that chat templates use."""
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
    return environment


def variables(template: str) -> set[str]:
    """Return the names that the template reads from its context.

    A name that the template sets itself is left out, unless the template checks whether the name is
    defined. In that case it sets only a default.
    """
    from jinja2 import nodes
    from jinja2.meta import find_undeclared_variables

    jinja = environment()
    tree = jinja.parse(template)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    own -= {
        test.node.name
        for test in tree.find_all(nodes.Test)
        if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
    }
    return set(find_undeclared_variables(tree)) - own - set(jinja.globals)


def literals(template: str) -> list[str]:
    """Return the string constants of the template, which include the texts that it writes."""
    from jinja2 import nodes

    tree = environment().parse(template)
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    constants = (node.value for node in tree.find_all(nodes.Const))
    return texts + [value for value in constants if isinstance(value, str)]


def with_date(template: str, day: date) -> str:
    """Return the template with the date `day` instead of today's.

    Templates print a date with `strftime_now(FORMAT)`. A macro of this name, added at the beginning
    of the template, replaces the function. Raises RecipeError for a format that is not a constant.
    """
    from jinja2 import nodes

    if "strftime_now" not in template:
        return template
    calls = [
        call.args
        for call in environment().parse(template).find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now"
    ]
    dates = {}
    for arguments in calls:
        if len(arguments) != 1 or not isinstance(arguments[0], nodes.Const):
            raise RecipeError(
                "The model's chat template prints a date in a format that it computes, so the date "
                "cannot be fixed for the run. Choose another model."
            )
        dates[arguments[0].value] = day.strftime(arguments[0].value)
    # The newline after the block is removed by trim_blocks, so the rest is rendered unchanged.
    return (
        "{%- macro strftime_now(format) -%}"
        f"{{%- set dates = {json.dumps(dates)} -%}}"
        "{{- dates[format] if format in dates else raise_exception('unknown date format') -}}"
        "{%- endmacro %}\n" + template
    )


# --- the separate process -------------------------------------------------------------------------


def samples() -> list[list[dict[str, str]]]:
    user, answer = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}
    system = {"role": "system", "content": "Be brief."}
    return [[user], [system, user], [user, answer], [system, user, answer, user]]


def try_out(template: str) -> None:
    """Render the template for each sample.

    Errors that the template raises are ignored here. They are reported when a real chat is rendered.
    """
    compiled = environment().from_string(template)
    for messages, opening in product(samples(), (True, False)):
        try:
            compiled.render(messages=messages, add_generation_prompt=opening)
        except MemoryError:
            raise
        except Exception:  # noqa: S112 - a template may refuse some conversations
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
