"""A live progress bar for a job: step, loss, tokens a second, time left. The same for the server's jobs and local ones."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tunesmith.cli.output import Output, duration, err, say
from tunesmith.core.errors import TunesmithError
from tunesmith.core.metrics import values_of
from tunesmith.core.plain_text import one_line

MOST_NUMBERS = 3
"""Of a line."""
ASK_EVERY_S = 2.0


def watch(
    events: Iterable[dict[str, Any]], title: str, *, waiting_for: Callable[[], str] | None = None
) -> dict[str, Any]:
    """Show events as they come; returns the last status event, or an empty dict. With `--json`, one event a line.

    While the job waits in the queue, `waiting_for` is asked why every few seconds, and what it says is shown; with `--json`
    it is asked once each time that the job is queued, and told as a notice.
    """
    last: dict[str, Any] = {}
    if Output.as_json:
        for event in events:
            _write(event)
            last = event if event["type"] == "status" else last
            if waiting_for and event["type"] == "status" and event["new"] == "queued" and (why := _asked(waiting_for)):
                _write({"type": "notice", "level": "info", "code": "waiting", "message": why, "hint": ""})
        return last
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(one_line(title), total=None, numbers="waiting")
        began = threading.Event()
        if waiting_for:
            threading.Thread(target=_show_wait, args=(bar, task, waiting_for, began), daemon=True).start()
        try:
            for event in events:
                last = event if event["type"] == "status" else last
                if event["type"] != "status" or event["new"] != "queued":
                    began.set()
                _show(bar, task, event)
        finally:
            began.set()
    return last


def _write(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _asked(waiting_for: Callable[[], str]) -> str:
    with contextlib.suppress(TunesmithError):  # the server is away: the events tell
        return waiting_for()
    return ""


def _show_wait(bar: Progress, task: Any, waiting_for: Callable[[], str], began: threading.Event) -> None:
    """Why the job waits, until it has begun; where there is no terminal, in a line whenever it is another reason."""
    told = ""
    while not began.wait(ASK_EVERY_S):
        if not (why := _asked(waiting_for)) or began.is_set():
            continue
        bar.update(task, numbers=one_line(f"waiting: {why}"))
        if why != told and not bar.console.is_terminal:
            bar.console.print(f"waiting: {why}", style="dim", markup=False, soft_wrap=True)
        told = why


def _show(bar: Progress, task: Any, event: dict[str, Any]) -> None:
    kind = event["type"]
    if kind == "step":
        numbers = [_measured(event)]
        if event.get("tokens_per_s"):
            numbers.append(f"{event['tokens_per_s']:.0f} tokens/s")
        if event.get("remaining_s") is not None:
            numbers.append(f"{duration(event['remaining_s'])} left")
        bar.update(task, total=event["total_steps"], completed=event["step"], numbers=", ".join(numbers))
    elif kind == "progress" and event["unit"] == "steps":
        bar.update(task, total=event["total"], completed=event["done"])
    elif kind == "phase" and event["phase"] not in ("training", "evaluating"):
        bar.update(task, numbers=event["phase"])
    elif kind == "evaluation":
        bar.console.print(f"step {event['step']}: held-out {_measured(event)}", style="dim")
    elif kind == "notice":
        style = {"warning": "yellow", "error": "red"}.get(event["level"], "dim")
        bar.console.print(f"{event['message']} {event.get('hint', '')}".strip(), style=style, markup=False)
    elif kind == "status" and event["new"] == "queued":
        bar.update(task, numbers=one_line(event.get("reason") or "waiting for its turn"))


def _measured(event: dict[str, Any]) -> str:
    """`loss 1.234, accuracy 0.912`"""
    few = list(values_of(event).items())[:MOST_NUMBERS]
    return ", ".join(f"{name.replace('_', ' ')} {float(value):.3f}" for name, value in few)


def say_end(status: dict[str, Any]) -> None:
    """One line on how it ended."""
    if Output.as_json or not status:
        return
    text = status["new"]
    if status.get("reason"):
        text += f": {status['reason']}"
    say(text)
    if status.get("hint"):
        say(status["hint"], "dim")
