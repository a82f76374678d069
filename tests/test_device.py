"""Where and how networks run."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from proard.common.device import keep_freed_memory
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


PEAK = "import torch; from proard.common.device import peak_memory; print(peak_memory(torch.device('cpu')))"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak may be that of the process before")
def test_the_peak_is_that_of_the_process_itself():
    """Not of the one that started it, which has had a gigabyte more."""

    def started(before: str) -> int:
        script = f"import subprocess, sys\n{before}\nsubprocess.run([sys.executable, '-c', {PEAK!r}], check=True)"
        return int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)

    small, large = started(""), started("a = b'1' * 2**30")
    assert small > 2**26
    assert abs(large - small) < 2**28
