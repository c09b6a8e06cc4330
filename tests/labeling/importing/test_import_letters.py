"""Tests of imported rationales with the letters that their authors saw."""

import pytest

from labeling.importing.reading import BadInput
from labeling.models import Ranking, Response
from tests.labeling.importing.import_files import imported, saved

pytestmark = pytest.mark.django_db


LETTERED = {
    "messages": [{"role": "user", "content": "Why?"}],
    "responses": [{"text": "a"}, {"text": "b"}],
    "rankings": [{"reviewer": "ada", "tiers": [[0], [1]], "rationale": "B is best."}],
}


def lettered(**columns):
    return LETTERED | {"rankings": [LETTERED["rankings"][0] | columns]}


def test_the_letters_of_a_rationale_give_the_order_of_display(project, tmp_path):
    imported(saved(tmp_path, [lettered(rationale_letters={"A": 1, "B": 0})]), project, "jsonl")
    ranking = Ranking.objects.get()
    assert [Response.objects.get(pk=pk).text for pk in ranking.shown_order] == ["b", "a"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"rationale_letters": {"B": 0}}, "each letter from A on"),
        ({"rationale_letters": [0, 1]}, "each letter from A on"),
        ({"rationale_letters": {"A": 9}}, "there is no response 9"),
        ({"rationale_letters": {"A": 1, "B": 0}, "shown_order": [0, 1]}, "contradict each other"),
    ],
)
def test_letters_that_name_no_order_are_refused(project, tmp_path, columns, sentence):
    with pytest.raises(BadInput, match=sentence):
        imported(saved(tmp_path, [lettered(**columns)]), project, "jsonl")
    assert not Ranking.objects.exists()
