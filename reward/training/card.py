"""The README.md beside a reward model: what it is, how good, and how to load it without Tiebreak."""

from typing import Any

import yaml

LOADING = """```python
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1)
base.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER").eval()
text = tokenizer.apply_chat_template(messages, tokenize=False)
with torch.no_grad():
    score = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0]
```"""

LOADING_WHOLE = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("PATH_OF_THIS_FOLDER").eval()
```"""


def model_card(report: dict[str, Any]) -> str:
    base = report["base_model"]
    front: dict[str, Any] = {
        "library_name": "peft" if report["config"]["lora_r"] else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "tiebreak"],
    }
    if not base.startswith(("/", ".")):
        front["base_model"] = base.rsplit("@", 1)[0]
    data = report["data"]
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n",
        "# Reward model\n",
        f"Scores a response to a prompt: the higher, the more reviewers would prefer it. Trained from "
        f"`{base}` on {data['train']['prompts']} prompts with {data['train']['pairs']} compared pairs. "
        "Scores mean something only beside other scores for the same prompt.\n",
        "## On held-out prompts\n",
        "| | value | 95 % interval | prompts | pairs |",
        "|---|---|---|---|---|",
        _row("accuracy on strict pairs", report["accuracy"]),
        _row("agreement between reviewers (the ceiling)", report["reviewer_agreement"]),
        _row("always preferring the longer response", report["longer_is_better"]),
        "",
        f"Everything else that is known is in `report.json`, with what was left out and why: "
        f"{sum(row['count'] for row in report['left_out'])} prompts and responses.\n",
        "## Loading it\n",
        (LOADING if report["config"]["lora_r"] else LOADING_WHOLE).replace("{base}", base),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"| {name} | – | {figure['reason']} | {figure['prompts']} | {figure['pairs']} |"
    low, high = figure["interval"]
    counts = f"{figure['prompts']} | {figure['pairs']}"
    return f"| {name} | {figure['value']:.3f} | {low:.3f} to {high:.3f} | {counts} |"
