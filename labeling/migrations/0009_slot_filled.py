from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0008_gold_and_past_leases"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="slot",
            index=models.Index(
                models.F("project"),
                models.OrderBy(models.F("ranking"), descending=True),
                condition=models.Q(("ranking__isnull", False)),
                name="slot_filled",
            ),
        ),
    ]
