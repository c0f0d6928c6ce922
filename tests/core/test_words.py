"""The words that everyone shares: states, events, errors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.core import errors
from tunesmith.core.events import StepEvent, parse_event
from tunesmith.core.job_status import TRANSITIONS, JobStatus, check_transition


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    reached = {JobStatus.CREATED}
    for _ in JobStatus:
        reached |= {new for old in reached for new in TRANSITIONS[old]}
    assert reached == set(JobStatus)


@pytest.mark.parametrize("old", JobStatus)
@pytest.mark.parametrize("new", JobStatus)
def test_a_transition_is_allowed_or_refused_with_what_is_allowed(old: JobStatus, new: JobStatus) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(errors.Conflict, match=f"{old} cannot become {new}"):
            check_transition(old, new)


def test_a_completed_job_never_changes() -> None:
    assert not TRANSITIONS[JobStatus.COMPLETED]


@given(loss=st.floats(), grad_norm=st.none() | st.floats(), step=st.integers(0, 10**9))
def test_events_survive_the_trip_through_a_line(loss: float, grad_norm: float | None, step: int) -> None:
    sent = StepEvent(step=step, total_steps=1, epoch=0.5, loss=loss, learning_rate=1e-4, grad_norm=grad_norm)
    line = sent.model_dump_json()
    assert "\n" not in line
    got = parse_event(line)
    assert got.loss == loss or (math.isnan(got.loss) and math.isnan(loss))
    assert got.at == sent.at and got.step == step


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        parse_event('{"type": "phase", "phase": "loading", "surprise": 1}')


def test_every_failure_has_a_hint() -> None:
    assert set(errors.FAILURE_HINTS) == set(errors.FailureCode)


def all_errors(root: type = errors.TunesmithError) -> list[type[errors.TunesmithError]]:
    return [root, *(found for child in root.__subclasses__() for found in all_errors(child))]


def test_every_error_is_drawn_in_the_tree_with_its_status() -> None:
    for error in all_errors():
        if error.__module__ != errors.__name__ or error in (errors.TunesmithError, errors.JobFailure):
            continue
        line = next((line for line in (errors.__doc__ or "").splitlines() if f"─ {error.__name__} " in line), None)
        assert line, f"{error.__name__} is not in the tree at the top of errors.py"
        assert str(error.status) in line


def test_the_body_of_an_error() -> None:
    body = errors.InvalidInput("Bad.", hint="Do this.", details=[{"loc": "a"}]).body()
    assert body == {"error": "invalid_input", "message": "Bad.", "hint": "Do this.", "details": [{"loc": "a"}]}
    assert errors.NotFound().message == "There is nothing here by that id."
