"""The curve in other trackers, and what happens when one of them breaks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.recipes.ground import Ground, events, losses, train
from tunesmith.recipes.blocks.tracking import Trackers
from tunesmith.recipes.lora.spec import LoraParams


def test_tensorboard_gets_the_curve(ground: Ground) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = ground.run(max_steps=4, batch_size=4, eval_steps=2, report_to=["tensorboard"])
    assert train(run) == "completed"
    read = EventAccumulator(str(run.dir.path / "tensorboard"))
    read.Reload()
    assert [point.step for point in read.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [point.value for point in read.Scalars("train/loss")] == pytest.approx(losses(run), rel=1e-5)
    assert [point.step for point in read.Scalars("eval/loss")] == [2, 4]


def test_a_tracker_that_breaks_stops_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def full(*_: object) -> None:
        raise OSError("No space left on the tracker")

    run = ground.run(max_steps=3, batch_size=4, report_to=["tensorboard"])
    monkeypatch.setattr(EventFileWriter, "add_event", full)
    assert train(run) == "completed" and len(losses(run)) == 3
    (notice,) = [event for event in events(run, "notice") if event.code == "tracker_failed"]
    assert "tensorboard" in notice.message and "No space left" in notice.message


def test_a_tracker_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("tunesmith.recipes.hyperparameters.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(ValidationError, match="pip install wandb"):
        LoraParams(report_to=["wandb"])
    assert LoraParams(report_to=["tensorboard", "tensorboard"]).report_to == ["tensorboard"]


def test_a_tracker_that_cannot_start_is_told(ground: Ground) -> None:
    run = ground.run(max_steps=3)
    Path(run.dir.path / "tensorboard").write_text("in the way")
    Trackers(run, ["tensorboard"], {"learning_rate": 1.0})
    assert [event.code for event in events(run, "notice")] == ["tracker_failed"]
