"""The form in which a lead says what the order of a disputed task is, and why it was disputed."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator

from labeling.disputes.adjudication import LONGEST_NOTE, CannotDecide
from labeling.models import Adjudication
from labeling.statistics.agreement import Tiers


class OutcomeForm(forms.Form):
    """One rank for each response, so that it works without a script; equal ranks are a tie.

    `letters` maps response ids to letters, in the order in which they are shown; `names` to what
    the page calls them.
    """

    cut = forms.ChoiceField(required=False, label="The line: responses below it are unacceptable")
    cause = forms.ChoiceField(
        label="Why did reviewers disagree?",
        choices=Adjudication.Cause.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Say why reviewers disagreed; the causes are counted."},
    )
    note = forms.CharField(
        required=False,
        validators=[MaxLengthValidator(LONGEST_NOTE)],  # max_length would let browsers cut it
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="What the guideline should have said, or what was overlooked.",
    )
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(
        self, *args: Any, letters: Mapping[int, str], names: Mapping[int, str], **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.letters, self.names = letters, names
        ranks = [(str(rank), str(rank)) for rank in range(1, len(letters) + 1)]
        for response, letter in letters.items():
            self.fields[f"rank-{names[response]}"] = forms.ChoiceField(
                label=f"Rank of {letter}",
                choices=[("", "–"), *ranks],
                error_messages={"required": f"{letter} has no rank yet."},
            )
        below = [(rank, f"Below rank {rank}") for rank, _ in ranks[:-1]]
        below.append((ranks[-1][0], f"Below rank {ranks[-1][0]}: none is unacceptable"))
        cut = self.fields["cut"]
        assert isinstance(cut, forms.ChoiceField)
        cut.choices = [("", "No line"), ("0", "All are unacceptable"), *below]

    def outcome(self) -> dict[str, Any]:
        """What labeling.disputes.adjudication.decide takes. Call it when the form is valid."""
        said = self.cleaned_data
        ranks = {pk: int(said[f"rank-{self.names[pk]}"]) for pk in self.letters}
        used = sorted(set(ranks.values()))
        line = said["cut"]
        return {
            "tiers": [[i for i in self.letters if ranks[i] == rank] for rank in used],
            "cut": sum(rank <= int(line) for rank in used) if line else None,
            **{name: said[name] for name in ("cause", "note", "seen")},
        }

    def refuse(self, refused: CannotDecide) -> None:
        for name, sentence in refused.errors.items():
            self.add_error(name if name in self.fields else None, sentence)


def ranks_of(tiers: Tiers, cut: int | None, names: Mapping[int, str]) -> dict[str, str]:
    """Return an order as the form's initial values."""
    ranks = {
        f"rank-{names.get(pk, pk)}": str(rank) for rank, tier in enumerate(tiers, 1) for pk in tier
    }
    return {**ranks, "cut": "" if cut is None else str(cut)}
