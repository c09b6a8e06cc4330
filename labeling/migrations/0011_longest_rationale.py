from django.db import migrations, models
from django.db.models.functions import Length
from django.db.models.lookups import LessThanOrEqual


class Migration(migrations.Migration):
    dependencies = [("labeling", "0010_table_of_the_cache")]

    operations = [
        migrations.AddConstraint(
            model_name="project",
            constraint=models.CheckConstraint(
                condition=models.Q(min_rationale__lte=20000), name="project_min_rationale"
            ),
        ),
        migrations.AddConstraint(
            model_name="ranking",
            constraint=models.CheckConstraint(
                condition=LessThanOrEqual(Length("rationale"), 20000), name="ranking_rationale"
            ),
        ),
    ]
