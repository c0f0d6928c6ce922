"""Training without a server: Ctrl-C pauses it, wherever it comes."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.dataprep.workbook import workbook
from tests.worker.job import Job
from tunesmith.cli.config import read_config
from tunesmith.cli.local import read_data, run
from tunesmith.core.errors import InvalidInput

SCRIPT = """
import json, sys, time
for step in range(1, 601):
    print(json.dumps({"step": step, "total_steps": 600, "loss": 1.0 / step}))
    time.sleep(0.1)
"""
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SCRIPT
"""Takes the five seconds that a script gets when it is asked to end."""


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Any:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def running(folder: Path) -> list[psutil.Process]:
    """The worker and its script."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_ctrl_c_pauses(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", SCRIPT)
    told = []
    for event in run(job.dir, 1):
        told.append(event)
        if event["type"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)  # here, in the consumer, as likely as anywhere else
    assert told[-1]["new"] == "paused" == job.exit().outcome
    assert "Ctrl-C once more" in next(event for event in told if event["type"] == "notice")["message"]
    assert not running(tmp_path)


def test_an_error_of_the_consumer_pauses_too(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", SCRIPT)
    with pytest.raises(BrokenPipeError), contextlib.closing(run(job.dir, 1)) as events:
        for event in events:
            if event["type"] == "step":
                raise BrokenPipeError
    assert job.exit().outcome == "paused" and not running(tmp_path)


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", DEAF)
    told = []
    for event in run(job.dir, 1):
        told.append(event)
        if (event["type"] == "step" and event["step"] == 2) or event["type"] == "notice":
            os.kill(os.getpid(), signal.SIGINT)
    assert told[-1]["new"] == "cancelled" and job.dir.read_exit() is None
    for process in running(tmp_path):
        process.wait(5)  # the kernel ends the script when its worker is gone
    assert not running(tmp_path)


def test_a_training_file_says_how_its_data_is_read(tmp_path: Path) -> None:
    inside: list[list[object]] = [["a title"], ["ask", "reply", "split"], ["q", "a", "train"], ["r", "b", "test"]]
    (tmp_path / "book.xlsx").write_bytes(workbook([["question", "answer"], ["outer", "rows"]], inside))
    told = "method: lora\nmodel: {name: tiny}\ntraining_data:\n  path: book.xlsx\n  sheet: S2\n  header_row: 2\n"
    mapped = "  shape: question_answer\n  mapping: {question: ask, answer: reply}\n"
    (tmp_path / "job.yaml").write_text(told + mapped)
    data, _, _ = read_data(read_config(tmp_path / "job.yaml"), tmp_path)
    assert (data.num_rows, data.mapping) == (2, {"question": "ask", "answer": "reply"})
    assert (data.split_column, data.num_held_out) == ("split", 1)
    (tmp_path / "job.yaml").write_text(told.replace("header_row: 2", "header_row: two") + "  sheets: S1\n")
    with pytest.raises(InvalidInput) as wrong:
        read_config(tmp_path / "job.yaml")
    assert {each["loc"] for each in wrong.value.details} == {"training_data.header_row", "training_data.sheets"}
