"""Code that uses a model: in Python with its files on this machine, and over the API of this site."""

import json
from pathlib import Path
from typing import Any

from finetune.model_page.facts import has_chat_template
from finetune.models import Model
from reward.references import folder_of

QUESTION = "Which lamp is the brightest?"

LOAD = """\
{imports}
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({tokenizer})
model = AutoModelForCausalLM.from_pretrained({base}){eval}
{adapter}
"""
CHAT = """\
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": {question}}}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",{options}
)
"""
PLAIN = """\
inputs = tokenizer({question}, return_tensors="pt")
"""
ANSWER = """\
output = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
API = """\
from openai import OpenAI

client = OpenAI(base_url={address}, api_key="tb_…")
answer = client.chat.completions.create(
    model={model}, messages=[{{"role": "user", "content": {question}}}]
)
print(answer.choices[0].message.content)
"""
CURL = """\
curl {address}/chat/completions -H "Authorization: Bearer $TIEBREAK_TOKEN" \\
  -H "Content-Type: application/json" -d '{body}'
"""


def python_code(model: Model) -> str:
    """Return Python code that loads the model from its folders on this machine and asks it.

    "" for a model on an endpoint. Reads chat.json, which has the options of the chat template.
    """
    if model.endpoint:
        return ""
    own = Path(model.adapter_folder) if model.adapter else folder_of(model.base_folder)
    load = LOAD.format(
        imports="from peft import PeftModel" if model.adapter else "",
        tokenizer=_text(model.adapter_folder) if model.adapter else _reference(model.base_folder),
        base=_reference(model.base_folder),
        eval="" if model.adapter else ".eval()",
        adapter=f"model = PeftModel.from_pretrained(model, {_text(model.adapter_folder)}).eval()\n"
        if model.adapter
        else "",
    )
    ask = PLAIN if own is not None and not has_chat_template(own) else CHAT
    options = "".join(f" {name}={value!r}," for name, value in _chat_options(own).items())
    return load.lstrip() + ask.format(question=_text(QUESTION), options=options) + ANSWER


def api_name(model: Model) -> str:
    """Return the name of the model in the API. The slug of a project is its promoted model."""
    slug = model.project.slug
    return slug if model.state == Model.State.PROMOTED else f"{slug}/{model.pk}"


def is_served(model: Model) -> bool:
    """Return whether the API and the chat page answer with this model."""
    return not model.endpoint and model.state != Model.State.ARCHIVED


def api_code(model: Model, address: str) -> str:
    """Return Python code that asks the model over the API. `address` is that of `/v1`."""
    return API.format(
        address=_text(address), model=_text(api_name(model)), question=_text(QUESTION)
    )


def curl_code(model: Model, address: str) -> str:
    """Return a command that asks the model over the API. `address` is that of `/v1`."""
    body = {"model": api_name(model), "messages": [{"role": "user", "content": QUESTION}]}
    return CURL.format(address=address, body=json.dumps(body))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _reference(base: str) -> str:
    """Return the arguments for a folder, or for a name with its revision on Hugging Face."""
    if base.startswith("/") or "@" not in base:
        return _text(base)
    name, revision = base.rsplit("@", 1)
    return f"{_text(name)}, revision={_text(revision)}"


def _chat_options(folder: Path | None) -> dict[str, Any]:
    """Return the options of the chat template that the model was trained with."""
    try:
        options = json.loads(((folder or Path()) / "chat.json").read_text())["chat_template_kwargs"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    named = options.items() if isinstance(options, dict) else ()
    return {name: value for name, value in named if isinstance(name, str) and name.isidentifier()}
