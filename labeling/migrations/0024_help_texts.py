"""Help texts only: runs no SQL."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0023_task_external_id"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="adjudication",
            name="shown_order",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.BigIntegerField(),
                blank=True,
                default=list,
                help_text="The order in which the lead saw the responses. The letters in the note refer to it.",
                size=None,
            ),
        ),
        migrations.AlterField(
            model_name="adjudication",
            name="tiers",
            field=models.JSONField(help_text="The tiers of a ranking, best first."),
        ),
        migrations.AlterField(
            model_name="criterion",
            name="meaning",
            field=models.CharField(help_text="The meaning in one sentence.", max_length=300),
        ),
        migrations.AlterField(
            model_name="criterion",
            name="scale",
            field=models.PositiveSmallIntegerField(
                default=5, help_text="The highest rating; the lowest is 1."
            ),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="attempt",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="The number of attempts at the current step."
            ),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="format",
            field=models.CharField(blank=True, help_text="Empty if detected.", max_length=40),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="mapping",
            field=models.JSONField(
                default=dict, help_text="The column names of each meaning, as set by the lead."
            ),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="name",
            field=models.CharField(help_text="The name of the uploaded file.", max_length=200),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="size",
            field=models.BigIntegerField(help_text="Size in bytes."),
        ),
        migrations.AlterField(
            model_name="fileimport",
            name="user",
            field=models.ForeignKey(
                help_text="Null for imports by the command.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            model_name="finding",
            name="dropped",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="The finding was right, and tasks continue without the response. If off, it was a false alarm.",
            ),
        ),
        migrations.AlterField(
            model_name="gold",
            name="project",
            field=models.ForeignKey(
                db_index=False,
                help_text="The project of the task.",
                on_delete=django.db.models.deletion.CASCADE,
                related_name="gold",
                to="labeling.project",
            ),
        ),
        migrations.AlterField(
            model_name="guidelineversion",
            name="change_note",
            field=models.CharField(
                blank=True,
                help_text="The changes in one sentence, shown to reviewers.",
                max_length=300,
            ),
        ),
        migrations.AlterField(
            model_name="guidelineversion",
            name="requalify",
            field=models.BooleanField(
                default=False,
                help_text="Reviewers have to qualify again when this version is published.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="allow_partial",
            field=models.BooleanField(
                default=False,
                help_text="Rankings may leave responses out. Responses left out are not compared with others.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="allow_ties",
            field=models.BooleanField(
                default=True,
                help_text="Responses may share a rank. If off, every ranking is a strict order.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="current_version",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                help_text="The published guideline for new rankings.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="labeling.guidelineversion",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="gold_percent",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="The share of gold among a reviewer's tasks. Gold has a known answer and looks like any other task.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="lease_minutes",
            field=models.PositiveSmallIntegerField(
                default=30,
                help_text="The time for which a task is reserved for the reviewer who has it open.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="min_rationale",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="The minimum length of a rationale, in characters. 0 makes it optional.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="overlap",
            field=models.CharField(
                choices=[
                    ("fixed", "Every task gets the same number"),
                    ("sequential", "More only where reviewers disagree"),
                ],
                default="fixed",
                help_text="Whether to stop collecting rankings once the order of a task is clear.",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="qualification_percent",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="The share of qualification tasks that a reviewer must answer correctly before real work. 0 requires no qualification.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="rankings_at_most",
            field=models.PositiveSmallIntegerField(
                default=3,
                help_text="Sequential overlap: the maximum for a task on which reviewers disagree.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="rankings_per_task",
            field=models.PositiveSmallIntegerField(
                default=2, help_text="The number of independent rankings of a new task."
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="revision_hours",
            field=models.PositiveSmallIntegerField(
                default=24,
                help_text="The time during which reviewers may revise a ranking. 0 allows no revisions.",
            ),
        ),
        migrations.AlterField(
            model_name="project",
            name="simulated",
            field=models.BooleanField(
                default=False,
                help_text="The reviewers are programs. Pages that show their rankings say so.",
            ),
        ),
        migrations.AlterField(
            model_name="prompt",
            name="external_id",
            field=models.CharField(
                blank=True, help_text="The id in the source of the import.", max_length=200
            ),
        ),
        migrations.AlterField(
            model_name="prompt",
            name="file_import",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                help_text="The import that added it.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="prompts",
                to="labeling.fileimport",
            ),
        ),
        migrations.AlterField(
            model_name="ranking",
            name="extra",
            field=models.BooleanField(
                default=False,
                help_text="Submitted after the slot went to someone else, and kept as an extra ranking.",
            ),
        ),
        migrations.AlterField(
            model_name="ranking",
            name="file_import",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                help_text="The import that added it.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="rankings",
                to="labeling.fileimport",
            ),
        ),
        migrations.AlterField(
            model_name="ranking",
            name="strength",
            field=models.FloatField(
                blank=True, help_text="The strength of a graded pair, 1 to 3.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="response",
            name="file_import",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                help_text="The import that added it.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="responses",
                to="labeling.fileimport",
            ),
        ),
        migrations.AlterField(
            model_name="response",
            name="model_name",
            field=models.CharField(
                help_text="The model or person that wrote the response.", max_length=300
            ),
        ),
        migrations.AlterField(
            model_name="response",
            name="sampling",
            field=models.JSONField(
                blank=True, default=dict, help_text="Sampling parameters such as the temperature."
            ),
        ),
        migrations.AlterField(
            model_name="skip",
            name="draft",
            field=models.JSONField(help_text="The unfinished input, restored on undo.", null=True),
        ),
        migrations.AlterField(
            model_name="slot",
            name="ahead",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Leased as the reviewer's next task, not seen yet.",
            ),
        ),
        migrations.AlterField(
            model_name="slot",
            name="draft_by",
            field=models.ForeignKey(
                db_index=False,
                help_text="The author of the draft, also after the lease expired. They get the slot back first.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            model_name="slot",
            name="had_by",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.BigIntegerField(),
                help_text="The previous reviewers, written by a trigger. Their late rankings are kept.",
                null=True,
                size=None,
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="external_id",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="The id in the source of the import.",
                max_length=200,
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="file_import",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                help_text="The import that added it.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="tasks",
                to="labeling.fileimport",
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="out_of_use",
            field=models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="The task or its prompt is withdrawn, or too few of its responses are left. labeling.queue.out_of_use.refresh writes it.",
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="priority",
            field=models.PositiveSmallIntegerField(
                default=5, help_text="From 0 to 9. Tasks with 9 come first."
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="stopped_below",
            field=models.PositiveSmallIntegerField(
                editable=False,
                help_text="The number of rankings that sequential overlap could have requested when it stopped. Null if it did not decide about this task.",
                null=True,
            ),
        ),
    ]
