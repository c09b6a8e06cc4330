"""Options of `python -m benchmarks.reward_training`, and their defaults."""

import argparse
from collections.abc import Sequence

import torch

from recipes.layout import attention

RATIOS = {"cpu": [(128, 64), (128, 128), (64, 128)], "cuda": [(1024, 512), (512, 512), (512, 1024)]}
"""Tokens of prompt and response, in ratios of 2:1, 1:1 and 1:2."""
QUICK = [(4, 64, 64)]
SIZES = {
    "0.5b": (896, 24, 14, 2, 4864),  # Qwen2.5 0.5B
    "1b": (2048, 16, 32, 8, 8192),  # Llama 3.2 1B
    "1.5b": (1536, 28, 12, 2, 8960),  # Qwen2.5 1.5B
}
"""Width, layers, attention heads, key-value heads, inner width."""
WAYS = {
    "padded": ("plain", False, None),
    "ours": ("shared", True, None),
    "unpacked": ("shared", False, None),
    "dense": ("shared", True, attention.DENSE),
    "dense_unpacked": ("shared", False, attention.DENSE),
}
"""(layout, packed, attention) of our trainer; None for the device's fastest attention."""


def parse(argv: Sequence[str] | None, about: str = "") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case, a small model")
    parser.add_argument(
        "--case",
        action="append",
        metavar="K,PROMPT,RESPONSE",
        help="responses per prompt and tokens of each part; may be repeated (default: K = 2, 4, 7, 9 "
        "with prompt and response 2:1, 1:1 and 1:2)",
    )
    parser.add_argument(
        "--uneven", action="store_true", help="random lengths, from 0.5 to 1.5 times the case's"
    )
    parser.add_argument("--hidden", type=int, help="width of the Llama-shaped model (CPU: 256)")
    parser.add_argument("--layers", type=int, help="layers of the model (CPU: 6)")
    parser.add_argument("--size", choices=SIZES, help="width and layers of a known model (GPU: 1b)")
    parser.add_argument(
        "--lora", type=int, help="LoRA rank; 0 trains every weight (CPU: 0, GPU: 16)"
    )
    parser.add_argument(
        "--groups",
        type=int,
        help="rankings per step (CPU: 12 at K=2, 8 above; GPU: four times as many)",
    )
    parser.add_argument("--turns", type=int, help="minimum turns of each contender (default 5)")
    parser.add_argument(
        "--at-once", type=int, help="maximum tokens per forward pass (CPU: 8192, GPU: 32768)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the layers of all contenders"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        choices=WAYS,
        default=[],
        help="further contenders: ours with one prompt per row, or with a dense mask",
    )
    add_machine_options(parser)
    options = parser.parse_args(argv)
    complete(options)
    return options


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts this process's CPU time, for busy machines; use it with --threads 1, "
        "because waiting threads spin",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")


def complete(options: argparse.Namespace) -> None:
    """Fill in defaults that depend on the device and on --quick."""
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu, quick = options.device == "cuda", options.quick
    options.cases = [tuple(map(int, case.split(","))) for case in options.case or []]
    full = [(k, p, r) for k in (2, 4, 7, 9) for p, r in RATIOS[options.device]]
    options.cases = options.cases or (QUICK if quick else full)
    shape(options, SIZES.get(options.size or ("1b" if gpu and not quick else "")))
    options.lora = (16 if gpu else 0) if options.lora is None else options.lora
    options.turns = options.turns or (3 if quick else 5)
    options.at_once = options.at_once or (32768 if gpu else 8192)


def shape(options: argparse.Namespace, size: tuple[int, ...] | None) -> None:
    """Set the model's dimensions: a known size or a small model, with --hidden and --layers."""
    width, layers, *rest = size or ((64, 2) if options.quick else (256, 6))
    options.hidden, options.layers = options.hidden or width, options.layers or layers
    heads = max(1, options.hidden // 64)
    options.heads, options.kv_heads, options.inner = rest or (heads, heads, options.hidden * 8 // 3)
