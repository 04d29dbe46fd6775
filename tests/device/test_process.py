"""A device's process ends with the process that watches it."""

import os
import subprocess
import sys

import pytest

WAIT = "import sys, time; from leff.device.process import _end_with; _end_with(int(sys.argv[1]))"


@pytest.mark.parametrize("there", [True, False])
def test_a_device_ends_if_its_watcher_was_gone_before_it_looked(there):
    parent = os.getpid() if there else 2**22 + 1  # no process has such a number
    command = [sys.executable, "-c", f"{WAIT}; time.sleep(3)", str(parent)]
    done = subprocess.run(command, timeout=120, check=False)
    assert done.returncode == (0 if there else 1)
