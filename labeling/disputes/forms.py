"""The form in which a lead enters the decision about a disputed task: the order and the cause."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator

from labeling.disputes.adjudication import MAX_NOTE_LENGTH, CannotDecide
from labeling.models import Adjudication
from labeling.statistics.agreement import Tiers


class OutcomeForm(forms.Form):
    """A form with a rank for each response, so that it works without a script. Equal ranks are a tie.

    `letters` maps response ids, in the order shown, to letters. `names` maps them to their names in
    fields.
    """

    cut = forms.ChoiceField(required=False, label="The line: responses below it are unacceptable")
    cause = forms.ChoiceField(
        label="Why did reviewers disagree?",
        choices=Adjudication.Cause.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose why reviewers disagreed."},
    )
    note = forms.CharField(
        required=False,
        validators=[
            MaxLengthValidator(MAX_NOTE_LENGTH)
        ],  # not max_length, with which browsers would cut the text
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="For example, the missing rule in the guideline, or the point that was overlooked.",
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
        """Return the arguments for labeling.disputes.adjudication.decide. The form must be valid."""
        values = self.cleaned_data
        ranks = {pk: int(values[f"rank-{self.names[pk]}"]) for pk in self.letters}
        used = sorted(set(ranks.values()))
        line = values["cut"]
        return {
            "tiers": [[i for i in self.letters if ranks[i] == rank] for rank in used],
            "cut": sum(rank <= int(line) for rank in used) if line else None,
            "cause": values["cause"],
            "note": values["note"],
            "seen_mark": values["seen"],
        }

    def refuse(self, refused: CannotDecide) -> None:
        for name, sentence in refused.errors.items():
            self.add_error(name if name in self.fields else None, sentence)


def ranks_of(tiers: Tiers, cut: int | None, names: Mapping[int, str]) -> dict[str, str]:
    """Return the initial values of the form for an order."""
    ranks = {
        f"rank-{names.get(pk, pk)}": str(rank) for rank, tier in enumerate(tiers, 1) for pk in tier
    }
    return {**ranks, "cut": "" if cut is None else str(cut)}
