"""Sample rows of a snapshot for its page, with all texts rendered safely."""

from dataclasses import dataclass
from itertools import islice
from string import ascii_uppercase

from django.utils.safestring import SafeString

from labeling.core.text import render
from recipes.preferences.groups import Group, Judgment, read_groups
from reward.models import Snapshot


@dataclass(frozen=True)
class SampleResponse:
    letter: str
    html: SafeString
    model: str


@dataclass(frozen=True)
class Sample:
    group_id: str
    split: str
    messages: list[tuple[str, SafeString]]
    responses: list[SampleResponse]
    rankings: list[tuple[str, str, bool]]


def letter(index: int) -> str:
    """Return A to Z, then A1, B1 …"""
    number, remainder = divmod(index, 26)
    return ascii_uppercase[remainder] + (str(number) if number else "")


def sample(group: Group) -> Sample:
    letters = {pk: letter(index) for index, pk in enumerate(group.response_ids)}
    models = group.meta.get("response_models") or [""] * len(group.responses)
    simulated = group.meta.get("simulated") or [False] * len(group.rankings)
    return Sample(
        group_id=group.group_id,
        split=group.split,
        messages=[(m["role"], render(m["content"])) for m in group.prompt],
        responses=[
            SampleResponse(letters[pk], render(text), model)
            for pk, text, model in zip(group.response_ids, group.responses, models, strict=True)
        ],
        rankings=[
            (ranking.reviewer, order_in_letters(ranking, letters), by_program)
            for ranking, by_program in zip(group.rankings, simulated, strict=True)
        ],
    )


def order_in_letters(ranking: Judgment, letters: dict[int, str]) -> str:
    """Return the ranking as `B > A = C | D`, where `|` is the unacceptable line."""
    tiers = [" = ".join(sorted(letters[pk] for pk in tier)) for tier in ranking.tiers]
    if ranking.cut is None:
        return " > ".join(tiers)
    above, below = tiers[: ranking.cut], tiers[ranking.cut :]
    return f"{' > '.join(above)} | {' > '.join(below)}".strip()


def sample_groups(snapshot: Snapshot, count: int, split: str | None = None) -> list[Group]:
    """Return the first rows of the file, or of a split. The rest of the file is not read."""
    groups = read_groups(snapshot.file, rows_at_once=64)
    return list(islice((g for g in groups if split in (None, g.split)), count))
