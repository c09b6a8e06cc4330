"""Django's cache is a table: large counts that a worker keeps for the pages."""

from django.core.management import call_command
from django.db import migrations


def create(apps, editor):
    call_command("createcachetable", database=editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    dependencies = [("labeling", "0009_slot_filled")]

    operations = [
        migrations.RunPython(create, migrations.RunPython.noop),
    ]
