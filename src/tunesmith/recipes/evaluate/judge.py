"""A judge: another model, behind any OpenAI-compatible endpoint, that gives each answer a number from 1 to 5."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tunesmith.core import outbound
from tunesmith.core.errors import FailureCode, JobFailure, TunesmithError
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.evaluate.journal import Journal, Steps, check_control
from tunesmith.recipes.evaluate.rows import Question
from tunesmith.recipes.evaluate.spec import KEY_VARIABLE, Judge

AT_ONCE = 4
TRIES = 3
TIMEOUT_S = 120.0
PAUSE_S = 1.0
"""Before the second try; doubled before the next."""
MAX_ANSWER_TOKENS = 512
LOWEST, HIGHEST = 1, 5
SAID = re.compile(r"(?:score|rating|grade)\W{0,5}(?:is\W{0,3})?([1-5](?:\.\d+)?)(?!\d)", re.IGNORECASE)
BARE = re.compile(r"(?<![\d.])([1-5](?:\.\d+)?)(?:\s*/\s*5)?(?![\d.])")


def judge_all(
    run: RunContext, judge: Judge, questions: Sequence[Question], answers: dict[int, dict[str, Any]], journal: Journal,
    steps: Steps,
) -> None:  # fmt: skip
    """Into the journal, by row: `judged` (1 to 5) and the judge's words, or `failed` and why. Raises `JobFailure` when nothing
    could be judged."""
    left = [question for question in questions if question.row not in journal.entries and question.row in answers]
    run.phase("evaluating", "judge")
    with _client(judge) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(left), AT_ONCE):
            check_control(run)
            part = left[start : start + AT_ONCE]
            journal.add(pool.map(lambda one: _judged(client, judge, one, answers[one.row]["answer"]), part))
            steps.tell("judge", len(journal.entries))
    failed = [entry for entry in journal.entries.values() if "judged" not in entry]
    if failed and len(failed) == len(journal.entries):
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            f"The judge could not be asked: {failed[0]['failed']}",
            hint=f"Check the address and the model's name; its key is the server's {KEY_VARIABLE}.",
        )


def _client(judge: Judge) -> httpx.Client:
    """The server has checked the address when the job was made; names may lead elsewhere since, so that each connection is
    checked anew. Redirects are not followed. Raises `InvalidInput` for what is no address of the web."""
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    place = outbound.checked_url(judge.base_url.rstrip("/"))
    transport = outbound.CheckedTransport(() if judge.public_only else outbound.EVERYWHERE, TIMEOUT_S)
    return httpx.Client(base_url=place, headers=headers, timeout=TIMEOUT_S, trust_env=False, transport=transport)


def _judged(client: httpx.Client, judge: Judge, question: Question, answer: str) -> dict[str, Any]:
    text = filled(judge, question.prompt, question.expected, answer)
    body = {
        "model": judge.model, "messages": [{"role": "user", "content": text}], "temperature": 0,
        "max_tokens": MAX_ANSWER_TOKENS,
    }  # fmt: skip
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            told = _told(client.post("/chat/completions", json=body))
        except (httpx.HTTPError, TunesmithError, ValueError) as error:
            problem = str(error) or type(error).__name__
            continue
        score = read_score(told)
        if score is not None:
            return {"row": question.row, "judged": score, "words": told[:2000]}
        problem = f"no number from {LOWEST} to {HIGHEST} in: {told[:200]!r}"
    return {"row": question.row, "failed": problem[:500]}


def filled(judge: Judge, question: str, reference: str, answer: str) -> str:
    """The judge's prompt. What stands in braces within an answer is left as it is."""
    values = {"criteria": judge.criteria, "question": question, "reference": reference, "answer": answer}
    return re.sub(r"\{(criteria|question|reference|answer)\}", lambda found: values[found[1]], judge.prompt)


def _told(answer: httpx.Response) -> str:
    """Raises `ValueError` for what is no answer, `httpx.HTTPStatusError` for a refusal."""
    answer.raise_for_status()
    try:
        return str(answer.json()["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the judge's endpoint does not answer as OpenAI's does") from error


def read_score(text: str) -> float | None:
    """The last number that is called a score; else the only number of the last line, else of the whole."""
    if said := SAID.findall(text):
        return float(said[-1])
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for part in (lines[-1:], lines):
        found = set(BARE.findall("\n".join(part)))
        if len(found) == 1:
            return float(found.pop())
    return None
