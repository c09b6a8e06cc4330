"""The options of a chat template, which are frozen for a run and for the models made by it.

The text of a chat depends on more than the chat: on options such as `enable_thinking`, on the date
that the template prints, and on the template file, which may change. At its beginning, a run records
all three in `chat.json` in its run directory. This file is also part of the output. So chats have the
same text in generation, evaluation and serving as in training. If the template has changed since
then, the model is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from jinja2 import TemplateError

from recipes.errors import RecipeError
from recipes.models.chat_template import TemplateTooCostly, time_limit, variables, with_date
from recipes.rundir import RunDir, write_atomically, write_json
from recipes.training_settings import CHAT_DATE, CHAT_KWARGS, ChatSettings, is_reserved

FILE = "chat.json"
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError)
"""Exceptions that a template raises if it refuses a chat or was not written for it."""
SAMPLE_DAY = date(2000, 1, 2)
"""The date that is used for fingerprints, because they must not depend on the day."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ChatOptions:
    """The options of a chat template and the date that it prints, or None for today's date."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    day: date | None = None

    def template(self, tokenizer: Any) -> str:
        """Return the tokenizer's template with the date of these options. Raises RecipeError."""
        template = tokenizer.get_chat_template(tools=self.kwargs.get("tools"))
        return with_date(template, self.day) if self.day else template

    def render(self, tokenizer: Any, template: str, messages: Messages, *, opening: bool) -> str:
        """Return the text of a chat, and the beginning of the answer if `opening`.

        `template` is the result of the method `template`. Raises ValueError if the template refuses
        the chat.
        """
        try:
            with time_limit():
                return tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    chat_template=template,
                    add_generation_prompt=opening,
                    **self.kwargs,
                )
        except TEMPLATE_ERRORS as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from None
        except TemplateTooCostly as error:
            raise RecipeError(f"The model's chat template {error}. Choose another model.") from None


@dataclass(frozen=True)
class ChatRecord:
    """The content of `chat.json`: the options, the date and the fingerprint of the template."""

    kwargs: dict[str, Any]
    day: date
    sha256: str

    @property
    def options(self) -> ChatOptions:
        return ChatOptions(self.kwargs, self.day)

    def to_dict(self) -> dict[str, Any]:
        return {CHAT_KWARGS: self.kwargs, CHAT_DATE: self.day.isoformat(), "sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(values[CHAT_KWARGS], date.fromisoformat(values[CHAT_DATE]), values["sha256"])

    @classmethod
    def read(cls, folder: str | Path) -> Self | None:
        """Return the record in the folder, or None if there is none.

        Raises RecipeError if the record is damaged.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        try:
            return cls.from_dict(json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecipeError(f"{file} is damaged. Restore it, or train again.") from None

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, self.to_dict())


def freeze(
    run_dir: RunDir,
    config: ChatSettings,
    tokenizer: Any,
    *,
    sources: Iterable[str | None] = (),
    today: date | None = None,
) -> ChatRecord:
    """Return the record of the run. It is the same each time the run is started.

    `sources` are the model and the adapters of the run. If a source is a folder with a record, the
    run uses its options and its date, unless the settings name others. Raises RecipeError if the
    template has changed since one of the records was made, or if records and settings contradict each
    other.
    """
    own = ChatRecord.read(run_dir.whole.path)
    if own is None:
        records = [(s, r) for s in sources if s and (r := ChatRecord.read(s))]
        own = _decide(config, tokenizer, records, today or date.today())
        _write_once(run_dir.whole.path / FILE, json.dumps(own.to_dict()))
        own = ChatRecord.read(run_dir.whole.path) or own  # the record of the fastest process
    if fingerprint(tokenizer, own.kwargs) != own.sha256:
        raise RecipeError(
            "The model's chat template has changed since this run began: it writes the same chats "
            "differently now. Restore the template, or start a new run."
        )
    return own


def read_options(folder: str | Path, tokenizer: Any) -> ChatOptions:
    """Return the options that the model in a folder was trained with.

    A model without a record has the default options. Raises RecipeError if the chat template has
    changed since the training.
    """
    record = ChatRecord.read(folder)
    if record is None:
        return ChatOptions()
    if fingerprint(tokenizer, record.kwargs) != record.sha256:
        raise _changed(str(folder))
    return record.options


def _decide(
    config: ChatSettings, tokenizer: Any, records: list[tuple[str, ChatRecord]], today: date
) -> ChatRecord:
    kwargs, day = config.chat_template_kwargs, config.chat_date
    first = records[0][1] if records else None
    if kwargs is None:
        kwargs = dict(first.kwargs) if first else {}
    refuse_unused(tokenizer, kwargs)
    sha256 = fingerprint(tokenizer, kwargs)
    for source, record in records:
        if record.kwargs != kwargs:
            raise RecipeError(
                f"{source} was trained with {CHAT_KWARGS} {json.dumps(record.kwargs)}, but this run "
                f"has {json.dumps(kwargs)}. Both must use the same options: leave the setting empty to "
                "use those of the adapter."
            )
        if record.sha256 != sha256:
            raise _changed(source)
    return ChatRecord(
        kwargs, date.fromisoformat(day) if day else first.day if first else today, sha256
    )


def _changed(source: str) -> RecipeError:
    return RecipeError(
        f"The chat template has changed since {source} was trained: it writes the same chats "
        "differently now. Restore the template of its base model, or train again."
    )


def refuse_unused(tokenizer: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise RecipeError for options that the template does not read, for instance misspelt ones."""
    if not kwargs:
        return
    if not tokenizer.chat_template:
        raise RecipeError(
            f"The model has no chat template, so {CHAT_KWARGS} has no effect. Leave it empty."
        )
    names = variables(tokenizer.get_chat_template(tools=kwargs.get("tools")))
    unused = sorted(set(kwargs) - names)
    if unused:
        offered = sorted(name for name in names if not is_reserved(name))
        raise RecipeError(
            f"The model's chat template does not read the option {', '.join(unused)}. It reads: "
            f"{', '.join(offered) or 'no options'}."
        )


def _write_once(path: Path, text: str) -> None:
    """Create the file unless it exists, so that the first of several processes sets its content."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    write_atomically(draft, text + "\n")
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


# --- the fingerprint ------------------------------------------------------------------------------


def fingerprint(tokenizer: Any, kwargs: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the texts that the template writes for sample chats, on a fixed date.

    Raises RecipeError if the template writes the same chat differently each time.
    """
    texts = _texts(tokenizer, kwargs)
    if texts != _texts(tokenizer, kwargs):
        raise RecipeError(
            "The model's chat template writes the same chat differently each time, so a model cannot "
            "be served as it was trained. Choose another model."
        )
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _texts(tokenizer: Any, kwargs: Mapping[str, Any]) -> list[str]:
    if not tokenizer.chat_template:
        return ["plain text"]
    options = ChatOptions(kwargs, SAMPLE_DAY)
    template = options.template(tokenizer)
    return [
        _text_or_refusal(options, tokenizer, template, messages, opening)
        for messages, opening in product(_chats(), (True, False))
    ]


def _text_or_refusal(
    options: ChatOptions, tokenizer: Any, template: str, messages: Messages, opening: bool
) -> str:
    try:
        return options.render(tokenizer, template, messages, opening=opening)
    except ValueError as error:
        return str(error)


def _chats() -> list[Messages]:
    def chat(*turns: tuple[str, str]) -> Messages:
        return [{"role": role, "content": content} for role, content in turns]

    system, user, answer = ("system", "Be brief."), ("user", " Why?\n"), ("assistant", "Because.")
    thought = ("assistant", "<think>\nHm.\n</think>\n\nBecause.")
    return [
        chat(user),
        chat(system, user),
        chat(user, answer),
        chat(user, thought),
        chat(system, user, answer, user),
        chat(user, thought, user, thought),
        chat(user, answer, ("tool", "42"), answer),
    ]
