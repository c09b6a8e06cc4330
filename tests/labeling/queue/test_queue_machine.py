"""A state machine of reviewers' actions in any order, on a real PostgreSQL.

MACHINE_EXAMPLES=1000 in the environment makes it a long run; see CONTRIBUTING.md.
"""

import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from labeling.models import Ranking, Skip, Slot, Task
from labeling.queue import slots
from labeling.queue.tasks import release_held, set_priority
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import ids, in_threads, make_member, make_project, make_task

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "20"))
STEPS = 40

who = st.integers(0, 2)
which = st.integers(0, 1000)
ahead = st.booleans()


@dataclass(frozen=True)
class Form:
    """A page that a reviewer has open, for any time."""

    reviewer: Any
    slot_id: int
    task_id: int
    shown_order: list[int]
    key: uuid.UUID


@dataclass(frozen=True)
class Acknowledged:
    """A ranking that was acknowledged to its reviewer."""

    ranking_id: int
    task_id: int
    reviewer_id: int
    tiers: list[list[int]]


BROKEN = {
    "a slot filled twice, or by a ranking that is not its own": """
        SELECT count(*) FROM labeling_slot slot JOIN labeling_ranking ranking
            ON ranking.id = slot.ranking_id
        WHERE slot.project_id = %(project)s AND (ranking.superseded_at IS NOT NULL OR ranking.extra
            OR ranking.task_id <> slot.task_id OR ranking.reviewer_id <> slot.reviewer_id)""",
    "a ranking that neither fills a slot nor is extra": """
        SELECT count(*) FROM labeling_ranking ranking JOIN labeling_task task ON task.id = task_id
        WHERE task.project_id = %(project)s AND superseded_at IS NULL AND NOT extra
            AND (SELECT count(*) FROM labeling_slot WHERE ranking_id = ranking.id) <> 1""",
    "a reviewer twice on a task": """
        SELECT count(*) FROM (SELECT FROM labeling_ranking ranking
            JOIN labeling_task task ON task.id = task_id
            WHERE task.project_id = %(project)s AND superseded_at IS NULL
            GROUP BY task_id, reviewer_id HAVING count(*) > 1) twice""",
    "a reviewer who holds a slot of a task they have ranked": """
        SELECT count(*) FROM labeling_slot slot JOIN labeling_ranking ranking
            ON ranking.task_id = slot.task_id AND ranking.reviewer_id = slot.reviewer_id
        WHERE slot.project_id = %(project)s AND slot.leased_until IS NOT NULL
            AND ranking.superseded_at IS NULL""",
    "more than one current or one ahead": """
        SELECT count(*) FROM (SELECT FROM labeling_slot
            WHERE project_id = %(project)s AND leased_until IS NOT NULL
            GROUP BY reviewer_id, ahead HAVING count(*) > 1) twice""",
    "a slot that was seen while it was ahead": """
        SELECT count(*) FROM labeling_slot
        WHERE project_id = %(project)s AND ahead AND shown_at IS NOT NULL""",
    "a slot on the queue that is more than its task wants": """
        SELECT count(*) FROM (SELECT FROM labeling_slot slot
            JOIN labeling_task task ON task.id = task_id
            WHERE slot.project_id = %(project)s AND slot.priority < 10
            GROUP BY task.id HAVING count(*) > task.rankings_wanted) more""",
    "a ranking whose order of display is not its task's": """
        SELECT count(*) FROM labeling_ranking ranking JOIN labeling_task task ON task.id = task_id
        WHERE task.project_id = %(project)s
            AND (SELECT array_agg(shown ORDER BY shown) FROM unnest(shown_order) shown) <>
                (SELECT array_agg(response_id ORDER BY response_id) FROM labeling_taskresponse
                    WHERE task_id = task.id)""",
}


class Machine(RuleBasedStateMachine):
    @initialize(tasks=st.integers(1, 4), wanted=st.integers(1, 3), k=st.integers(2, 4))
    def begin(self, tasks, wanted, k):
        self.project = make_project(rankings_per_task=wanted)
        self.reviewers = [make_member(self.project) for _ in range(3)]
        self.tasks = [make_task(self.project, responses=k) for _ in range(tasks)]
        self.tasks.append(make_task(self.project, responses=k, held=True))
        self.gold = make_task(self.project, responses=k, kind=Task.Kind.GOLD)
        self.forms: list[Form] = []
        self.acknowledged: dict[int, Acknowledged] = {}

    # --- what is given out -----------------------------------------------------------------------

    def open_form(self, reviewer, slot):
        if slot is not None and not any(
            (form.slot_id, form.reviewer) == (slot.pk, reviewer) for form in self.forms
        ):
            form = Form(reviewer, slot.pk, slot.task_id, slot.shown_order, uuid.uuid4())
            self.forms.append(form)

    @rule(who=who, show=st.booleans())
    def claim(self, who, show):
        reviewer = self.reviewers[who]
        leases = Slot.objects.filter(
            project=self.project, reviewer=reviewer, leased_until__isnull=False
        )
        before = {slot.ahead: slot.pk for slot in leases}
        slot = slots.claim(project=self.project, reviewer=reviewer)
        if False in before:
            assert slot is not None and slot.pk == before[False]
        elif True in before:
            assert slot is not None
            assert slot.pk == before[True] or slot.draft_by_id == reviewer.pk
        assert slot is None or (slot.reviewer_id == reviewer.pk and not slot.ahead)
        self.open_form(reviewer, slot)
        if show and slot is not None:
            slots.mark_shown(slot_id=slot.pk, reviewer=reviewer)

    @rule(who=who)
    def claim_ahead(self, who):
        reviewer = self.reviewers[who]
        slot = slots.claim_ahead(project=self.project, reviewer=reviewer)
        if slot is not None:
            assert slot.ahead and slot.shown_at is None
            current = Slot.objects.get(
                project=self.project, reviewer=reviewer, leased_until__isnull=False, ahead=False
            )
            assert current.task_id != slot.task_id
        self.open_form(reviewer, slot)

    @rule(who=who)
    def claim_in_two_tabs(self, who):
        reviewer = self.reviewers[who]
        mine = {"project": self.project, "reviewer": reviewer}
        for slot in in_threads(
            lambda: slots.claim(**mine),
            lambda: slots.claim_ahead(**mine),
        ):
            assert not isinstance(slot, Exception), slot
            self.open_form(reviewer, slot)

    @rule(who=who, ahead=ahead)
    def give_gold(self, who, ahead):
        reviewer = self.reviewers[who]
        try:
            slot = slots.lease_new_slot(task=self.gold, reviewer=reviewer, ahead=ahead)
        except ValueError:
            assert self.gold.rankings.filter(reviewer=reviewer, superseded_at=None).exists()
        else:
            self.open_form(reviewer, slot)

    @rule(which=which)
    def want_one_more(self, which):
        task = self.tasks[which % len(self.tasks)]
        if not task.held and task.slots.count() < 5:
            slots.add_slot(task=task)

    @rule()
    def release_held(self):
        release_held(project=self.project, task_ids=[task.pk for task in self.tasks])

    @rule(which=which, priority=st.integers(0, 9))
    def set_priority(self, which, priority):
        set_priority(task=self.tasks[which % len(self.tasks)], priority=priority)

    # --- what comes back -------------------------------------------------------------------------

    def send(self, form, turn, key=None):
        """Submit a form with one of a few kinds of ranking."""
        order = form.shown_order
        tiers = [order] if turn == 0 else [[item] for item in order[turn % 2 :] + order[: turn % 2]]
        try:
            sent = recording.submit(
                slot_id=form.slot_id,
                reviewer=form.reviewer,
                idempotency_key=key or form.key,
                content=Content(tiers),
            )
        except recording.InvalidRanking as invalid:
            assert "tiers" not in invalid.errors
            return None
        self.acknowledge(sent.ranking)
        return sent

    def acknowledge(self, ranking):
        self.acknowledged[ranking.pk] = Acknowledged(
            ranking.pk, ranking.task_id, ranking.reviewer_id, ranking.tiers
        )

    def form(self, which):
        return self.forms[which % len(self.forms)]

    @rule(which=which, turn=st.integers(0, 2))
    def submit(self, which, turn):
        """Send any form, in time, late or again."""
        if not self.forms:
            return
        form = self.form(which)
        ranking = Ranking.objects.filter(idempotency_key=form.key).first()
        sent = self.send(form, turn)
        if ranking and sent:
            assert sent.duplicate and sent.ranking.pk == ranking.pk

    @rule(which=which)
    def submit_the_newest(self, which):
        if not self.forms:
            return
        self.send(self.forms[-1], which % 3)

    @rule(which=which)
    def submit_twice_at_once(self, which):
        if not self.forms:
            return
        form = self.form(which)
        first, second = in_threads(*[lambda: self.send(form, 1)] * 2)
        for sent in (first, second):
            assert not isinstance(sent, Exception), sent
        if first and second:
            assert first.ranking.pk == second.ranking.pk

    @rule(one=which, other=which, turn=st.integers(0, 2))
    def submit_two_forms_at_once(self, one, other, turn):
        if not self.forms:
            return
        sent = in_threads(
            lambda: self.send(self.form(one), turn), lambda: self.send(self.form(other), 1)
        )
        for submission in sent:
            assert not isinstance(submission, Exception), submission

    @rule(which=which, turn=st.integers(0, 2))
    def submit_in_another_tab(self, which, turn):
        if not self.forms:
            return
        self.send(self.form(which), turn, key=uuid.uuid4())

    @rule(which=which)
    def revise(self, which):
        if not self.acknowledged:
            return
        ids_ = sorted(self.acknowledged)
        ranking = Ranking.objects.get(pk=ids_[which % len(ids_)])
        try:
            sent = recording.revise(
                ranking=ranking,
                reviewer=ranking.reviewer,
                idempotency_key=uuid.uuid4(),
                content=Content([[item] for item in ids(ranking.task)]),
            )
        except recording.InvalidRanking:
            return
        self.acknowledge(sent.ranking)

    @rule(which=which)
    def release(self, which):
        if not self.forms:
            return
        form = self.form(which)
        slots.release(slot_id=form.slot_id, reviewer=form.reviewer)

    @rule(which=which)
    def skip(self, which):
        if not self.forms:
            return
        form = self.form(which)
        if slots.skip(slot_id=form.slot_id, reviewer=form.reviewer, reason="other"):
            assert Skip.objects.filter(task=form.task_id, reviewer=form.reviewer).exists()

    @rule(which=which, renew=st.booleans())
    def keep(self, which, renew):
        if not self.forms:
            return
        form = self.form(which)
        if renew:
            slots.renew(slot_id=form.slot_id, reviewer=form.reviewer)
        else:
            slots.save_draft(slot_id=form.slot_id, reviewer=form.reviewer, draft={"x": 1})

    @rule(which=which, free=st.booleans())
    def run_out(self, which, free):
        if not self.forms:
            return
        past = timezone.now() - timedelta(seconds=1)
        leases = Slot.objects.filter(pk=self.form(which).slot_id, leased_until__isnull=False)
        leases.update(leased_until=past)
        if free:
            slots.release_expired(project=self.project)

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self):
        if not hasattr(self, "project"):
            return
        parts = " UNION ALL ".join(
            f"SELECT {number}, ({query})" for number, query in enumerate(BROKEN.values())
        )
        with connection.cursor() as cursor:
            cursor.execute(parts, {"project": self.project.pk})
            counts = dict(cursor.fetchall())
        wrong = [name for number, name in enumerate(BROKEN) if counts[number]]
        assert not wrong, wrong

    @invariant()
    def no_acknowledged_ranking_is_lost(self):
        if not hasattr(self, "project") or not self.acknowledged:
            return
        stored = Ranking.objects.in_bulk(self.acknowledged)
        for reply in self.acknowledged.values():
            ranking = stored[reply.ranking_id]
            assert (ranking.task_id, ranking.reviewer_id) == (reply.task_id, reply.reviewer_id)
            assert ranking.tiers == reply.tiers
        current = Ranking.objects.filter(task__project=self.project, superseded_at=None)
        pairs = set(current.values_list("task_id", "reviewer_id"))
        assert {
            (output.task_id, output.reviewer_id) for output in self.acknowledged.values()
        } <= pairs


@pytest.mark.django_db(transaction=True)
def test_no_sequence_of_actions_loses_or_duplicates_a_ranking():
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=EXAMPLES < 100,
            phases=[Phase.generate] if EXAMPLES < 100 else list(Phase),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
