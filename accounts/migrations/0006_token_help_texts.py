from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0005_token_turn")]

    operations = [
        migrations.AlterField(
            "token",
            "minute",
            models.BigIntegerField(
                default=0,
                editable=False,
                help_text="The minute of the newest request, counted from 1970.",
            ),
        ),
        migrations.AlterField(
            "token",
            "spent",
            models.PositiveIntegerField(
                default=0,
                editable=False,
                help_text="The number of responses scored in that minute.",
            ),
        ),
    ]
