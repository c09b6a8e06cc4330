"""The peak memory that a run reports, and the memory that it returns."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20


@pytest.mark.torch
def test_the_peak_of_the_parent_process_is_not_included() -> None:
    child = "from recipes.machine.memory import peak_memory_mb; print(peak_memory_mb())"
    block = b"x" * (1000 * MIB)
    result = subprocess.run([sys.executable, "-c", child], capture_output=True, check=True)
    assert 0 < float(result.stdout) < len(block) / MIB


@pytest.mark.torch
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim"
)
def test_freed_memory_below_a_block_in_use_is_returned_to_the_system() -> None:
    from recipes.machine.memory import free_memory

    blocks = [bytes(64 * 1024) for _ in range(3000)]  # small enough for the heap of malloc
    last = blocks.pop()  # it lies above the others, so malloc cannot shrink the heap by itself
    del blocks
    before = resident_mib()
    free_memory()
    assert resident_mib() < before - 100
    assert len(last) == 64 * 1024


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB
