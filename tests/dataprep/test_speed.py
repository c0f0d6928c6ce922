"""A million rows of CSV are validated, profiled and stored in under 30 s and 1.5 GB on two cores; a tenth of it here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("num_rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_large_csv_within_its_time_and_memory(num_rows: int) -> None:
    command = [sys.executable, "bench/datasets.py", "--only-ours", "--rounds", "1", "--rows", str(num_rows)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"tunesmith +([\d.]+) s +(\d+) MB", done.stdout)
    assert found, done.stdout
    wall_s, peak_mb = float(found[1]), int(found[2])
    assert peak_mb < 1500
    assert wall_s < 30
