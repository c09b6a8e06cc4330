"""Tests of the priority of processes."""

import subprocess
import sys

import pytest

from serving.priority import AUTOGROUP

CODE = """
import os
from tests.serving.test_priority import niceness_of_session
print(os.getpriority(os.PRIO_PROCESS, 0), niceness_of_session())
"""


def niceness_of_session() -> str:
    """Return the niceness of this process's session, or "none".

    The kernel may lack the file. It is empty if a control group schedules the process instead.
    """
    words = AUTOGROUP.read_text().split() if AUTOGROUP.exists() else []
    return words[-1] if words else "none"


@pytest.mark.parametrize("leads_session", [True, False])
def test_a_command_runs_with_a_low_priority_and_so_does_its_own_session(leads_session):
    _, before = priorities([sys.executable, "-c", CODE], leads_session)
    command = [sys.executable, "-m", "serving.priority", "7", sys.executable, "-c", CODE]
    niceness, of_session = priorities(command, leads_session)
    assert niceness == "7"
    assert of_session == ("7" if leads_session and before != "none" else before)


def priorities(command: list[str], leads_session: bool) -> list[str]:
    """Run a command, in a session of its own if asked, and return the two figures it prints."""
    return subprocess.run(
        command, start_new_session=leads_session, capture_output=True, text=True, check=True
    ).stdout.split()
