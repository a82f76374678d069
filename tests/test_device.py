"""Where and how networks run."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from proard.device import keep_freed_memory
keep_freed_memory({keep})
def work(): torch.zeros(64 * 2**18).add_(1)  # 64 MiB: 16384 pages
for _ in range(8): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the C library of Linux")
def test_freed_memory_is_handed_out_again():
    found = [
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    ]
    assert found[0] < 1000 < found[1]  # pages that the system had to clear: none of 131072, or all
