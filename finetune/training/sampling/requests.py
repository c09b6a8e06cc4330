"""The requests of a run: what is to be sampled, in which order, and what was left out."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from finetune.engines.engine import Request
from finetune.engines.sampled_text import Prompt, SampledTextError, read_prompts, sample_seed
from finetune.training.models.language_model import PolicyChat, readable_length
from recipes.errors import RecipeError
from recipes.models.chat_format import NOTES
from recipes.rundir import RunDir


def prompts_of(run_dir: RunDir) -> list[Prompt]:
    """Return the prompts of the run. Raises RecipeError if the file does not contain prompts."""
    try:
        return read_prompts(run_dir.data / "prompts.parquet")
    except SampledTextError as error:
        raise RecipeError(str(error)) from error


def plan(
    prompts: list[Prompt], chat: PolicyChat, model_config: Any, config: Any
) -> tuple[list[Request], dict[str, str]]:
    """Return the requests, and the reasons for leaving out prompts, by the id of the prompt.

    The requests with the longest prompts come first. Neighbouring requests have similar lengths, so
    there is little padding. The first requests need the most memory, so a run that does not fit into
    memory fails within its first minute.
    """
    limit = readable_length(model_config)
    longest = min(
        config.max_prompt_tokens or 10**9, 10**9 if limit is None else limit - config.max_new_tokens
    )
    requests: list[Request] = []
    left_out: dict[str, str] = {}
    for prompt in prompts:
        try:
            encoded = chat.read(prompt.messages, [])
        except ValueError as error:
            left_out[prompt.prompt_id] = str(error)
            continue
        prompt_ids = encoded.prompt.tolist()
        if len(prompt_ids) > longest:
            left_out[prompt.prompt_id] = f"longer than {max(0, longest)} tokens"
            continue
        for sample in range(config.samples_per_prompt if prompt.n is None else prompt.n):
            seed = sample_seed(config.seed, prompt.prompt_id, sample)
            requests.append(Request(prompt, prompt_ids, sample, seed, encoded.notes))
    if not requests:
        raise RecipeError(
            f"Nothing to sample. {left_out_sentence(left_out, len(prompts))} Allow shorter "
            "responses or longer prompts, or choose another model."
            if left_out
            else f"Nothing to sample: {len(prompts)} prompts request 0 responses."
        )
    return sorted(requests, key=lambda request: -len(request.prompt_ids)), left_out


def report_plan(run_dir: RunDir, requests: list[Request], left_out: dict[str, str]) -> None:
    """Emit messages about prompts that were left out or are unusual."""
    if left_out:
        total = len(left_out) + len({request.prompt.prompt_id for request in requests})
        run_dir.message(left_out_sentence(left_out, total), level="warning")
    for note, count in notes_of(requests).items():
        run_dir.message(f"In the prompts: {count} {NOTES[note]}.")


def notes_of(requests: list[Request]) -> dict[str, int]:
    """Return the sums of the counts of NOTES over all prompts."""
    of_prompts = {request.prompt.prompt_id: request.notes for request in requests}
    return dict(sum(of_prompts.values(), Counter()))


def left_out_sentence(left_out: dict[str, str], total: int) -> str:
    reasons = "; ".join(f"{count} {why}" for why, count in Counter(left_out.values()).most_common())
    some = ", ".join(list(left_out)[:5]) + (" …" if len(left_out) > 5 else "")
    return f"{len(left_out)} of {total} prompts were left out ({reasons}): {some}."


def left_out_figures(left_out: dict[str, str]) -> dict[str, Any]:
    """Return figures for the report: counts by reason, and the ids of the first thousand prompts."""
    return {
        "left_out": [
            {"what": "prompts", "why": why, "count": count}
            for why, count in sorted(Counter(left_out.values()).items())
        ],
        "left_out_prompt_ids": list(left_out)[:1000],
    }


def order_of(prompts: list[Prompt]) -> Callable[[Request], tuple[int, int]]:
    """Return a sort key that restores the order of the prompts."""
    index = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    return lambda request: (index[request.prompt.prompt_id], request.sample)
