"""The README.md beside a reward model: what it is, how good, and how to load it without Tiebreak.

An adapter's card (finetune/training/card.py) is made of the same parts.
"""

from typing import Any

from formatting.numbers import percent, percent_range
from recipes.card import front_matter, held_out_table, loading
from reward.evaluation.figures import limit_to_tell, no_better_than_length

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
    "plain text": """# The tokenizer has no chat template; this is the form it was trained on.
text = "User: How are you?\\n\\nAssistant: Fine.{ending}"
inputs = tokenizer(text, return_tensors="pt")
""",
}
SCORING = """with torch.no_grad():
    score = model(**inputs).logits[0, :{heads}].mean()
"""

HEADS = (
    "\nIt has {heads} heads, which are its labels. Their mean is the score; the standard deviation "
    "says how unsure it is."
)

WITHIN = "Scores mean something only beside other scores for the same prompt."
ZERO = (
    "It was also trained on the line that reviewers drew: a score above 0 says acceptable, below 0 "
    "not, so scores of different prompts can be compared."
)
CRITERIA = "\nThe labels after that score single criteria, in this order: {names}."


def model_card(report: dict[str, Any]) -> str:
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
        f"Scores a response to a prompt: the higher, the more reviewers would prefer it. Trained from "
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
        f"Everything else that is known is in `report.json`, with what was left out and why: "
        f"{sum(row['count'] for row in report['left_out'])} prompts and responses.\n",
        "## Loading it\n",
        loading(LOADING if adapter else LOADING_WHOLE, base)
        .replace("{reading}", READING[report["training"]["text_format"]] + SCORING)
        .replace("{ending}", report["training"].get("text_ending", ""))
        .replace("{labels}", str(heads + len(criteria)))
        .replace("{heads}", str(heads)),
        *([HEADS.format(heads=heads)] if heads > 1 else []),
        *([CRITERIA.format(names=", ".join(criteria))] if criteria else []),
    ]
    return "\n".join(lines) + "\n"


def model_index(report: dict[str, Any]) -> dict[str, Any]:
    """The figures as model hubs read them; nothing where there is no accuracy to tell."""
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


def _limit_line(report: dict[str, Any]) -> list[str]:
    limit = limit_to_tell(report)
    if limit is None:
        return []
    return [
        "A model at the pairwise agreement of reviewers predicts a reviewer as well as another reviewer "
        f"does. As reviewers differ, about {percent(limit)} is the most any model can reach.\n"
    ]


def _length_line(report: dict[str, Any]) -> list[str]:
    """Said where a rule without any model does as well."""
    if not no_better_than_length(report):
        return []
    return [
        "**On these prompts it does no better than always preferring the longer response.** Train it "
        "on more rankings, or on another base, before relying on it.\n"
    ]


def _temperature_line(report: dict[str, Any]) -> list[str]:
    found = report["temperature"]
    if found["value"] is None:
        return []
    return [
        f"Divide a difference in score by {found['value']:.2f} before reading σ of it as the "
        "probability that reviewers prefer the one response. That temperature was fitted on the "
        "held-out prompts.\n"
    ]


def _learning_line(report: dict[str, Any]) -> list[str]:
    found = report.get("learning_curve")
    if not found or not found["forecast"]:
        return []
    low, high = found["forecast"][0]["interval"]
    one = found["one_point"]
    sentence = (
        f"Twice as many rankings are forecast to bring the accuracy to {percent_range([low, high])} (95%), "
        "by the same training on nested subsets"
    )
    if one["rankings"] is None:
        return [f"{sentence}. {one['reason']}\n"]
    least, most = one["interval"]
    ends = f"{least:,} or more" if most is None else f"{least:,} to {most:,}"
    return [f"{sentence}; about {one['rankings']:,} more ({ends}) are needed for one point.\n"]
