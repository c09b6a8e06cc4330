"""Content can be erased: what is frozen otherwise may change inside labeling.removal.erasing alone."""

from django.db import migrations, models
from django.db.models import Q

# `SET LOCAL tiebreak.erasing = 'on'` lasts until the transaction ends.
ERASING = "coalesce(current_setting('tiebreak.erasing', true), '') = 'on'"

FROZEN = """
CREATE OR REPLACE FUNCTION tiebreak_guideline_version_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'published' AND NOT {erasing} THEN
        RAISE EXCEPTION 'guideline version % is published and cannot be changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE OR REPLACE FUNCTION tiebreak_criterion_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE version bigint;
BEGIN
    version := COALESCE(OLD.version_id, NEW.version_id);
    IF NOT {erasing} AND EXISTS (SELECT 1 FROM labeling_guidelineversion
               WHERE id IN (OLD.version_id, NEW.version_id) AND state = 'published') THEN
        RAISE EXCEPTION 'guideline version % is published, its criteria cannot be changed', version
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
CREATE OR REPLACE FUNCTION tiebreak_ranking_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {erasing} THEN
        RETURN COALESCE(NEW, OLD);
    END IF;
    IF TG_OP = 'DELETE' OR OLD.superseded_at IS NOT NULL
       OR to_jsonb(OLD) - 'superseded_at' <> to_jsonb(NEW) - 'superseded_at' THEN
        RAISE EXCEPTION 'ranking % was submitted and cannot be changed; a revision supersedes it',
            OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION tiebreak_ranked_task_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT {erasing} AND EXISTS (SELECT FROM labeling_ranking
               WHERE task_id = COALESCE(OLD.task_id, NEW.task_id)) THEN
        RAISE EXCEPTION 'task % has rankings; the responses it ranks cannot be changed',
            COALESCE(OLD.task_id, NEW.task_id) USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
"""


def erasable(name):
    return [
        migrations.AddField(name, "erased_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddConstraint(
            name,
            models.CheckConstraint(
                condition=Q(("erased_at", None), ("withdrawn_at__isnull", False), _connector="OR"),
                name=f"{name}_erased_is_withdrawn",
            ),
        ),
    ]


class Migration(migrations.Migration):
    dependencies = [("labeling", "0015_withdrawals")]

    operations = [
        *erasable("prompt"),
        *erasable("response"),
        migrations.RunSQL(
            FROZEN.replace("{erasing}", ERASING), FROZEN.replace("{erasing}", "false")
        ),
    ]
