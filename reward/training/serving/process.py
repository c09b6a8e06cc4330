"""The process of the server of reward models: its log and the limit of its memory. Needs no torch."""

import resource
import sys


def log(text: str) -> None:
    print(f"scorer: {text}", file=sys.stderr, flush=True)


def limit_memory(megabytes: int) -> None:
    """Limit this process's memory, so that it fails before the machine runs out."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, hard))
