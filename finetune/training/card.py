"""The model cards (README.md) of adapters and merged models: what they are, how they were made, and
how to load them.
"""

from typing import Any

from recipes.card import front_matter, held_out_table, loading

LOADING = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "PATH_OF_THIS_FOLDER").eval()
```"""


def model_card(report: dict[str, Any]) -> str:
    base, config, pairs = report["model"], report["config"], report["pairs"]
    front = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "lora", "tiebreak"],
    }
    lines = [
        front_matter(front, base),
        "# LoRA adapter\n",
        f"`{base}`, fine-tuned on the preferences of reviewers: {pairs['train']} pairs of responses to "
        f"{report['prompts']['train']} prompts, by Direct Preference Optimization (Rafailov et al. "
        f"2023, arXiv:2305.18290) with β = {config['beta']:g}, rank {config['lora_r']}, "
        f"{config['epochs']} epochs at a learning rate of {config['learning_rate']:g}.\n",
        "## On held-out prompts\n",
        "The implicit reward of a response is β times the increase of its log-probability by the adapter. "
        "Its accuracy shows that the preferences were learned, not that the answers are better. For "
        "that, evaluate the answers of both models.\n",
        *held_out_table(
            {
                "implicit reward orders pairs as reviewers did": report["accuracy"],
                "pairwise agreement of reviewers": report["reviewer_agreement"],
                "always preferring the longer response": report["longer_is_better"],
            }
        ),
        "`report.json` holds all other figures, and what was left out and why.\n",
        "## Loading it\n",
        loading(LOADING, base),
    ]
    return "\n".join(lines) + "\n"


MERGED_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER").eval()
```"""


def merged_card(report: dict[str, Any]) -> str:
    """Return the card of a model with an adapter in its weights."""
    base, dtype = report["model"], report["config"]["dtype"]
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merged", "tiebreak"],
    }
    lines = [
        front_matter(front, base),
        "# Merged model\n",
        f"`{base}` with the LoRA adapter `{report['adapter']}` added to its weights, in {dtype}. It was "
        f"loaded in a new process and compared with base and adapter on {report['texts']} texts "
        f"({report['text_source']}): it differs from them by {report['share']:.2%} of the adapter's "
        "effect on the log-probabilities.\n",
        *(f"{note}\n" for note in report["notes"]),
        "`report.json` holds all figures, and the snapshots that the adapter and its ancestors were "
        "trained on.\n",
        "## Loading it\n",
        MERGED_LOADING,
    ]
    return "\n".join(lines) + "\n"
