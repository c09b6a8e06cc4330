"""The parts of report.json that several recipes share. This module needs neither Django nor torch."""

from typing import Any, TypedDict


class LeftOut(TypedDict):
    """A number of prompts, responses or pairs that were not used, and the reason."""

    split: str
    what: str
    why: str
    count: int


class TrainingFigures(TypedDict):
    """Figures of the training. `curve` contains the loss at each logged step."""

    final_loss: float | None
    curve: list[tuple[int, float]]
    steps: int
    seconds: float
    max_tokens: int
    trained_weights: int
    weights: int
    micro_batch_size: int
    device: str
    memory_mb: float


class Device(TypedDict):
    """The device of a run: its `kind` (cpu or cuda), its `name`, how many, and the number format."""

    kind: str
    name: str
    count: int
    dtype: str


class Provenance(TypedDict):
    """The settings, inputs, package versions and device of the run, and its duration."""

    config: dict[str, Any]
    inputs: dict[str, Any]
    versions: dict[str, Any]
    device: Device
    seconds: float
