#!/usr/bin/env python
"""Django's command-line utility. `python manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from config.local.services import provide_for_command

    provide_for_command(sys.argv)
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"tiebreak: {error}")
    except OSError as error:
        from django.conf import settings

        from recipes.machine.faults import storage_problem

        sentence = storage_problem(error, settings.VAR_DIR)
        if sentence is None:
            raise
        sys.exit(f"tiebreak: {sentence}")


if __name__ == "__main__":
    main()
