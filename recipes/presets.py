"""Presets: named sets of settings for a goal, offered by the launch form, the commands and `runs`.

The values are next to the settings, as `preset_values` of each settings class. A class adds to those
of its base classes, and `RecipeConfig.presets` combines them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUICK_LOOK, BEST_QUALITY, SMALL_GPU = "quick-look", "best-quality", "small-gpu"

PresetValues = Mapping[str, Mapping[str, Any]]
"""The values of settings, by preset and name."""


@dataclass(frozen=True)
class Preset:
    """A set of settings for a goal. `values` has only those that differ from the defaults."""

    name: str
    title: str
    description: str
    values: Mapping[str, Any]


GOALS = {
    QUICK_LOOK: (
        "Quick look",
        "Trains on a part of the data, to check within minutes that everything works. The "
        "result says little about the quality.",
    ),
    BEST_QUALITY: (
        "Best quality",
        "Trains longer, with a larger adapter or more samples. The run takes several times as "
        "long as with the defaults.",
    ),
    SMALL_GPU: (
        "Small GPU",
        "Takes less memory and more time. The steps are those of the defaults. If the weights of "
        "the model alone do not fit, also set quantize to nf4.",
    ),
}
"""The title and the description of each preset, in the order in which they are offered."""
