"""All migrations up to 0011 in one step, which an empty database applies much faster."""

import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
from django.conf import settings
from django.db import migrations, models

import database.clock

# An evaluation cannot change once it has verdicts, and a verdict never.
EVALUATIONS = """
CREATE OR REPLACE FUNCTION tiebreak_evaluation_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.project_id, OLD.run_id, OLD.candidate_id, OLD.baseline_id, OLD.judge, OLD.reward_model_id,
        OLD.alpha, OLD.margin, OLD.sample_seed, OLD.prompts, OLD.verdicts_per_prompt, OLD.attempt, OLD.asks_people, OLD.judge_controls, OLD.most_verdicts, OLD.question)
        IS DISTINCT FROM
       (NEW.project_id, NEW.run_id, NEW.candidate_id, NEW.baseline_id, NEW.judge, NEW.reward_model_id,
        NEW.alpha, NEW.margin, NEW.sample_seed, NEW.prompts, NEW.verdicts_per_prompt, NEW.attempt, NEW.asks_people, NEW.judge_controls, NEW.most_verdicts, NEW.question) THEN
        RAISE EXCEPTION 'evaluation % has verdicts; its registration cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_verdict_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'verdict % of evaluation % cannot be changed', OLD.id, OLD.evaluation_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER evaluation_frozen
    BEFORE UPDATE ON finetune_evaluation
    FOR EACH ROW WHEN ((old.attempt IS NOT NULL))
    EXECUTE FUNCTION tiebreak_evaluation_frozen();
CREATE TRIGGER verdict_frozen
    BEFORE UPDATE OF evaluation_id, prompt_id, sample, verdict, task_id, candidate_response_id, block ON finetune_evaluationitem
    FOR EACH ROW EXECUTE FUNCTION tiebreak_verdict_frozen();
"""

# A certificate is deleted only with its project, which sets tiebreak.erasing.
CERTIFICATES = """
CREATE OR REPLACE FUNCTION tiebreak_certificate_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'certificate % was issued and cannot be changed', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER certificate_frozen
    BEFORE DELETE OR UPDATE ON finetune_certificate
    FOR EACH ROW EXECUTE FUNCTION tiebreak_certificate_frozen();
"""


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("finetune", "0001_initial"),
        ("finetune", "0002_blind_comparisons"),
        ("finetune", "0003_project_of_runs"),
        ("finetune", "0004_relative_paths"),
        ("finetune", "0005_registered_evaluations"),
        ("finetune", "0006_shared_error_rate"),
        ("finetune", "0007_endpoints"),
        ("finetune", "0008_certificates"),
        ("finetune", "0009_evaluations_by_people"),
        ("finetune", "0010_judge_agreement"),
        ("finetune", "0011_chat"),
    ]

    dependencies = [
        ("labeling", "0031_chat"),
        ("reward", "0005_relative_paths"),
        ("runs", "0006_help_texts"),
    ]

    operations = [
        migrations.CreateModel(
            name="Model",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("candidate", "Candidate"),
                            ("promoted", "Promoted"),
                            ("archived", "Archived"),
                        ],
                        default="candidate",
                        max_length=16,
                    ),
                ),
                ("name", models.CharField(max_length=120)),
                (
                    "base",
                    models.CharField(
                        help_text="repo, repo@revision or a folder; on an endpoint, the name of the model there.",
                        max_length=300,
                    ),
                ),
                (
                    "endpoint",
                    models.CharField(
                        blank=True,
                        help_text="Name of the endpoint that serves it, if there is one.",
                        max_length=40,
                    ),
                ),
                (
                    "adapter",
                    models.CharField(
                        blank=True, help_text="Folder of the LoRA adapter.", max_length=500
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="finetune.model",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="models",
                        to="labeling.project",
                    ),
                ),
                (
                    "run",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="model",
                        to="runs.run",
                    ),
                ),
                (
                    "snapshot",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="models",
                        to="reward.snapshot",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"),
                        condition=models.Q(("state", "promoted")),
                        name="model_one_promoted",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ["candidate", "promoted", "archived"])),
                        name="model_state_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("adapter", ""), ("run__isnull", False), _connector="OR"
                        ),
                        name="model_adapter_has_a_run",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("endpoint", ""),
                            models.Q(
                                ("adapter", ""),
                                ("parent", None),
                                ("run", None),
                                models.Q(("state", "promoted"), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="model_on_endpoint_is_not_ours",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="JudgeAgreement",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "instructions",
                    models.CharField(
                        help_text="Hash of the wording around the guideline.", max_length=16
                    ),
                ),
                (
                    "report",
                    models.JSONField(help_text="Agreement, interval, sources, verdicts by prompt."),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "guideline_version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="judge_agreements",
                        to="labeling.project",
                    ),
                ),
                (
                    "run",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="judge_agreement",
                        to="runs.run",
                    ),
                ),
                (
                    "judge",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="agreements",
                        to="finetune.model",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Evaluation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "judge",
                    models.CharField(
                        blank=True,
                        help_text="The judge: a reward model, an LLM judge or a rule. Empty if only people judge.",
                        max_length=60,
                    ),
                ),
                (
                    "alpha",
                    models.FloatField(
                        blank=True,
                        help_text="Error rate that all evaluations of the candidate share.",
                        null=True,
                    ),
                ),
                (
                    "margin",
                    models.FloatField(
                        blank=True,
                        help_text="Largest loss of win rate that still counts as not worse.",
                        null=True,
                    ),
                ),
                (
                    "sample_seed",
                    models.BigIntegerField(
                        blank=True,
                        help_text="Seed of the random sample of held-out prompts.",
                        null=True,
                    ),
                ),
                (
                    "prompts",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Ids of the registered prompts, in random order.",
                    ),
                ),
                (
                    "verdicts_per_prompt",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="People's verdicts of a prompt that count, together one unit.",
                        null=True,
                    ),
                ),
                (
                    "asks_people",
                    models.BooleanField(
                        default=False,
                        help_text="Whether blind comparisons are queued for reviewers.",
                    ),
                ),
                (
                    "judge_controls",
                    models.BooleanField(
                        default=False,
                        help_text="Whether the judge is a control variate of people's verdicts, which saves verdicts.",
                    ),
                ),
                (
                    "most_verdicts",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Most verdicts that people are asked for. Empty for all prompts.",
                        null=True,
                    ),
                ),
                (
                    "question",
                    models.CharField(
                        choices=[
                            ("these", "These reviewers"),
                            ("like them", "Reviewers like them"),
                        ],
                        default="these",
                        help_text="The reviewers that the conclusion is about.",
                        max_length=10,
                    ),
                ),
                (
                    "stopped_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When the open comparisons were taken off the queue, because the answer was clear.",
                        null=True,
                    ),
                ),
                (
                    "attempt",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Its number among the evaluations of the candidate with verdicts, from 1.",
                        null=True,
                    ),
                ),
                (
                    "report",
                    models.JSONField(default=dict, help_text="Win rate, interval, ties, lengths."),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="evaluations",
                        to="labeling.project",
                    ),
                ),
                (
                    "reward_model",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="reward.rewardmodel",
                    ),
                ),
                (
                    "run",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="evaluation",
                        to="runs.run",
                    ),
                ),
                (
                    "baseline",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="finetune.model",
                    ),
                ),
                (
                    "candidate",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="evaluations",
                        to="finetune.model",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("candidate"),
                        models.F("baseline"),
                        models.F("attempt"),
                        name="evaluation_attempt_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("alpha__gt", 0), ("alpha__lte", 0.1)),
                        name="evaluation_alpha",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("margin__gte", 0.01), ("margin__lte", 0.2)),
                        name="evaluation_margin",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("verdicts_per_prompt__gte", 1), ("verdicts_per_prompt__lte", 9)
                        ),
                        name="evaluation_verdicts_per_prompt",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("most_verdicts__gte", 1)),
                        name="evaluation_most_verdicts",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("question__in", ["these", "like them"])),
                        name="evaluation_question",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("judge_controls", False),
                            models.Q(("asks_people", True), models.Q(("judge", ""), _negated=True)),
                            _connector="OR",
                        ),
                        name="evaluation_control_has_a_judge",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("attempt", None),
                            models.Q(("alpha__isnull", False), ("attempt__gte", 1)),
                            _connector="OR",
                        ),
                        name="evaluation_attempt",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Conversation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("system_prompt", models.TextField(blank=True)),
                ("temperature", models.FloatField(default=0.7)),
                ("top_p", models.FloatField(default=0.95)),
                (
                    "max_tokens",
                    models.PositiveIntegerField(
                        default=0, help_text="0 means as many as the model can write."
                    ),
                ),
                ("revealed_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(default=database.clock.now)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="conversations",
                        to="labeling.project",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="conversations",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "left",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="finetune.model",
                    ),
                ),
                (
                    "right",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="finetune.model",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        models.F("project"),
                        models.OrderBy(models.F("id"), descending=True),
                        name="conversation_list",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("right", None),
                            models.Q(("right", models.F("left")), _negated=True),
                            _connector="OR",
                        ),
                        name="conversation_two_models",
                    ),
                    models.CheckConstraint(
                        condition=django.db.models.lookups.LessThanOrEqual(
                            django.db.models.functions.text.Length("system_prompt"), 8000
                        ),
                        name="conversation_system_prompt",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("temperature__gte", 0),
                            ("temperature__lte", 2),
                            ("top_p__gt", 0),
                            ("top_p__lte", 1),
                        ),
                        name="conversation_sampling",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Certificate",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "number",
                    models.PositiveIntegerField(help_text="Its number in the project, from 1."),
                ),
                (
                    "text",
                    models.TextField(
                        help_text="The signed file; see finetune.certificate.document."
                    ),
                ),
                (
                    "sha256",
                    models.CharField(
                        help_text="The id to which the next one refers.", max_length=64
                    ),
                ),
                ("issued_at", models.DateTimeField(auto_now_add=True)),
                (
                    "issued_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="certificates",
                        to="labeling.project",
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="certificates",
                        to="finetune.model",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("number"), name="certificate_number_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Turn",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.PositiveSmallIntegerField()),
                ("text", models.TextField()),
                (
                    "verdict",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("left", "Left is better"),
                            ("right", "Right is better"),
                            ("tie", "Tie"),
                            ("both_bad", "Both are bad"),
                        ],
                        max_length=8,
                    ),
                ),
                ("created_at", models.DateTimeField(default=database.clock.now)),
                (
                    "conversation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="turns",
                        to="finetune.conversation",
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        help_text="The task of its two answers, if there was a verdict or a lead had them ranked.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "ordering": ["number"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("conversation"), models.F("number"), name="turn_once"
                    ),
                    models.CheckConstraint(
                        condition=django.db.models.lookups.LessThanOrEqual(
                            django.db.models.functions.text.Length("text"), 16000
                        ),
                        name="turn_text",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Reply",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "side",
                    models.CharField(choices=[("left", "Left"), ("right", "Right")], max_length=8),
                ),
                ("text", models.TextField(blank=True)),
                (
                    "correction",
                    models.TextField(
                        blank=True, help_text="The answer as a person would write it."
                    ),
                ),
                (
                    "ending",
                    models.CharField(
                        choices=[
                            ("stop", "Complete"),
                            ("length", "Cut off at the maximum length"),
                            ("stopped", "Stopped"),
                            ("failed", "Failed"),
                        ],
                        max_length=8,
                    ),
                ),
                ("error", models.TextField(blank=True)),
                ("tokens", models.PositiveIntegerField(default=0)),
                ("seed", models.BigIntegerField(null=True)),
                ("created_at", models.DateTimeField(default=database.clock.now)),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="finetune.model",
                    ),
                ),
                (
                    "turn",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="answers",
                        to="finetune.turn",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="EvaluationItem",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sample", models.PositiveSmallIntegerField(default=0)),
                ("baseline_text", models.TextField()),
                ("candidate_text", models.TextField()),
                ("baseline_score", models.FloatField(null=True)),
                ("candidate_score", models.FloatField(null=True)),
                ("verdict", models.FloatField(blank=True, null=True)),
                (
                    "block",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Block of prompts, of which people judge one, if the judge is a control variate.",
                        null=True,
                    ),
                ),
                (
                    "candidate_response",
                    models.ForeignKey(
                        blank=True,
                        help_text="The candidate's response among the task's two.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.response",
                    ),
                ),
                (
                    "evaluation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="items",
                        to="finetune.evaluation",
                    ),
                ),
                (
                    "prompt",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="labeling.prompt"
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        blank=True,
                        help_text="The blind comparison by people, if one was requested.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("evaluation"),
                        models.F("prompt"),
                        models.F("sample"),
                        name="evaluation_item_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("verdict__in", [0.0, 0.5, 1.0])), name="verdict_known"
                    ),
                ],
            },
        ),
        migrations.RunSQL(
            EVALUATIONS,
            "DROP FUNCTION tiebreak_evaluation_frozen, tiebreak_verdict_frozen CASCADE;",
        ),
        migrations.RunSQL(CERTIFICATES, "DROP FUNCTION tiebreak_certificate_frozen CASCADE;"),
    ]
