"""All migrations up to 0031 in one step, which an empty database applies much faster."""

import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import django.utils.timezone
from django.conf import settings
from django.core.management import call_command
from django.db import migrations, models

import database.clock

# Published guidelines and their criteria never change, except while content is erased.
GUIDELINES = """
CREATE OR REPLACE FUNCTION tiebreak_guideline_version_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'published' AND NOT coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RAISE EXCEPTION 'guideline version % is published and cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE OR REPLACE FUNCTION tiebreak_criterion_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE version bigint;
BEGIN
    version := COALESCE(OLD.version_id, NEW.version_id);
    IF NOT coalesce(current_setting('tiebreak.erasing', true), '') = 'on' AND EXISTS (SELECT 1 FROM labeling_guidelineversion
               WHERE id IN (OLD.version_id, NEW.version_id) AND state = 'published') THEN
        RAISE EXCEPTION 'guideline version % is published, its criteria cannot be changed', version
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER guideline_version_frozen
    BEFORE DELETE OR UPDATE ON labeling_guidelineversion
    FOR EACH ROW EXECUTE FUNCTION tiebreak_guideline_version_frozen();
CREATE TRIGGER criterion_frozen
    BEFORE INSERT OR DELETE OR UPDATE ON labeling_criterion
    FOR EACH ROW EXECUTE FUNCTION tiebreak_criterion_frozen();
"""

# Submitted rankings never change: a revision supersedes them.
RANKINGS = """
CREATE OR REPLACE FUNCTION tiebreak_ranking_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RETURN COALESCE(NEW, OLD);
    END IF;
    IF TG_OP = 'DELETE' OR OLD.superseded_at IS NOT NULL
       OR to_jsonb(OLD) - 'superseded_at' <> to_jsonb(NEW) - 'superseded_at' THEN
        RAISE EXCEPTION 'ranking % was submitted and cannot be changed; a revision supersedes it',
            OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ranking_frozen
    BEFORE DELETE OR UPDATE ON labeling_ranking
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranking_frozen();
"""

# A task ranks 2 to 9 responses to its own prompt, which cannot change once they are ranked.
# A join would be planned once for all tasks of an import, for tables of another size.
TASKS = """
CREATE OR REPLACE FUNCTION tiebreak_check_task(checked bigint) RETURNS void LANGUAGE plpgsql
SET enable_seqscan TO 'off' AS $$
DECLARE prompt bigint; responses integer; strangers integer;
BEGIN
    SELECT prompt_id INTO prompt FROM labeling_task WHERE id = checked;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE prompt <> (
            SELECT response.prompt_id FROM labeling_response response
            WHERE response.id = place.response_id))
        INTO responses, strangers
        FROM labeling_taskresponse place WHERE place.task_id = checked;
    IF strangers > 0 THEN
        RAISE EXCEPTION 'task % holds responses to another prompt than its own', checked
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF responses NOT BETWEEN 2 AND 9 THEN
        RAISE EXCEPTION 'task % has % responses; a task ranks 2 to 9', checked, responses
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_task_size() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_check_task(NEW.id);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_task_kept_its_size() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_check_task(OLD.task_id);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_ranked_task_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(current_setting('tiebreak.erasing', true), '') = 'on' AND EXISTS (SELECT FROM labeling_ranking
               WHERE task_id = COALESCE(OLD.task_id, NEW.task_id)) THEN
        RAISE EXCEPTION 'task % has rankings; the responses it ranks cannot be changed',
            COALESCE(OLD.task_id, NEW.task_id) USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE CONSTRAINT TRIGGER task_size
    AFTER INSERT ON labeling_task
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tiebreak_task_size();
CREATE CONSTRAINT TRIGGER task_kept_its_size
    AFTER DELETE OR UPDATE OF task_id, response_id ON labeling_taskresponse
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tiebreak_task_kept_its_size();
CREATE TRIGGER ranked_task_frozen
    BEFORE DELETE OR UPDATE OF task_id, response_id, "position" ON labeling_taskresponse
    FOR EACH ROW EXECUTE FUNCTION tiebreak_ranked_task_frozen();
"""

# A slot is filled by a ranking of its task and reviewer, and lists its past reviewers.
SLOTS = """
CREATE OR REPLACE FUNCTION tiebreak_slot_ranking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM labeling_ranking WHERE id = NEW.ranking_id
                   AND task_id = NEW.task_id AND reviewer_id = NEW.reviewer_id) THEN
        RAISE EXCEPTION 'slot % cannot be filled by ranking %, of another task or reviewer',
            NEW.id, NEW.ranking_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_slot_past_reviewers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(OLD.reviewer_id = ANY(NEW.past_reviewers), false) THEN
        NEW.past_reviewers := array_append(NEW.past_reviewers, OLD.reviewer_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slot_ranking
    BEFORE INSERT OR UPDATE OF ranking_id ON labeling_slot
    FOR EACH ROW WHEN ((new.ranking_id IS NOT NULL)) EXECUTE FUNCTION tiebreak_slot_ranking();
CREATE TRIGGER slot_past_reviewers
    BEFORE UPDATE OF reviewer_id ON labeling_slot
    FOR EACH ROW WHEN (((old.reviewer_id IS DISTINCT FROM new.reviewer_id) AND (old.reviewer_id IS NOT NULL)))
    EXECUTE FUNCTION tiebreak_slot_past_reviewers();
"""

# Removed members and deactivated users lose their reservations.
MEMBERS = """
CREATE OR REPLACE FUNCTION tiebreak_free_reservations(person bigint, of_project bigint) RETURNS void
    LANGUAGE sql AS $$
    WITH held AS MATERIALIZED (
        SELECT id FROM labeling_slot
        WHERE reviewer_id = person AND leased_until IS NOT NULL
          AND (of_project IS NULL OR project_id = of_project)
        ORDER BY id FOR UPDATE
    )
    UPDATE labeling_slot slot SET
        reviewer_id = NULL, leased_until = NULL, ahead = false,
        shown_order = CASE WHEN draft_by_id IS NOT NULL THEN shown_order END,
        shown_at = CASE WHEN draft_by_id IS NOT NULL THEN shown_at END,
        position = nextval('labeling_queue_position')
    FROM held WHERE held.id = slot.id
$$;
CREATE OR REPLACE FUNCTION tiebreak_member_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_free_reservations(OLD.user_id, OLD.project_id);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_user_deactivated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tiebreak_free_reservations(NEW.id, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER member_removed
    AFTER DELETE ON labeling_membership
    FOR EACH ROW EXECUTE FUNCTION tiebreak_member_removed();
CREATE TRIGGER member_replaced
    AFTER UPDATE OF user_id, project_id ON labeling_membership
    FOR EACH ROW WHEN (((old.user_id <> new.user_id) OR (old.project_id <> new.project_id)))
    EXECUTE FUNCTION tiebreak_member_removed();
CREATE TRIGGER user_deactivated
    AFTER UPDATE OF is_active ON accounts_user
    FOR EACH ROW WHEN ((old.is_active AND (NOT new.is_active)))
    EXECUTE FUNCTION tiebreak_user_deactivated();
"""

# Positions of slots, and settings that keep the front of the queue short.
QUEUE = """
CREATE SEQUENCE labeling_queue_position;
ALTER TABLE labeling_slot ALTER COLUMN position SET DEFAULT nextval('labeling_queue_position');
ALTER TABLE labeling_slot SET (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE labeling_queuecursor SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
"""

# Words of the last message, so that the admin finds a prompt among 100,000 without reading all.
PROMPT_WORDS = (
    "CREATE INDEX prompt_words ON labeling_prompt USING gin"
    " (to_tsvector('simple', left(messages #>> '{-1,content}', 100000)));"
)


def create_cache(apps, editor):
    call_command("createcachetable", database=editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("labeling", "0001_initial"),
        ("labeling", "0002_rules_of_the_database"),
        ("labeling", "0003_cheaper_queue"),
        ("labeling", "0004_more_rules_of_the_database"),
        ("labeling", "0005_prompt_words"),
        ("labeling", "0006_overlap_gold_and_disputes"),
        ("labeling", "0007_dropped_findings"),
        ("labeling", "0008_gold_and_past_leases"),
        ("labeling", "0009_slot_filled"),
        ("labeling", "0010_table_of_the_cache"),
        ("labeling", "0011_longest_rationale"),
        ("labeling", "0012_orders_of_notes_and_skips"),
        ("labeling", "0013_file_imports"),
        ("labeling", "0014_skips_can_be_undone"),
        ("labeling", "0015_withdrawals"),
        ("labeling", "0016_erasing"),
        ("labeling", "0017_stopped_tasks_and_removed_members"),
        ("labeling", "0018_column_mappings"),
        ("labeling", "0019_clock_of_the_database"),
        ("labeling", "0020_imports_can_be_undone"),
        ("labeling", "0021_plain_labels"),
        ("labeling", "0022_encoding_of_imports"),
        ("labeling", "0023_task_external_id"),
        ("labeling", "0024_help_texts"),
        ("labeling", "0025_cheaper_check_of_tasks"),
        ("labeling", "0026_plain_names"),
        ("labeling", "0027_help_of_certainty"),
        ("labeling", "0028_plain_help_texts"),
        ("labeling", "0029_promotion_policy"),
        ("labeling", "0030_withdrawn_data"),
        ("labeling", "0031_chat"),
    ]

    dependencies = [
        ("accounts", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Guideline",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("title", models.CharField(max_length=120)),
            ],
        ),
        migrations.CreateModel(
            name="GuidelineVersion",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.PositiveIntegerField(editable=False)),
                (
                    "state",
                    models.CharField(
                        choices=[("draft", "Draft"), ("published", "Published")],
                        default="draft",
                        editable=False,
                        max_length=16,
                    ),
                ),
                ("text", models.TextField(help_text="Markdown.")),
                (
                    "change_note",
                    models.CharField(
                        blank=True,
                        help_text="One sentence that tells reviewers what has changed.",
                        max_length=300,
                    ),
                ),
                (
                    "requalify",
                    models.BooleanField(
                        default=False,
                        help_text="Whether reviewers must qualify again when this version is published.",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("published_at", models.DateTimeField(editable=False, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "guideline",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="versions",
                        to="labeling.guideline",
                    ),
                ),
                (
                    "published_by",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["guideline", "-number"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("guideline"),
                        models.F("number"),
                        name="guideline_version_number_once",
                    ),
                    models.UniqueConstraint(
                        models.F("guideline"),
                        condition=models.Q(("state", "draft")),
                        name="guideline_one_draft",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("published_at__isnull", False), ("state", "published")),
                            models.Q(("published_at__isnull", True), ("state", "draft")),
                            _connector="OR",
                        ),
                        name="guideline_published_has_time",
                    ),
                ],
            },
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
                (
                    "reviewer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="confirmations",
                        to="labeling.guidelineversion",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("reviewer"), models.F("version"), name="guideline_confirmed_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Criterion",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.SlugField(
                        help_text="A short key for exports, such as honesty.", max_length=40
                    ),
                ),
                (
                    "meaning",
                    models.CharField(
                        help_text="One sentence that says what the criterion measures.",
                        max_length=300,
                    ),
                ),
                (
                    "scale",
                    models.PositiveSmallIntegerField(
                        default=5, help_text="The highest possible rating. The lowest is 1."
                    ),
                ),
                ("position", models.PositiveSmallIntegerField(default=0)),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="criteria",
                        to="labeling.guidelineversion",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "criteria",
                "ordering": ["position", "id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("version"), models.F("name"), name="criterion_name_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("scale__range", (2, 10))), name="criterion_scale"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Project",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("slug", models.SlugField(max_length=60, unique=True)),
                ("name", models.CharField(max_length=120)),
                ("description", models.TextField(blank=True)),
                (
                    "rankings_per_task",
                    models.PositiveSmallIntegerField(
                        default=2, help_text="The number of reviewers who rank each new task."
                    ),
                ),
                (
                    "overlap",
                    models.CharField(
                        choices=[
                            ("fixed", "Every task gets the same number"),
                            ("sequential", "More only where reviewers disagree"),
                        ],
                        default="fixed",
                        help_text="Whether to stop collecting rankings once the order of a task is clear.",
                        max_length=16,
                    ),
                ),
                (
                    "rankings_at_most",
                    models.PositiveSmallIntegerField(
                        default=3,
                        help_text="With sequential overlap, the maximum number of rankings per task.",
                    ),
                ),
                (
                    "certainty",
                    models.FloatField(
                        default=0.9,
                        help_text="With sequential overlap, a task is finished once its best response and the order of every pair have at least this probability.",
                    ),
                ),
                (
                    "allow_ties",
                    models.BooleanField(
                        default=True,
                        help_text="Whether responses may share a rank. If not, every ranking is a strict order.",
                    ),
                ),
                (
                    "allow_partial",
                    models.BooleanField(
                        default=False,
                        help_text="Whether a ranking may leave out responses. They are then not compared with others.",
                    ),
                ),
                (
                    "min_rationale",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="The minimum length of a rationale, in characters. 0 makes it optional.",
                    ),
                ),
                (
                    "revision_hours",
                    models.PositiveSmallIntegerField(
                        default=24,
                        help_text="The number of hours for which reviewers may revise a ranking. 0 allows no revisions.",
                    ),
                ),
                (
                    "sees_models",
                    models.CharField(
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
                (
                    "sees_others",
                    models.CharField(
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
                (
                    "sees_suggestions",
                    models.CharField(
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
                (
                    "gold_percent",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="The percentage of gold among a reviewer's tasks. Gold has a known answer and looks like any other task.",
                    ),
                ),
                (
                    "qualification_percent",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="The percentage of qualification tasks that a reviewer must answer correctly before real work. 0 requires no qualification.",
                    ),
                ),
                (
                    "lease_minutes",
                    models.PositiveSmallIntegerField(
                        default=30,
                        help_text="The number of minutes for which a task is reserved for the reviewer who has it open.",
                    ),
                ),
                (
                    "promotion_policy",
                    models.CharField(
                        choices=[
                            ("people", "People's verdicts"),
                            ("judge", "People's verdicts, or a judge's"),
                        ],
                        default="people",
                        help_text="The verdicts that must prove a fine-tuned model better before it is promoted.",
                        max_length=16,
                    ),
                ),
                (
                    "promote_withdrawn",
                    models.BooleanField(
                        default=False,
                        help_text="Whether a model that was trained on withdrawn data can be promoted without a reason.",
                    ),
                ),
                (
                    "simulated",
                    models.BooleanField(
                        default=False,
                        help_text="Whether the reviewers are programs. Pages that show their rankings say so.",
                    ),
                ),
                ("archived_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "current_version",
                    models.ForeignKey(
                        blank=True,
                        editable=False,
                        help_text="The published guideline version under which new rankings are made.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("rankings_per_task__range", (1, 9))),
                        name="project_rankings_per_task",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("lease_minutes__range", (1, 1440))),
                        name="project_lease",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("min_rationale__lte", 20000)),
                        name="project_min_rationale",
                    ),
                    models.CheckConstraint(
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
                    models.CheckConstraint(
                        condition=models.Q(("certainty__gt", 0.5), ("certainty__lt", 1)),
                        name="project_certainty",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("promotion_policy__in", ["people", "judge"])),
                        name="project_promotion_policy",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("gold_percent__lte", 50)), name="project_gold"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("qualification_percent__lte", 100)),
                        name="project_qualification",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        choices=[("reviewer", "Reviewer"), ("lead", "Lead")],
                        default="reviewer",
                        max_length=16,
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="memberships",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="memberships",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("user"), name="member_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("role__in", ["reviewer", "lead"])),
                        name="membership_role_known",
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="guideline",
            name="project",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="guideline",
                to="labeling.project",
            ),
        ),
        migrations.CreateModel(
            name="FileImport",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                (
                    "name",
                    models.CharField(help_text="The name of the uploaded file.", max_length=200),
                ),
                ("size", models.BigIntegerField(help_text="Size in bytes.")),
                (
                    "format",
                    models.CharField(
                        blank=True,
                        help_text="The name of the format, or empty if it is to be detected.",
                        max_length=40,
                    ),
                ),
                ("encoding", models.CharField(default="utf-8", max_length=20)),
                (
                    "mapping",
                    models.JSONField(
                        default=dict,
                        help_text="The columns for each meaning, if a lead has set the meanings.",
                    ),
                ),
                ("any_criteria", models.BooleanField(default=False)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("checking", "Checking"),
                            ("unclear", "Waiting for the meaning of columns"),
                            ("ready", "Ready to import"),
                            ("importing", "Importing"),
                            ("imported", "Imported"),
                            ("undoing", "Undoing"),
                            ("undone", "Undone"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="checking",
                        max_length=16,
                    ),
                ),
                ("token", models.PositiveIntegerField(default=0)),
                (
                    "attempt",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="The number of times that a worker has started the current step.",
                    ),
                ),
                ("heartbeat_at", models.DateTimeField(null=True)),
                ("cancel_requested", models.BooleanField(default=False)),
                ("prompts_read", models.PositiveBigIntegerField(default=0)),
                ("report", models.JSONField(default=dict)),
                ("problem", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        help_text="The lead who uploaded the file, or null if the command imported it.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="file_imports",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        models.F("heartbeat_at"),
                        condition=models.Q(("state__in", ["checking", "importing", "undoing"])),
                        name="file_import_active",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "state__in",
                                [
                                    "checking",
                                    "unclear",
                                    "ready",
                                    "importing",
                                    "imported",
                                    "undoing",
                                    "undone",
                                    "failed",
                                    "cancelled",
                                ],
                            )
                        ),
                        name="file_import_state",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "failed"), _negated=True),
                            models.Q(("problem", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="file_import_problem",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ColumnMapping",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("shape", models.CharField(max_length=64)),
                ("columns", models.JSONField()),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="column_mappings",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("shape"), name="column_mapping_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Prompt",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("withdrawn_at", models.DateTimeField(editable=False, null=True)),
                (
                    "withdrawn_reason",
                    models.CharField(
                        blank=True, db_default="", default="", editable=False, max_length=300
                    ),
                ),
                ("messages", models.JSONField()),
                ("content_hash", models.CharField(editable=False, max_length=64)),
                (
                    "external_id",
                    models.CharField(
                        blank=True,
                        help_text="The prompt's id in the imported file.",
                        max_length=200,
                    ),
                ),
                ("meta", models.JSONField(blank=True, default=dict)),
                ("erased_at", models.DateTimeField(editable=False, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "file_import",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        help_text="The import that added this row.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="prompts",
                        to="labeling.fileimport",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="prompts",
                        to="labeling.project",
                    ),
                ),
                (
                    "withdrawn_by",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        models.F("project"),
                        models.F("id"),
                        condition=models.Q(("withdrawn_at__isnull", False)),
                        name="prompt_withdrawn",
                    ),
                    models.Index(
                        models.F("file_import"),
                        condition=models.Q(("file_import__isnull", False)),
                        name="prompt_imported",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"), models.F("content_hash"), name="prompt_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("erased_at", None), ("withdrawn_at__isnull", False), _connector="OR"
                        ),
                        name="prompt_erased_is_withdrawn",
                    ),
                ],
            },
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
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="qualifications",
                        to="labeling.project",
                    ),
                ),
                (
                    "reviewer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"),
                        models.F("reviewer"),
                        condition=models.Q(("state", "open")),
                        name="qualification_one_open",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at", None), ("state", "open")),
                            models.Q(
                                models.Q(("state", "open"), _negated=True),
                                ("ended_at__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="qualification_ended_at",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("right__lte", models.F("asked"))),
                        name="qualification_right",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="QueueCursor",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("priority", models.PositiveSmallIntegerField()),
                ("position", models.BigIntegerField(default=0)),
                ("rescanned_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="labeling.project"
                    ),
                ),
                (
                    "reviewer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("project"),
                        models.F("reviewer"),
                        models.F("priority"),
                        name="queue_cursor_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Ranking",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("tiers", models.JSONField()),
                ("cut", models.PositiveSmallIntegerField(blank=True, null=True)),
                (
                    "strength",
                    models.FloatField(
                        blank=True,
                        help_text="For a graded pair, the strength of the preference from 1 to 3.",
                        null=True,
                    ),
                ),
                (
                    "ratings",
                    models.JSONField(
                        default=dict, help_text='{"response id": {"criterion": rating}}'
                    ),
                ),
                (
                    "flags",
                    models.JSONField(default=dict, help_text='{"response id": ["unsafe", …]}'),
                ),
                ("rationale", models.TextField(blank=True)),
                (
                    "shown_order",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
                ("active_seconds", models.FloatField(default=0)),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("review", "Reviewer"),
                            ("import", "Import"),
                            ("simulation", "Simulation"),
                            ("chat", "Chat"),
                        ],
                        default="review",
                        max_length=16,
                    ),
                ),
                (
                    "idempotency_key",
                    models.UUIDField(default=uuid.uuid4, editable=False, unique=True),
                ),
                ("superseded_at", models.DateTimeField(blank=True, null=True)),
                (
                    "extra",
                    models.BooleanField(
                        default=False,
                        help_text="Whether the ranking arrived after someone else had taken its slot, and is kept in addition.",
                    ),
                ),
                (
                    "removed_at",
                    models.DateTimeField(
                        editable=False,
                        help_text="When its reviewer's data was withdrawn. The row is then empty.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(default=database.clock.now)),
                (
                    "file_import",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        help_text="The import that added this row.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="rankings",
                        to="labeling.fileimport",
                    ),
                ),
                (
                    "guideline_version",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="rankings",
                        to="labeling.guidelineversion",
                    ),
                ),
                (
                    "reviewer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="rankings",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "supersedes",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="superseded_by",
                        to="labeling.ranking",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
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
                (
                    "after",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
                (
                    "before",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
                (
                    "created_by",
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
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="relabel_samples",
                        to="labeling.project",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Response",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("withdrawn_at", models.DateTimeField(editable=False, null=True)),
                (
                    "withdrawn_reason",
                    models.CharField(
                        blank=True, db_default="", default="", editable=False, max_length=300
                    ),
                ),
                ("text", models.TextField()),
                (
                    "model_name",
                    models.CharField(
                        help_text="The model or person that wrote the response.", max_length=300
                    ),
                ),
                (
                    "sampling",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="Sampling parameters such as the temperature.",
                    ),
                ),
                ("seed", models.BigIntegerField(blank=True, null=True)),
                ("external_id", models.CharField(blank=True, max_length=200)),
                ("erased_at", models.DateTimeField(editable=False, null=True)),
                ("identity", models.CharField(editable=False, max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "file_import",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        help_text="The import that added this row.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="responses",
                        to="labeling.fileimport",
                    ),
                ),
                (
                    "prompt",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="responses",
                        to="labeling.prompt",
                    ),
                ),
                (
                    "withdrawn_by",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        models.F("prompt"),
                        models.F("id"),
                        condition=models.Q(("withdrawn_at__isnull", False)),
                        name="response_withdrawn",
                    ),
                    models.Index(
                        models.F("file_import"),
                        condition=models.Q(("file_import__isnull", False)),
                        name="response_imported",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("prompt"), models.F("identity"), name="response_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("erased_at", None), ("withdrawn_at__isnull", False), _connector="OR"
                        ),
                        name="response_erased_is_withdrawn",
                    ),
                ],
            },
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
                        choices=[("identity", "Reveals its model"), ("truncated", "Looks cut off")],
                        max_length=16,
                    ),
                ),
                ("excerpt", models.CharField(blank=True, max_length=300)),
                ("dismissed_at", models.DateTimeField(null=True)),
                (
                    "dropped",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="Whether a lead dropped the response. If not, the finding was dismissed as a false alarm.",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "dismissed_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "response",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="findings",
                        to="labeling.response",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("response"), models.F("kind"), name="finding_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("dismissed_at", None), ("dismissed_by", None)),
                            ("dismissed_at__isnull", False),
                            _connector="OR",
                        ),
                        name="finding_dismissed_at",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("dropped", False), ("dismissed_at__isnull", False), _connector="OR"
                        ),
                        name="finding_dropped",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("withdrawn_at", models.DateTimeField(editable=False, null=True)),
                (
                    "withdrawn_reason",
                    models.CharField(
                        blank=True, db_default="", default="", editable=False, max_length=300
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("ranking", "Ranking"),
                            ("comparison", "Blind comparison of two models"),
                            ("gold", "Gold: the answer is known"),
                            ("relabel", "Ranked again under another guideline"),
                        ],
                        default="ranking",
                        max_length=16,
                    ),
                ),
                (
                    "priority",
                    models.PositiveSmallIntegerField(
                        default=5, help_text="From 0 to 9. Tasks with 9 come first."
                    ),
                ),
                ("rankings_wanted", models.PositiveSmallIntegerField()),
                (
                    "held",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="Whether the task is hidden from reviewers until a lead has checked its findings.",
                    ),
                ),
                (
                    "inactive",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        editable=False,
                        help_text="Whether the task or its prompt is withdrawn, or too few of its responses are left. Only labeling.queue.withdrawals.refresh writes this field.",
                    ),
                ),
                (
                    "stopped_below",
                    models.PositiveSmallIntegerField(
                        editable=False,
                        help_text="The number of rankings that sequential overlap could have requested when it stopped. Null if it did not decide about this task.",
                        null=True,
                    ),
                ),
                (
                    "external_id",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="The task's id in the imported file.",
                        max_length=200,
                    ),
                ),
                ("identity", models.CharField(editable=False, max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "file_import",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        help_text="The import that added this row.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="tasks",
                        to="labeling.fileimport",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tasks",
                        to="labeling.project",
                    ),
                ),
                (
                    "prompt",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tasks",
                        to="labeling.prompt",
                    ),
                ),
                (
                    "withdrawn_by",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Slot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.PositiveSmallIntegerField()),
                ("priority", models.PositiveSmallIntegerField()),
                ("position", models.BigIntegerField()),
                ("leased_until", models.DateTimeField(null=True)),
                (
                    "ahead",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="Whether the slot is leased as the reviewer's next task, which they have not seen yet.",
                    ),
                ),
                (
                    "shown_order",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), null=True, size=None
                    ),
                ),
                ("shown_at", models.DateTimeField(null=True)),
                ("draft", models.JSONField(null=True)),
                (
                    "past_reviewers",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        help_text="The previous reviewers, written by a trigger. Their late rankings are kept.",
                        null=True,
                        size=None,
                    ),
                ),
                (
                    "draft_by",
                    models.ForeignKey(
                        db_index=False,
                        help_text="The reviewer who wrote the draft, even after the lease has expired. They get the slot back first.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="slots",
                        to="labeling.project",
                    ),
                ),
                (
                    "ranking",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="slot",
                        to="labeling.ranking",
                    ),
                ),
                (
                    "reviewer",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="slots",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="slots",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        models.F("project"),
                        models.OrderBy(models.F("priority"), descending=True),
                        models.F("position"),
                        condition=models.Q(("reviewer", None)),
                        name="slot_free",
                    ),
                    models.Index(
                        models.F("project"),
                        models.OrderBy(models.F("ranking"), descending=True),
                        condition=models.Q(("ranking__isnull", False)),
                        name="slot_filled",
                    ),
                    models.Index(
                        models.F("leased_until"),
                        condition=models.Q(("leased_until__isnull", False)),
                        name="slot_leases",
                    ),
                    models.Index(
                        models.F("project"),
                        models.F("draft_by"),
                        condition=models.Q(("draft_by__isnull", False), ("reviewer", None)),
                        name="slot_unfinished",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("task"), models.F("number"), name="slot_number_once"
                    ),
                    models.UniqueConstraint(
                        models.F("task"), models.F("reviewer"), name="slot_reviewer_once"
                    ),
                    models.UniqueConstraint(
                        models.F("project"),
                        models.F("reviewer"),
                        models.F("ahead"),
                        condition=models.Q(("leased_until__isnull", False)),
                        name="slot_one_lease",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("ahead", False), ("leased_until__isnull", False), _connector="OR"
                        ),
                        name="slot_ahead_is_leased",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("leased_until", None), ("ranking", None), ("reviewer", None)),
                            models.Q(
                                ("leased_until__isnull", False),
                                ("ranking", None),
                                ("reviewer__isnull", False),
                            ),
                            models.Q(
                                ("leased_until", None),
                                ("ranking__isnull", False),
                                ("reviewer__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="slot_free_leased_or_filled",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Skip",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("unclear", "The prompt is unclear"),
                            ("expertise", "I do not know the subject"),
                            ("guideline", "Not covered by the guideline"),
                            ("harmful", "I do not want to read this"),
                            ("broken", "Something is broken"),
                            ("other", "Something else"),
                        ],
                        max_length=16,
                    ),
                ),
                ("note", models.CharField(blank=True, max_length=500)),
                (
                    "shown_order",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        default=list,
                        help_text="The order in which the reviewer saw the responses; see labeling.core.lettering.",
                        size=None,
                    ),
                ),
                (
                    "draft",
                    models.JSONField(
                        help_text="The unfinished answer, which is restored if the skip is undone.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(default=database.clock.now, editable=False)),
                (
                    "reviewer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="skips",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="skips",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        models.F("reviewer"),
                        models.OrderBy(models.F("id"), descending=True),
                        name="skip_history",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("task"), models.F("reviewer"), name="skip_once"
                    )
                ],
            },
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
                (
                    "sample",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tasks",
                        to="labeling.relabelsample",
                    ),
                ),
                (
                    "copy",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="relabelled",
                        to="labeling.task",
                    ),
                ),
                (
                    "original",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("sample"), models.F("original"), name="relabelled_once"
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="ranking",
            name="task",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="rankings",
                to="labeling.task",
            ),
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
                    models.TextField(
                        blank=True,
                        help_text="The reasons for the answer, shown as feedback in training.",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("retired_at", models.DateTimeField(blank=True, null=True)),
                (
                    "created_by",
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
                        db_index=False,
                        help_text="The project to which the task belongs.",
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="gold",
                        to="labeling.project",
                    ),
                ),
                (
                    "task",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="gold",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "gold",
                "indexes": [
                    models.Index(
                        models.F("project"),
                        models.F("purpose"),
                        models.F("id"),
                        name="gold_of_project",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Adjudication",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "tiers",
                    models.JSONField(
                        help_text="The lead's order: tiers of response ids, best first."
                    ),
                ),
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
                (
                    "shown_order",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        blank=True,
                        default=list,
                        help_text="The order in which the lead saw the responses. The letters in the note refer to it.",
                        size=None,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "by",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "guideline_version",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="labeling.guidelineversion",
                    ),
                ),
                (
                    "task",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adjudication",
                        to="labeling.task",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="TaskResponse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("position", models.PositiveSmallIntegerField()),
                (
                    "withdrawn",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        editable=False,
                        help_text="Whether the response is withdrawn, copied here so that a claim needs no join.",
                    ),
                ),
                (
                    "response",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="places",
                        to="labeling.response",
                    ),
                ),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="places",
                        to="labeling.task",
                    ),
                ),
            ],
            options={
                "ordering": ["task", "position"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("task"), models.F("position"), name="task_position_once"
                    ),
                    models.UniqueConstraint(
                        models.F("task"), models.F("response"), name="task_response_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("position__lt", 9)), name="task_position_below_nine"
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="task",
            name="responses",
            field=models.ManyToManyField(
                related_name="tasks", through="labeling.TaskResponse", to="labeling.response"
            ),
        ),
        migrations.AddIndex(
            model_name="ranking",
            index=models.Index(
                models.F("reviewer"),
                models.OrderBy(models.F("id"), descending=True),
                name="ranking_history",
            ),
        ),
        migrations.AddIndex(
            model_name="ranking",
            index=models.Index(
                models.F("file_import"),
                condition=models.Q(("file_import__isnull", False)),
                name="ranking_imported",
            ),
        ),
        migrations.AddConstraint(
            model_name="ranking",
            constraint=models.UniqueConstraint(
                models.F("task"),
                models.F("reviewer"),
                condition=models.Q(("superseded_at", None)),
                name="ranking_current_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="ranking",
            constraint=models.CheckConstraint(
                condition=models.Q(("active_seconds__gte", 0)), name="ranking_active_seconds"
            ),
        ),
        migrations.AddConstraint(
            model_name="ranking",
            constraint=models.CheckConstraint(
                condition=django.db.models.lookups.LessThanOrEqual(
                    django.db.models.functions.text.Length("rationale"), 20000
                ),
                name="ranking_rationale",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("project"),
                models.F("id"),
                condition=models.Q(("held", True)),
                name="task_held",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("project"),
                models.F("id"),
                condition=models.Q(("inactive", True)),
                name="task_inactive",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("file_import"),
                condition=models.Q(("file_import__isnull", False)),
                name="task_imported",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.UniqueConstraint(
                models.F("project"), models.F("identity"), name="task_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(("priority__range", (0, 9))), name="task_priority"
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(("rankings_wanted__range", (1, 9))), name="task_rankings_wanted"
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(("withdrawn_at", None), ("inactive", True), _connector="OR"),
                name="task_withdrawn_is_inactive",
            ),
        ),
        migrations.RunSQL(QUEUE, "DROP SEQUENCE labeling_queue_position CASCADE;"),
        migrations.RunSQL(
            GUIDELINES,
            "DROP FUNCTION tiebreak_guideline_version_frozen, tiebreak_criterion_frozen CASCADE;",
        ),
        migrations.RunSQL(RANKINGS, "DROP FUNCTION tiebreak_ranking_frozen CASCADE;"),
        migrations.RunSQL(
            TASKS,
            "DROP FUNCTION "
            "tiebreak_check_task, "
            "tiebreak_task_size, "
            "tiebreak_task_kept_its_size, "
            "tiebreak_ranked_task_frozen CASCADE;",
        ),
        migrations.RunSQL(
            SLOTS,
            "DROP FUNCTION tiebreak_slot_ranking, tiebreak_slot_past_reviewers CASCADE;",
        ),
        migrations.RunSQL(
            MEMBERS,
            "DROP FUNCTION "
            "tiebreak_free_reservations, "
            "tiebreak_member_removed, "
            "tiebreak_user_deactivated CASCADE;",
        ),
        migrations.RunSQL(PROMPT_WORDS, "DROP INDEX prompt_words;"),
        migrations.RunPython(create_cache, migrations.RunPython.noop),
    ]
