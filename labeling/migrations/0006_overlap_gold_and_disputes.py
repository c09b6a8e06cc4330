"""Overlap, gold, qualification, adjudication, relabelling, findings, and the next task leased ahead."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0005_prompt_words"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Adjudication",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("tiers", models.JSONField(help_text="As in a ranking, best first.")),
                ("cut", models.PositiveSmallIntegerField(blank=True, null=True)),
                (
                    "cause",
                    models.CharField(
                        choices=[
                            ("guideline", "The guideline does not say, or can be read in two ways"),
                            ("mistake", "A reviewer did not follow the guideline"),
                            ("close", "The responses are about equally good"),
                            ("input", "The prompt or a response is broken or unclear"),
                            ("other", "Something else"),
                        ],
                        max_length=16,
                    ),
                ),
                ("note", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Finding",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("identity", "Says which model it is"),
                            ("truncated", "Looks cut off"),
                        ],
                        max_length=16,
                    ),
                ),
                ("excerpt", models.CharField(blank=True, max_length=300)),
                ("dismissed_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Gold",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "purpose",
                    models.CharField(
                        choices=[
                            ("check", "Check, among real work"),
                            ("qualification", "Qualification, before real work"),
                            ("training", "Training, with feedback"),
                        ],
                        default="check",
                        max_length=16,
                    ),
                ),
                (
                    "constraints",
                    models.JSONField(
                        help_text='[{"kind": "above", "a": 1, "b": 2}, {"kind": "unacceptable", "a": 3}, {"kind": "tie_allowed", "a": 1, "b": 4}]'
                    ),
                ),
                (
                    "explanation",
                    models.TextField(blank=True, help_text="Shown as feedback in training."),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("retired_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="GuidelineConfirmation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Qualification",
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
                        choices=[("open", "Under way"), ("passed", "Passed"), ("failed", "Failed")],
                        default="open",
                        max_length=16,
                    ),
                ),
                ("right", models.PositiveIntegerField(default=0)),
                ("asked", models.PositiveIntegerField(default=0)),
                ("ended_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="RelabelledTask",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RelabelSample",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("seed", models.BigIntegerField(default=0)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.RemoveConstraint(
            model_name="slot",
            name="slot_one_lease",
        ),
        migrations.AddField(
            model_name="guidelineversion",
            name="requalify",
            field=models.BooleanField(
                default=False,
                help_text="Publishing it ends every qualification: reviewers qualify anew.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="allow_partial",
            field=models.BooleanField(
                default=False,
                help_text="A ranking may leave responses out. What was left out is compared with nothing.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="allow_ties",
            field=models.BooleanField(
                default=True,
                help_text="Responses may share a place. Off: every ranking is a strict order.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="certainty",
            field=models.FloatField(
                default=0.9,
                help_text="Sequential overlap: a task is clear when its best response, and the side of every pair, is this probable.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="gold_percent",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="The share of a reviewer's tasks that are gold: the answer is known, and it looks like any other.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="min_rationale",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="Shortest rationale, in characters. 0: it is optional."
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="overlap",
            field=models.CharField(
                choices=[
                    ("fixed", "Every task gets the same number"),
                    ("sequential", "More only where reviewers disagree"),
                ],
                default="fixed",
                help_text="Whether to stop asking once the order of a task is clear.",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="qualification_percent",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="The share of qualification tasks that a reviewer must get right before real work. 0: none is needed.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="rankings_at_most",
            field=models.PositiveSmallIntegerField(
                default=3,
                help_text="Sequential overlap: a task on which reviewers disagree gets up to this many.",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="revision_hours",
            field=models.PositiveSmallIntegerField(
                default=24, help_text="How long reviewers may revise what they sent. 0: not at all."
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="sees_models",
            field=models.CharField(
                choices=[
                    ("leads", "Leads only"),
                    ("after", "Reviewers too, once they have ranked the task"),
                    ("always", "Everyone, at any time"),
                ],
                default="leads",
                max_length=16,
                verbose_name="who sees model names",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="sees_others",
            field=models.CharField(
                choices=[
                    ("leads", "Leads only"),
                    ("after", "Reviewers too, once they have ranked the task"),
                    ("always", "Everyone, at any time"),
                ],
                default="leads",
                max_length=16,
                verbose_name="who sees others' rankings",
            ),
        ),
        migrations.AddField(
            model_name="project",
            name="sees_suggestions",
            field=models.CharField(
                choices=[
                    ("leads", "Leads only"),
                    ("after", "Reviewers too, once they have ranked the task"),
                    ("always", "Everyone, at any time"),
                ],
                default="leads",
                max_length=16,
                verbose_name="who sees a reward model's scores",
            ),
        ),
        migrations.AddField(
            model_name="slot",
            name="ahead",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Leased as the reviewer's next, not seen yet.",
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="held",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Nobody gets it: a lead looks first at what was found in its responses.",
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="kind",
            field=models.CharField(
                choices=[
                    ("ranking", "Ranking"),
                    ("comparison", "Blind comparison of two models"),
                    ("gold", "Gold: the answer is known"),
                    ("relabel", "Ranked anew under another guideline"),
                ],
                default="ranking",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("overlap", "fixed"),
                    models.Q(
                        ("rankings_at_most__gte", models.F("rankings_per_task")),
                        ("rankings_at_most__lte", 9),
                    ),
                    _connector="OR",
                ),
                name="project_overlap",
            ),
        ),
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(("certainty__gt", 0.5), ("certainty__lt", 1)),
                name="project_certainty",
            ),
        ),
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(("gold_percent__lte", 50)), name="project_gold"
            ),
        ),
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(("qualification_percent__lte", 100)),
                name="project_qualification",
            ),
        ),
        migrations.AddConstraint(
            model_name="slot",
            constraint=models.UniqueConstraint(
                models.F("project"),
                models.F("reviewer"),
                models.F("ahead"),
                condition=models.Q(("leased_until__isnull", False)),
                name="slot_one_lease",
            ),
        ),
        migrations.AddConstraint(
            model_name="slot",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("ahead", False), ("leased_until__isnull", False), _connector="OR"
                ),
                name="slot_ahead_is_leased",
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="by",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="guideline_version",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AddField(
            model_name="adjudication",
            name="task",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="adjudication",
                to="labeling.task",
            ),
        ),
        migrations.AddField(
            model_name="finding",
            name="dismissed_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="finding",
            name="response",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="findings",
                to="labeling.response",
            ),
        ),
        migrations.AddField(
            model_name="gold",
            name="created_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="gold",
            name="task",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT, related_name="gold", to="labeling.task"
            ),
        ),
        migrations.AddField(
            model_name="guidelineconfirmation",
            name="reviewer",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="guidelineconfirmation",
            name="version",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="confirmations",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AddField(
            model_name="qualification",
            name="project",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="qualifications",
                to="labeling.project",
            ),
        ),
        migrations.AddField(
            model_name="qualification",
            name="reviewer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="qualification",
            name="version",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AddField(
            model_name="relabelledtask",
            name="copy",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="relabelled",
                to="labeling.task",
            ),
        ),
        migrations.AddField(
            model_name="relabelledtask",
            name="original",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="labeling.task"
            ),
        ),
        migrations.AddField(
            model_name="relabelsample",
            name="after",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AddField(
            model_name="relabelsample",
            name="before",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AddField(
            model_name="relabelsample",
            name="created_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="relabelsample",
            name="project",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="relabel_samples",
                to="labeling.project",
            ),
        ),
        migrations.AddField(
            model_name="relabelledtask",
            name="sample",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="tasks",
                to="labeling.relabelsample",
            ),
        ),
        migrations.AddConstraint(
            model_name="finding",
            constraint=models.UniqueConstraint(
                models.F("response"), models.F("kind"), name="finding_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="finding",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("dismissed_at", None), ("dismissed_by", None)),
                    ("dismissed_at__isnull", False),
                    _connector="OR",
                ),
                name="finding_dismissed_at",
            ),
        ),
        migrations.AddConstraint(
            model_name="guidelineconfirmation",
            constraint=models.UniqueConstraint(
                models.F("reviewer"), models.F("version"), name="guideline_confirmed_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="qualification",
            constraint=models.UniqueConstraint(
                models.F("project"),
                models.F("reviewer"),
                condition=models.Q(("state", "open")),
                name="qualification_one_open",
            ),
        ),
        migrations.AddConstraint(
            model_name="qualification",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("ended_at", None), ("state", "open")),
                    models.Q(
                        models.Q(("state", "open"), _negated=True), ("ended_at__isnull", False)
                    ),
                    _connector="OR",
                ),
                name="qualification_ended_at",
            ),
        ),
        migrations.AddConstraint(
            model_name="qualification",
            constraint=models.CheckConstraint(
                condition=models.Q(("right__lte", models.F("asked"))), name="qualification_right"
            ),
        ),
        migrations.AddConstraint(
            model_name="relabelledtask",
            constraint=models.UniqueConstraint(
                models.F("sample"), models.F("original"), name="relabelled_once"
            ),
        ),
    ]
