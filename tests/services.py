"""Gives the tests a PostgreSQL and a Redis of their own, before Django reads its settings."""

import os

from config.env import BASE_DIR
from config.local.services import provide

os.environ.setdefault("TIEBREAK_VAR", str(BASE_DIR / "var" / "test"))
provide()
