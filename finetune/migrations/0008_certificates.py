"""Certificates of promotions, which cannot be changed."""

from django.conf import settings
from django.db import migrations, models
from django.db.models.deletion import PROTECT

# A certificate is deleted only with its project, which sets tiebreak.erasing.
FROZEN = """
CREATE FUNCTION tiebreak_certificate_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND coalesce(current_setting('tiebreak.erasing', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'certificate % was issued and cannot be changed', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER certificate_frozen BEFORE UPDATE OR DELETE ON finetune_certificate
    FOR EACH ROW EXECUTE FUNCTION tiebreak_certificate_frozen();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0007_endpoints"),
        ("labeling", "0029_promotion_policy"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
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
                        null=True, on_delete=PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=PROTECT, related_name="certificates", to="finetune.model"
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=PROTECT, related_name="certificates", to="labeling.project"
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
        migrations.RunSQL(FROZEN, "DROP FUNCTION tiebreak_certificate_frozen CASCADE;"),
    ]
