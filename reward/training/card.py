"""The model card (README.md) of a reward model: its purpose, its accuracy, and code that loads it.

The card of an adapter (finetune/training/card.py) uses the same parts.
"""

from typing import Any

from formatting.numbers import percent, percent_range
from recipes.publishing.card import chats, front_matter, held_out_table, loading
from recipes.training_settings import CHAT_KWARGS
from reward.evaluation.figures import limit_to_show, no_better_than_length
from reward.evaluation.schema import RewardReport

LOADING = """```python
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels={labels})
base.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER").eval()
{reading}```"""

LOADING_WHOLE = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("PATH_OF_THIS_FOLDER").eval()
{reading}```"""

READING = {
    "chat template": """text = tokenizer.apply_chat_template(messages, tokenize=False)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
""",
    "plain text": """# The tokenizer has no chat template; the model was trained on this format.
text = "User: How are you?\\n\\nAssistant: Fine.{ending}"
inputs = tokenizer(text, return_tensors="pt")
""",
}
SCORING = """with torch.no_grad():
    score = model(**inputs).logits[0, :{heads}].mean()
"""

HEADS = (
    "\nThe model has {heads} heads, which are its labels. Their mean is the score, and their standard "
    "deviation is its uncertainty."
)

WITHIN = "Compare scores only with other scores for the same prompt."
ZERO = (
    "It was also trained on the reviewers' line of acceptability: a score above 0 means acceptable, below "
    "0 unacceptable, so scores of different prompts can be compared."
)
CRITERIA = "\nThe remaining labels are scores of single criteria, in this order: {names}."


def model_card(report: RewardReport) -> str:
    base, data, adapter = report["base_model"], report["data"], bool(report["config"]["lora_r"])
    heads, criteria = report["outputs"]["heads"], report["outputs"]["criteria"]
    front = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "tiebreak"],
        **model_index(report),
    }
    lines = [
        front_matter(front, base),
        "# Reward model\n",
        f"Scores responses to a prompt. Reviewers prefer responses with higher scores. Trained from "
        f"`{base}` on {data['train']['prompts']} prompts with {data['train']['pairs']} compared pairs. "
        f"{ZERO if report['config'].get('cut_weight') else WITHIN}\n",
        "## On held-out prompts\n",
        *held_out_table(
            {
                "accuracy on strict pairs": report["accuracy"],
                "pairwise agreement of reviewers": report["reviewer_agreement"],
                "always preferring the longer response": report["longer_is_better"],
            }
        ),
        *_limit_line(report),
        *_length_line(report),
        *_temperature_line(report),
        *_learning_line(report),
        f"`report.json` has all other figures, and the reasons why "
        f"{sum(row['count'] for row in report['left_out'])} prompts and responses were left out.\n",
        *chats(report.get("chat")),
        "## Loading\n",
        loading(LOADING if adapter else LOADING_WHOLE, base)
        .replace("{reading}", READING[report["training"]["text_format"]] + SCORING)
        .replace("{ending}", report["training"].get("text_ending", ""))
        .replace("{labels}", str(heads + len(criteria)))
        .replace("{heads}", str(heads)),
        *([HEADS.format(heads=heads)] if heads > 1 else []),
        *([CRITERIA.format(names=", ".join(criteria))] if criteria else []),
    ]
    return "\n".join(lines) + "\n"


ONNX_CODE = """```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
session = onnxruntime.InferenceSession("PATH_OF_THIS_FOLDER/model.onnx")

question = {"role": "user", "content": "How are you?"}
chats = [[question, {"role": "assistant", "content": text}] for text in ("Fine.", "Go away!")]
{reading}scores = session.run(
    ["score"], {name: inputs[name].astype("int64") for name in ("input_ids", "attention_mask")}
)[0]
print(scores)
```"""

ONNX_READING = {
    "chat template": """texts = [tokenizer.apply_chat_template(chat, tokenize=False{options}) for chat in chats]
inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="np")
""",
    "plain text": """# The tokenizer has no chat template; the model was trained on this format.
texts = [f"User: {a['content']}\\n\\nAssistant: {b['content']}{ending}" for a, b in chats]
inputs = tokenizer(texts, padding=True, return_tensors="np")
""",
}


def onnx_card(report: dict[str, Any], trained: RewardReport) -> str:
    """Return the README of an export to ONNX. `trained` is the report of the reward model."""
    base, training = trained["base_model"], trained["training"]
    chat = trained.get("chat") or {}
    options = "".join(f", {name}={value!r}" for name, value in chat.get(CHAT_KWARGS, {}).items())
    front = {
        "library_name": "onnx",
        "pipeline_tag": "text-classification",
        "tags": ["onnx", "reward-model", "tiebreak"],
    }
    lines = [
        front_matter(front, base),
        "# Reward model for ONNX\n",
        f"Scores responses to a prompt without torch. Reviewers prefer responses with higher scores. "
        f"Trained from `{base}`. {ZERO if trained['config'].get('cut_weight') else WITHIN}\n",
        f"- **Inputs:** `input_ids` and `attention_mask`, (rows, tokens) int64, padded on the right. A row "
        f"is a prompt with one response, of at most {report['max_tokens']:,} tokens. The graph does not "
        "check the length.",
        "- **Output:** `score`, (rows,) float32.",
        f"- **Check:** onnxruntime computed the same scores as torch, to {report['difference']:.1e}, for "
        f"{report['texts']} texts and a row of {report['longest']:,} random tokens, alone and in a padded "
        "batch.\n",
        *chats(trained.get("chat")),
        "## Scoring\n",
        "This needs the packages `onnxruntime` and `transformers`.\n",
        ONNX_CODE.replace("{reading}", ONNX_READING[training["text_format"]])
        .replace("{options}", options)
        .replace("{ending}", training.get("text_ending", "")),
    ]
    return "\n".join(lines) + "\n"


def model_index(report: RewardReport) -> dict[str, Any]:
    """Return the figures in the format of model hubs, or {} if there is no accuracy."""
    accuracy, ece = report["accuracy"]["value"], report["calibration"]["ece"]
    if accuracy is None:
        return {}
    metrics = [
        {"type": "accuracy", "name": "Held-out strict pairs", "value": round(accuracy, 4)},
        *(
            []
            if ece is None
            else [{"type": "ece", "name": "Calibration error", "value": round(ece, 4)}]
        ),
    ]
    snapshot = str(
        report["inputs"].get("snapshot_hash") or report["inputs"].get("snapshot") or "preferences"
    )
    result = {
        "task": {"type": "text-classification", "name": "Preference ranking"},
        "dataset": {"type": "preferences", "name": f"Snapshot {snapshot[:12]}"},
        "metrics": metrics,
    }
    return {"model-index": [{"name": "reward-model", "results": [result]}]}


def _limit_line(report: RewardReport) -> list[str]:
    limit = limit_to_show(report)
    if limit is None:
        return []
    return [
        "A model whose accuracy equals the pairwise agreement of reviewers predicts a reviewer as well as "
        f"another reviewer does. As reviewers differ, about {percent(limit)} is the most any model can "
        "reach.\n"
    ]


def _length_line(report: RewardReport) -> list[str]:
    if not no_better_than_length(report):
        return []
    return [
        "**On these prompts, the model does no better than always preferring the longer response.** Train "
        "it on more rankings, or on another base, before relying on it.\n"
    ]


def _temperature_line(report: RewardReport) -> list[str]:
    temperature = report["temperature"]["value"]
    if temperature is None:
        return []
    return [
        f"Divide a difference in score by the temperature {temperature:.2f}, fitted on the held-out "
        "prompts. σ of the result is the probability that reviewers prefer the response with the higher "
        "score.\n"
    ]


def _learning_line(report: RewardReport) -> list[str]:
    curve = report.get("learning_curve")
    if not curve or not curve["forecast"] or not curve["one_point"]:
        return []
    low, high = curve["forecast"][0]["interval"]
    one_point = curve["one_point"]
    sentence = (
        f"With twice as many rankings, the forecast accuracy is {percent_range([low, high])} (95%), "
        "extrapolated from trainings on nested subsets"
    )
    if one_point["rankings"] is None:
        return [f"{sentence}. {one_point['reason']}\n"]
    least, most = one_point["interval"]
    ends = f"{least:,} or more" if most is None else f"{least:,} to {most:,}"
    return [
        f"{sentence}; about {one_point['rankings']:,} more ({ends}) are needed for one point.\n"
    ]
