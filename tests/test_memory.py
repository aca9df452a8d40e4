"""Commands keep freed memory: layers after the first touch no new pages."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from eqmambair.memory import keep_freed_memory
kept = keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):  # of 64 MiB: glibc learns by itself to keep blocks of up to 32
    torch.ones(16 << 20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what glibc does")
def test_memory_is_kept_unless_told_otherwise():
    def faults(keep):
        environment = os.environ | {"EQMAMBAIR_KEEP_MEMORY": keep}
        kept, count = subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True).split()
        return kept == "True", int(count)

    kept, few = faults("1")
    if not kept:
        pytest.skip("this C library has no mallopt")
    left_alone, many = faults("0")
    assert not left_alone
    assert few < many / 2
