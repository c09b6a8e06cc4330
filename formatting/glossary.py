"""Names and explanations of the figures that runs report and pages show.

A figure has the same label and the same explanation on every page. Recipes write the names of figures
to events.jsonl and report.json. `tests/forks.py` fails a test if its recipe writes a curve that has no
entry here.

The web and the tests of recipes share this module, so it imports neither Django nor torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A figure as pages show it. The explanation is one or more sentences."""

    label: str
    explanation: str


_KL = (
    "The Kullback–Leibler divergence between the model now and before training: how far training has "
    "moved it. "
)
_REWARD = "The implicit reward of a response is log π − log π_ref, times beta. "

GLOSSARY: dict[str, Term] = {
    # training
    "loss": Term(
        "loss",
        "The training loss of the newest steps, which training minimises. Compare it only between runs "
        "with the same method and settings.",
    ),
    "train_agreement": Term(
        "agreement on training data",
        "The share of the reviewers' judgments in the newest training steps that the model orders the "
        "same way. If it rises while the held-out accuracy does not, the model overfits.",
    ),
    "grad_norm": Term(
        "gradient norm",
        "The length of the gradient before clipping. Sudden jumps are a sign of a learning rate that "
        "is too high.",
    ),
    "learning_rate": Term(
        "learning rate",
        "The current step size of the optimizer. It rises during the warm-up, and then falls along the "
        "schedule.",
    ),
    "entropy": Term(
        "entropy",
        "The mean uncertainty of the model about its next token, in nats. If it falls to almost 0, the "
        "model gives nearly the same response each time.",
    ),
    "mean_token_accuracy": Term(
        "token accuracy",
        "The share of response tokens that the model would have predicted first.",
    ),
    "drift": Term(
        "drift on other prompts",
        _KL + "It is estimated on responses that belong to other prompts, and is the reference point "
        "of KTO.",
    ),
    # held-out data
    "held_out/accuracy": Term(
        "held-out accuracy",
        "The share of the reviewers' judgments on held-out prompts that the model orders the same way. "
        "50% is chance. Compare it with the pairwise agreement of the reviewers.",
    ),
    "test_accuracy": Term(
        "held-out accuracy",
        "The share of the reviewers' judgments on held-out prompts that the reward model orders the "
        "same way. 50% is chance. Compare it with the pairwise agreement of the "
        "reviewers.",
    ),
    "held_out/accuracies": Term(
        "held-out accuracy",
        "The share of pairs of held-out responses whose better response has the higher implicit reward. 50% is "
        "chance.",
    ),
    "rewards/accuracies": Term(
        "accuracy on training data",
        "The share of training pairs whose better response has the higher implicit reward.",
    ),
    "held_out/margins": Term(
        "held-out margin",
        _REWARD + "The margin is the mean difference between the better and the worse response of a "
        "held-out pair. It should be above 0.",
    ),
    "held_out/chosen": Term(
        "held-out reward, better response",
        _REWARD + "If it falls below 0, the model has become less likely to write even the better "
        "responses.",
    ),
    "held_out/rejected": Term(
        "held-out reward, worse response",
        _REWARD + "It should fall below that of the better responses.",
    ),
    "held_out/loss": Term(
        "held-out loss",
        "The mean of −log σ(margin) over the pairs of held-out responses. If it rises while the training loss falls, "
        "the model overfits.",
    ),
    "held_out/nll": Term(
        "held-out nats per token",
        "The mean of −log π per token of the best held-out responses. Lower means that the model is "
        "more likely to write them.",
    ),
    "pairwise_agreement": Term(
        "pairwise agreement",
        "The reviewers' agreement: the share of pairs of held-out responses that a second reviewer orders the same "
        "way. A model with this accuracy agrees with a reviewer as well as another reviewer does.",
    ),
    "accuracy": Term(
        "held-out accuracy",
        "The share of the reviewers' judgments on all held-out prompts that the model orders the same "
        "way, with a 95% interval. 50% is chance.",
    ),
    "longer_is_better": Term(
        "accuracy of the longer response",
        "The accuracy of a rule that always prefers the longer response. A model that is not better "
        "than this rule may have learned only length.",
    ),
    "ece": Term(
        "calibration error",
        "The expected calibration error: the mean difference between the confidence of the model and "
        "the share of pairs that it orders correctly. 0 is best.",
    ),
    "nll_per_token": Term(
        "nats per token, best response",
        "The mean of −log π per token of the best held-out responses after training.",
    ),
    "nll_per_token_before": Term(
        "nats per token, before training",
        "The mean of −log π per token of the best held-out responses before training.",
    ),
    "nll_change": Term(
        "change in nats per token",
        "The change of −log π per token of the best held-out responses. Below 0, the model has become "
        "more likely to write them.",
    ),
    # samples
    "reward_score": Term(
        "mean score of samples",
        "The mean score that the reward model gives to the model's own responses. It can rise because "
        "of errors of the reward model, so read some responses too.",
    ),
    "reward_spread": Term(
        "spread of the scores of samples",
        "The mean standard deviation of the scores of responses to the same prompt. Without a spread, "
        "there is nothing to learn.",
    ),
    "score_change": Term(
        "change in the mean score of samples",
        "The mean score of the trained model's responses minus that of the untrained model's, for the "
        "same prompts and seeds.",
    ),
    "kl": Term(
        "KL to the original model, nats",
        _KL + "It is estimated per response on the model's own responses. Above a few nats, check "
        "the responses.",
    ),
    "kl_per_token": Term(
        "KL to the original model, nats per token",
        _KL + "It is estimated per token on the model's own responses.",
    ),
    "equal_rewards": Term(
        "prompts whose samples have equal scores",
        "The share of prompts whose responses all have the same score. They add nothing to training.",
    ),
    "mean_tokens": Term(
        "mean length of samples, tokens",
        "The mean length of the model's own responses. A steady rise is often a sign that the reward "
        "model favours long responses.",
    ),
    "truncated": Term(
        "samples cut off",
        "The share of responses that were cut off at the maximum length.",
    ),
    "clipped": Term(
        "share clipped",
        "The share of tokens or responses whose change in probability was limited by the clip range.",
    ),
    "unscored": Term(
        "samples without a score",
        "The share of responses that are too long for the reward model.",
    ),
    "distinct": Term(
        "different samples",
        "The number of different responses to a prompt, divided by the number of its responses.",
    ),
    # evaluations
    "win_rate": Term(
        "win rate",
        "The share of comparisons with the baseline that the candidate wins. A tie counts half. 50% "
        "means that both are equally good.",
    ),
    "win_rate_equal_length": Term(
        "win rate at equal length",
        "The estimated win rate if both responses had the same length. If it is much lower than the "
        "win rate, the candidate wins by writing more.",
    ),
    "kl_base_per_token": Term(
        "KL to the base, nats per token",
        "The divergence of the candidate from the base model that it was made from, per token of the "
        "candidate's own responses. A high divergence with a small gain is a warning.",
    ),
    "kl_base": Term(
        "KL to the base, nats per answer",
        "The divergence of the candidate from the base model that it was made from, per response. A "
        "high divergence with a small gain is a warning.",
    ),
    "reward_win_rate": Term(
        "win rate by reward model",
        "The share of comparisons with the baseline in which the reward model gives the candidate the "
        "higher score. A tie counts half.",
    ),
    "agreement": Term(
        "agreement with reviewers",
        "The share of reviewers' judgments of pairs with which the judge agrees. 50% is chance.",
    ),
    "decisive": Term(
        "decisive verdicts",
        "The share of pairs for which the judge prefers the same response in both orders.",
    ),
    "first_preferred": Term(
        "first response preferred",
        "The share of verdicts for the response that the judge reads first. 50% means that the order "
        "has no influence.",
    ),
    # speed and machine
    "tokens_per_s": Term(
        "tokens/s",
        "The number of tokens that the model processes per second, without padding.",
    ),
    "responses_per_s": Term(
        "responses/s",
        "The number of responses that the model scores per second.",
    ),
    "memory_mb": Term(
        "memory, MB",
        "The highest memory use of the run so far: of the GPU if the run has one, otherwise of the "
        "process.",
    ),
    "device": Term(
        "device",
        "The processor that the run computes on, and the number format of the computation.",
    ),
    "gpu_use": Term(
        "GPU use",
        "The share of time in which the GPU computed, as its driver reports it, for each GPU of the "
        "run. If it stays low, the run waits for data or for the processor.",
    ),
    "gpu_temperature": Term(
        "GPU temperature",
        "The temperature of each GPU of the run. A GPU that is too hot slows itself down.",
    ),
    # requests to endpoints
    "failed_requests": Term(
        "failed requests",
        "The number of requests to the endpoint that failed, including those that succeeded later.",
    ),
    "prompt_tokens": Term("prompt tokens", "The number of tokens that were sent to the endpoint."),
    "response_tokens": Term(
        "response tokens", "The number of tokens that the endpoint has written."
    ),
    "cost": Term(
        "cost",
        "The price of all tokens so far, by the prices that are declared for the endpoint.",
    ),
}  # fmt: skip

ALIASES = {"reviewer_agreement": "pairwise_agreement"}
"""Names in the events and results of earlier versions."""

MAIN = (
    "loss", "held_out/accuracy", "test_accuracy", "held_out/accuracies", "pairwise_agreement",
    "held_out/margins", "held_out/nll", "reward_score", "kl", "kl_per_token", "drift", "cost",
    "failed_requests", "responses_per_s", "mean_tokens", "tokens_per_s", "memory_mb", "gpu_use",
    "gpu_temperature", "device",
)  # fmt: skip
"""The figures that a trainer needs first, most important first. Pages fold the others."""


HELD_OUT = (
    "held_out/accuracy", "held_out/accuracies", "test_accuracy", "held_out/margins", "held_out/nll",
)  # fmt: skip
"""The main figures on held-out data, which recipes compute only a few times per run."""


def term_of(name: str) -> Term | None:
    """Return the entry of a figure, or None if it has none."""
    return GLOSSARY.get(ALIASES.get(name, name))


def label_of(name: str) -> str:
    """Return the label of a figure. Without an entry, it is the name with spaces."""
    term = term_of(name)
    return term.label if term else name.replace("_", " ").replace("/", " ")


def in_order(names: list[str]) -> tuple[list[str], list[str]]:
    """Divide the names into the main ones, most important first, and the others by label."""
    canonical = {ALIASES.get(name, name): name for name in names}
    main = [canonical[name] for name in MAIN if name in canonical]
    return main, sorted(set(names) - set(main), key=lambda name: (label_of(name), name))
