"""Several processes as one worker: real gloo ranks on the CPU."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.worker.job import wait_until

RANK = """
import os, sys, time
import torch
from torch import distributed
from tunesmith.worker.ranks import die_with_parent
die_with_parent()
distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
total = torch.tensor(float(rank + 1))
distributed.all_reduce(total)
open(f"{folder}/rank-{rank}", "w").write(str(float(total)))
mode = sys.argv[2]
if mode == "fail" and rank == 1:
    sys.exit(78)
if mode == "kill" and rank == 1:
    os.kill(os.getpid(), 9)
if mode != "good":
    distributed.barrier()
    time.sleep(60)
"""
LAUNCH = """
import sys
from tunesmith.worker.ranks import launch_ranks
code = launch_ranks([sys.executable, *sys.argv[1:]], 2)
open(sys.argv[2] + "/code", "w").write(str(code))
"""


def launch(tmp_path: Path, mode: str) -> subprocess.Popen[bytes]:
    (tmp_path / "rank.py").write_text(RANK)
    return subprocess.Popen([sys.executable, "-c", LAUNCH, str(tmp_path / "rank.py"), str(tmp_path), mode])


def test_ranks_find_each_other_and_end_well(tmp_path: Path) -> None:
    assert launch(tmp_path, "good").wait(60) == 0
    assert (tmp_path / "code").read_text() == "0"
    assert {(tmp_path / f"rank-{i}").read_text() for i in (0, 1)} == {"3.0"}


def test_a_failed_rank_ends_the_others_and_its_exit_code_is_told(tmp_path: Path) -> None:
    for mode, code in (("fail", {"78"}), ("kill", {"-9"})):
        folder = tmp_path / mode
        folder.mkdir()
        # Rank 0 waits in a barrier for its dead partner; it may fail of that first, within the same tenth of a second.
        assert launch(folder, mode).wait(60) == 0
        assert (folder / "code").read_text() in code | {"1"}


def test_no_rank_outlives_its_launcher(tmp_path: Path) -> None:
    process = launch(tmp_path, "wait")
    wait_until(lambda: (tmp_path / "rank-0").exists() and (tmp_path / "rank-1").exists())
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(ranks, 10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
