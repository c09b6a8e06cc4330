"""The process of the server of reward models: its log, and the limit of its memory.

This module does not need torch.
"""

import resource
import sys


def log(text: str) -> None:
    print(f"scorer: {text}", file=sys.stderr, flush=True)


def limit_memory(megabytes: int) -> None:
    """Limit the memory of this process, so that it fails before the machine runs out of memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, hard))
