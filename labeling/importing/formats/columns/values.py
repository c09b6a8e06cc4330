"""Read the value of a cell, which may be a text, a chat, a list or a number.

The cells of a CSV file are always text, so a list or chat is written as JSON, or in Python notation if a
data frame was saved. In other kinds of files a text stays a text, even if it looks like JSON.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any

from labeling.core.chats import ROLES
from labeling.importing.files.rows import Cells
from labeling.importing.formats.conversations import (
    NAMES_OF_ROLES,
    TURN,
    Messages,
    finite,
    transcript,
)
from labeling.importing.records import BadInput, Tally

MAX_REPR_LENGTH = 1 << 20
"""Maximum length of Python notation to parse: Python's parser needs 100 times as much memory."""
ROLE = ("role", "from")
CONTENT = ("content", "value", "text")
SPELLINGS = {
    **NAMES_OF_ROLES,
    **dict.fromkeys(("function", "observation", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "ai", "chatbot"), "assistant"),
}
"""Names that other tools use for roles."""
CALLS = ("tool_calls", "function_call")
TEXT_PARTS = ("text", "input_text", "output_text")
PART_TEXT = ("text", "value", "content")
CALL_PARTS = (
    "tool_call",
    "tool_calls",
    "tool_use",
    "function_call",
    "tool_result",
    "tool_response",
)
WRITTEN_CALLS = "tool calls, written as JSON into their message"
TRANSCRIPTS = "prompts that are transcripts (Human:, Assistant:), read as chats"
DROPPED_PARTS = "images, audio and other parts of messages that are not text"


def parsed(text: str) -> Any:
    """Return the list or object that a text contains as JSON or in Python notation, or None."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return finite(json.loads(text))
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_REPR_LENGTH:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return finite(value) if isinstance(value, list | dict) else None


def structure(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column that should contain a list or object, parsed if it is text."""
    value = row.get(name)
    if not isinstance(value, str):
        return finite(value)
    if value[:1].isalnum():  # the usual case; lists and objects begin with a bracket
        return value
    content = parsed(value)
    return value if content is None else content


def chat_or_text(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column that should contain a text or a chat.

    A text is parsed as a chat only in CSV and Excel files.
    """
    value = row.get(name)
    if not isinstance(value, str):
        return finite(value)
    if isinstance(row, Cells) and not value[:1].isalnum():
        content = parsed(value)
        return content if content and (is_chat(content) or is_message(content)) else value
    return value


def is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and any(isinstance(value.get(name), str) for name in ROLE)
        and any(name in value for name in (*CONTENT, *CALLS))
    )


def is_chat(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.get("messages")
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def as_text(value: Any) -> str | None:
    """Return a text, number or boolean as text, or None for NaN and other values."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float):
        return None
    return None if (value := finite(value)) is None else json.dumps(value)


def has_content(value: Any) -> bool:
    """Return whether the value is not empty. 0 and False are not empty; an empty text or list is."""
    return value is not None and value not in ("", [], {})


def texts(value: Any) -> list[str] | None:
    """Return a list of texts, numbers and booleans as texts, without nulls, or None for another value."""
    if not isinstance(value, list):
        return None
    converted = [as_text(item) for item in value if item is not None]
    results = [text for text in converted if text is not None]
    return results if results and len(results) == len(converted) else None


def messages(value: Any, line: int, name: str, tally: Tally) -> Messages:
    """Return a chat's messages, or a text as one user message. Raises BadInput for other values."""
    if isinstance(value, dict) and "messages" in value:
        others = {key: item for key, item in value.items() if key != "messages"}
        tally.columns.add(others, {}, f"{name}.")
        value, name = value["messages"], f"{name}.messages"
    if (text := as_text(value)) is not None:
        if not text.strip():
            raise BadInput(f'"{name}" is empty.', line)
        if TURN.match(text) and text.rstrip().endswith("\n\nAssistant:"):
            tally.changed[TRANSCRIPTS] += 1
            return transcript(text)[:-1]
        return [{"role": "user", "content": text}]
    if is_message(value):
        return [message(value, line, name, tally, f"{name}.")]
    if isinstance(value, dict) and value:
        keys = ", ".join(map(str, value))
        raise BadInput(f'"{name}" must be a text or a chat; it is an object with {keys}.', line)
    if not isinstance(value, list) or not value:
        raise BadInput(f'"{name}" must be a text or a list of messages, not empty.', line)
    if all(isinstance(part, str) for part in value):
        return turns(value)
    return [message(part, line, name, tally, f"{name}[].") for part in value]


def turns(texts: list[str]) -> Messages:
    """Return texts as a chat in which user and assistant alternate, beginning with the user."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def message(value: Any, line: int, name: str, tally: Tally, path: str) -> dict[str, str]:
    """Return a message with only its role and text. Unused keys are counted under `path`."""
    if not isinstance(value, dict):
        raise BadInput(f'a message in "{name}" must be {{"role": …, "content": …}}.', line)
    if len(value) == 2 and value.get("role") in ROLES and isinstance(value.get("content"), str):
        return {"role": value["role"], "content": value["content"]}  # the usual case
    keys = {
        "role": next((key for key in ROLE if value.get(key)), "role"),
        "content": next((key for key in CONTENT if value.get(key) is not None), "content"),
        "calls": next((key for key in CALLS if value.get(key)), ""),
    }
    spelling = str(value.get(keys["role"]) or "").lower()
    role = SPELLINGS.get(spelling, spelling)
    if role not in ROLES:
        raise BadInput(f'a role in "{name}" is one of {", ".join(ROLES)}; got {spelling!r}.', line)
    text = _joined(value.get(keys["content"]), tally, path + keys["content"])
    if keys["calls"]:
        written = _written(value[keys["calls"]], tally)
        text = f"{text}\n\n{written}" if text else written
    if text is None:
        parts = " but images or other parts" if isinstance(value.get(keys["content"]), list) else ""
        raise BadInput(f'a {role} message in "{name}" has no text{parts}.', line)
    if others := value.keys() - keys.values():
        tally.columns.add({key: value[key] for key in value if key in others}, {}, path)
    return {"role": role, "content": text}


def _written(calls: Any, tally: Tally) -> str:
    """Return tool calls as the text that reviewers will see."""
    tally.changed[WRITTEN_CALLS] += 1
    return calls if isinstance(calls, str) else json.dumps(finite(calls), ensure_ascii=False)


def _joined(content: Any, tally: Tally, path: str) -> str | None:
    """Return the text of a message, whose content may be a list of parts, or None without text."""
    if (text := as_text(content)) is not None:
        return text
    if not isinstance(content, list):
        return None
    texts = [_text_of_part(part, tally, f"{path}[].") for part in content]
    tally.left_out[DROPPED_PARTS] += texts.count(None)
    parts = [text for text in texts if text is not None]
    return "\n\n".join(parts) if parts else None


def _text_of_part(part: Any, tally: Tally, path: str) -> str | None:
    """Return a part's text, a tool call as JSON, or None for images and other parts."""
    if not isinstance(part, dict):
        return part if isinstance(part, str) else None
    key = next((key for key in PART_TEXT if isinstance(part.get(key), str)), "")
    kind = part.get("type") or "text"
    if kind in CALL_PARTS and not key:
        return _written({name: part[name] for name in part if name != "type"}, tally)
    if kind not in TEXT_PARTS and kind not in CALL_PARTS:
        key = ""
    others = {name: part[name] for name in part if name not in ("type", key)}
    if others:
        tally.columns.add(others, {}, path)
    if kind in CALL_PARTS:
        return _written(part[key], tally)
    return part[key] if key else None


def reply(value: Any, line: int, name: str, tally: Tally) -> str:
    """Return an answer that is a text or a single assistant message. Raises BadInput for others."""
    if (text := as_text(value)) is not None:
        return text
    chat = messages(value, line, name, tally)
    if len(chat) != 1 or chat[0]["role"] != "assistant":
        raise BadInput(f'"{name}" must be a text or one message by the assistant.', line)
    return chat[0]["content"]
