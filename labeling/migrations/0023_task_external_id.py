from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labeling", "0022_encoding_of_imports"),
    ]

    operations = [
        migrations.AddField(
            model_name="task",
            name="external_id",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Its name where it came from.",
                max_length=200,
            ),
        ),
    ]
