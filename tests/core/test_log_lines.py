"""What a job's log says of each event, and how its lines are told from what the process printed."""

from __future__ import annotations

import pytest

from tunesmith.core.events import (
    CheckpointEvent,
    EvaluationEvent,
    MetricsEvent,
    NoticeEvent,
    PhaseEvent,
    ProgressEvent,
    StepEvent,
)
from tunesmith.core.job_status import Phase
from tunesmith.core.log_lines import is_wanted, level_of, line, same_again, sentence_of

STEP = StepEvent(
    step=1200, total_steps=5000, epoch=0.5, values={"loss": 19.3412}, learning_rate=1.5e-5, tokens_per_s=12345.6
)


@pytest.mark.parametrize(
    ("event", "level", "sentence"),
    [
        (STEP, "info", "Step 1,200 of 5,000: loss 19.34, learning rate 0.000015; 12,346 tokens/s."),
        (STEP.model_copy(update={"values": {"loss": float("nan")}, "tokens_per_s": None}), "info", "Step 1,200 of 5,000: loss nan, learning rate 0.000015."),
        (StepEvent(step=3, total_steps=3, values={"loss": 12345.6, "top_5": 0.5}), "info", "Step 3 of 3: loss 12350, top 5 0.5."),
        (EvaluationEvent(step=10, values={"loss": 1.5, "perplexity": 4.4817}, is_best=True), "info", "Evaluation at step 10: held-out loss 1.5, perplexity 4.482, the best so far."),
        (CheckpointEvent(step=10, path="checkpoints/step-000010", size_bytes=1_250_000, reason="pause"), "info", "Checkpoint of step 10 written to checkpoints/step-000010, 1.2 MB (to pause)."),
        (NoticeEvent(message="It is low.", hint="Add some.", level="warning"), "warning", "It is low. Add some."),
        (PhaseEvent(phase=Phase.TOKENIZING, detail="faq"), "info", "Tokenizing: faq."),
    ],
)  # fmt: skip
def test_each_event_has_its_sentence(event: object, level: str, sentence: str) -> None:
    assert sentence_of(event) == (level, sentence)


def test_what_others_show_has_no_line() -> None:
    assert sentence_of(MetricsEvent(values={"a": 1.0})) is None
    assert sentence_of(ProgressEvent(phase=Phase.LOADING, done=1, total=2)) is None


def test_a_line_is_one_line_and_known_by_its_level() -> None:
    told = line("warning", "Two\nlines \x1b[31mred")
    assert told.count("\n") == 1 and "\x1b" not in told
    assert level_of(told.encode()) == "warning"
    assert level_of(b"Loading 50%|#####     |\r" + line("info", "Step 1").encode()) == "info"
    assert level_of(b"WARNING: a library\n") == level_of(b"said 2026-11-30T13:46:34Z ERROR here\n") == "output"
    assert [is_wanted(told.encode(), level) for level in ("info", "warning", "error", "output")] == [
        True,
        True,
        False,
        False,
    ]
    assert is_wanted(b"printed\n", "output") and not is_wanted(b"printed\n", "info")


def test_a_repeated_step_is_the_same_at_another_speed() -> None:
    slower = STEP.model_copy(update={"tokens_per_s": 1.0})
    assert same_again(sentence_of(STEP)[1]) == same_again(sentence_of(slower)[1])  # type: ignore[index]
    without = STEP.model_copy(update={"tokens_per_s": None})
    assert same_again(sentence_of(STEP)[1]) == same_again(sentence_of(without)[1])  # type: ignore[index]
    other = STEP.model_copy(update={"values": {"loss": 19.0}})
    assert same_again(sentence_of(STEP)[1]) != same_again(sentence_of(other)[1])  # type: ignore[index]
