"""The model cards (README.md) of adapters and merged models: their origin, figures and usage."""

from typing import Any

from finetune.methods.method import method_named
from finetune.report import FinetuneReport, Likelihood
from recipes.publishing.card import chats, front_matter, held_out_table, loading

LOADING = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "PATH_OF_THIS_FOLDER").eval()
```"""


def model_card(report: FinetuneReport) -> str:
    base, config = report["model"], report["config"]
    front = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [report["kind"], "lora", "tiebreak"],
    }
    lines = [
        front_matter(front, base),
        "# LoRA adapter\n",
        f"`{base}`, fine-tuned on {report['learned_from']}, by "
        f"{method_named(report['kind']).paper}{_setting(config, 'beta', ' with β = {:g}')}, rank "
        f"{config['lora_r']}, {_duration(config)} at a learning rate of "
        f"{config['learning_rate']:g}.\n",
        "## On held-out prompts\n",
        *_likelihood_lines(report["likelihood"]),
        *_score_lines(report.get("score_change")),
        "The implicit reward of a response is the increase of its log-probability by the adapter, "
        "times β if the method has one. Its accuracy shows that the preferences were learned, not "
        "that the answers are better. For that, evaluate the answers of both models.\n",
        *held_out_table(
            {
                "implicit reward orders pairs as reviewers did": report["accuracy"],
                "pairwise agreement of reviewers": report["reviewer_agreement"],
                "always preferring the longer response": report["longer_is_better"],
            }
        ),
        "`report.json` has all other figures, and the data that was left out, with the reasons.\n",
        *chats(report["chat"]),
        "## Usage\n",
        loading(LOADING, base),
    ]
    return "\n".join(lines) + "\n"


def _likelihood_lines(likelihood: Likelihood) -> list[str]:
    """Return the paragraph about the likelihood of the best held-out responses, if there are any."""
    before, after, change = (likelihood[name] for name in ("before", "after", "change"))
    if before["value"] is None or after["value"] is None or change["value"] is None:
        return []
    low, high = change["interval"] or (change["value"], change["value"])
    interval = f", 95% interval {low:+.3f} to {high:+.3f}" if change["interval"] else ""
    return [
        f"The best responses had {before['value']:.3f} nats of negative log-likelihood per token before "
        f"training and have {after['value']:.3f} after it (change {change['value']:+.3f}{interval}; "
        f"{likelihood['responses']} responses to {likelihood['prompts']} prompts). Lower is likelier.\n"
    ]


def _score_lines(change: Any) -> list[str]:
    """Return the paragraph about the change in score, for methods that are trained on samples."""
    if not change or change["value"] is None:
        return []
    low, high = change["interval"] or (change["value"], change["value"])
    return [
        f"The reward model's mean score of samples changed by {change['value']:+.3f} (95% interval "
        f"{low:+.3f} to {high:+.3f}), on training prompts. It shows that the reward model was followed, "
        "not that people prefer the answers.\n"
    ]


def _duration(config: dict[str, Any]) -> str:
    steps = config.get("steps")
    return f"{steps} steps" if steps else f"{config['epochs']:g} epochs"


def _setting(config: dict[str, Any], name: str, text: str) -> str:
    """Return the text with the value of a setting, or "" if the method does not have the setting."""
    return text.format(config[name]) if name in config else ""


MERGED_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER").eval()
```"""


def merged_card(report: dict[str, Any]) -> str:
    """Return the card of a merged model."""
    base, dtype = report["model"], report["config"]["output_dtype"]
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
        "`report.json` has all figures, and the snapshots that the adapter and its ancestors were "
        "trained on.\n",
        "## Usage\n",
        MERGED_LOADING,
    ]
    return "\n".join(lines) + "\n"
