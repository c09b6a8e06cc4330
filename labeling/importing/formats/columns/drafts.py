"""Build a prompt, with its responses and rankings, from the rows of a file."""

from labeling.importing.formats.columns.answers import Answer, Row
from labeling.importing.formats.conversations import Draft, in_tiers
from labeling.importing.records import OTHER_ID, Tally

OTHER_META = "rows whose metadata differs from that of the first row of their prompt"


def draft_of(rows: list[Row], reviewer: str, tally: Tally) -> Draft:
    first = rows[0]
    draft = Draft(
        first.line,
        first.messages,
        external_id=first.external_id,
        task_id=first.task_id,
        meta=first.meta,
    )
    _name_answers(rows)
    answers: dict[int, Answer] = {}
    judged = False
    for row in rows:
        indexes = []
        for answer in row.answers:
            before = len(draft.responses)
            index = draft.add(answer.text, answer.model, answer.external_id)
            if len(draft.responses) == before:
                tally.left_out["responses that occur twice"] += 1
            answers.setdefault(index, answer)
            indexes.append(index)
        if row.verdict is not None:
            judged = True
            tiers = [[indexes[n] for n in tier] for tier in row.verdict.tiers]
            draft.judge(
                row.reviewer or reviewer,
                tiers,
                tally,
                cut=row.verdict.cut,
                strength=row.verdict.strength,
                rationale=row.rationale,
            )
    for row in rows[1:]:
        if _loses_id(row, first):
            tally.left_out[OTHER_ID] += 1
        if row.meta != first.meta:
            tally.left_out[OTHER_META] += 1
    if not judged:
        _judge_marks(draft, answers, first.reviewer or reviewer, tally)
    return draft


def _loses_id(row: Row, first: Row) -> bool:
    """Return whether the row has an id that is stored neither in its prompt, task nor responses."""
    if row.task_id not in ("", first.task_id):
        return True
    if row.external_id in ("", first.external_id):
        return False
    return row.external_id not in {answer.external_id for answer in row.answers}


def _name_answers(rows: list[Row]) -> None:
    """Use the rows' ids as ids of their responses if the rows of one prompt have different ids."""
    if len(rows) < 2 or len({row.external_id for row in rows}) < 2:
        return
    ids: dict[tuple[str, str], str] = {}
    for row in rows:
        for answer in row.answers:
            if not answer.external_id:
                answer.external_id = ids.setdefault((answer.text, answer.model), row.external_id)


def _judge_marks(draft: Draft, answers: dict[int, Answer], reviewer: str, tally: Tally) -> None:
    """Rank the responses by the rank, score or label that each of them has."""
    if not any(answer.is_marked() for answer in answers.values()):
        return
    labels = {n: a.label for n, a in answers.items() if a.label is not None}
    scores = {n: a.score for n, a in answers.items() if a.score is not None}
    ranks = {n: -a.rank for n, a in answers.items() if a.rank is not None}
    ratings = {n: a.ratings for n, a in answers.items() if a.ratings}
    if len(ranks or scores or labels) < 2:
        tally.left_out["judgments of a single response (nothing to compare it with)"] += 1
        return
    if labels and not ranks and not scores:
        good = [n for n, label in labels.items() if label]
        bad = [n for n, label in labels.items() if not label]
        draft.judge(reviewer, [good, bad], tally, cut=1 if good else 0)
        return
    tiers = in_tiers(ranks or scores)
    draft.judge(reviewer, tiers, tally, ratings=ratings, own_scales=True)
