"""Words of the last message, so that the admin finds a prompt among 100,000 without reading all."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("labeling", "0004_more_rules_of_the_database")]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX prompt_words ON labeling_prompt USING gin"
            " (to_tsvector('simple', left(messages #>> '{-1,content}', 100000)));",
            "DROP INDEX prompt_words;",
        ),
    ]
