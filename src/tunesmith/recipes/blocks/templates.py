"""Chat templates come with models, so they are rendered in a child process of their own: sandboxed by Jinja as ever, and
with a budget of time, memory and size for each conversation. A template that overruns it ends its child, not the worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jinja2 import TemplateError

from tunesmith.core.errors import BadData, FailureCode, JobFailure

RENDER_CPU_S = 1.0
"""Most processor time that one conversation may take."""
RENDER_MEMORY_BYTES = 512 * 1024**2
"""Most memory beyond what the process has when it begins."""
MAX_TEXT_BYTES = 1024**2
"""Longest text that a template may add to what it is given, each message counted four times."""
AT_ONCE_BYTES = 1024**2
"""How much text goes to the child at a time."""
REFUSALS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)
"""What a template raises: its own refusal, the sandbox's, and mistakes in it."""


class Part(NamedTuple):
    """The first `end` messages, with `prompt` up to where the answer to them begins."""

    end: int
    prompt: bool


class Conversation(NamedTuple):
    """Messages, and which parts of them are wanted as text."""

    messages: list[dict[str, Any]]
    parts: list[Part]
    tools: list[dict[str, Any]] | None = None


class _Child(NamedTuple):
    pid: int
    requests: BinaryIO
    answers: BinaryIO


class Renderer:
    """The chat template of one tokenizer. Threads may share it. The child is forked when it is first needed."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def render(
        self, messages: list[dict[str, Any]], *, prompt: bool = False, tools: list[dict[str, Any]] | None = None
    ) -> str:
        """The conversation as text, with `prompt` up to where the answer begins. Raises as `render_all`, and `BadData`."""
        found = self.render_all([Conversation(messages, [Part(len(messages), prompt)], tools)])[0]
        if isinstance(found, BadData):
            raise found
        return found[0]

    def render_all(self, conversations: Sequence[Conversation]) -> list[list[str] | BadData]:
        """For each conversation the texts of its parts, or why the template refuses it; many at once cost little more
        than one. Raises `JobFailure` (bad_data) when the template overruns its budget."""
        made: list[list[str] | BadData] = []
        waiting: list[Conversation] = []
        size_bytes = 0
        for number, conversation in enumerate(conversations, start=1):
            waiting.append(conversation)
            size_bytes += num_characters(conversation.messages)
            if size_bytes > AT_ONCE_BYTES or number == len(conversations):
                made += [_made(answer) for answer in self._ask(waiting)]
                waiting, size_bytes = [], 0
        return made

    def _ask(self, conversations: list[Conversation]) -> list[dict[str, Any]]:
        request = json.dumps(conversations).encode() + b"\n"
        with self._lock:
            if self._child is None:
                self._child = _start(self._tokenizer)
            try:
                self._child.requests.write(request)
                self._child.requests.flush()
                line = self._child.answers.readline()
            except BrokenPipeError:
                line = b""
            whole = line.endswith(b"\n")
            answers: list[dict[str, Any]] = json.loads(line) if whole else [{"overrun": self._end()}]
        for answer in answers:
            if "overrun" in answer:
                raise self._overrun(answer["overrun"])
        return answers

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _end(self) -> str:
        """Wait for the child's end; why it ended, in words."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.answers.close()
        with contextlib.suppress(BrokenPipeError):  # it has ended with a request unread
            child.requests.close()
        _, status = os.waitpid(child.pid, 0)
        timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
        return f"takes longer than {RENDER_CPU_S:g} s" if timed_out else "ends its process"

    def _overrun(self, what: str) -> JobFailure:
        name = Path(str(self._tokenizer.name_or_path)).name
        return JobFailure(
            FailureCode.BAD_DATA,
            f"The chat template of the model {name} {what} for one conversation.",
            hint="Use another model, or fix chat_template.jinja or tokenizer_config.json in its folder.",
        )


def _start(tokenizer: Any) -> _Child:
    """Fork: the child has the tokenizer already, and nothing needs to be loaded again."""
    # What rendering would import must be there: another thread may hold an import's lock just now.
    for name in ("jinja2.debug", "transformers.utils.chat_template_utils"):
        import_module(name)

    request_end, requests = os.pipe()
    answers, answer_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_child(request_end, answer_end)
            _answer_all(tokenizer, request_end, answer_end)
        finally:
            os._exit(0)
    os.close(request_end)
    os.close(answer_end)
    return _Child(pid, os.fdopen(requests, "wb"), os.fdopen(answers, "rb"))


def _become_child(*kept: int) -> None:
    """Let go of what was the parent's: its files, its signals, its garbage; and take no more memory than is allowed."""
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    low, high = sorted(kept)
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, max(high + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536)))
    if sys.platform == "linux":
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = data_pages * resource.getpagesize() + RENDER_MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def _answer_all(tokenizer: Any, request_end: int, answer_end: int) -> None:
    """One line in, one line out, until the parent closes its end. The kernel ends the process when one takes too long."""
    with os.fdopen(request_end, "rb") as requests, os.fdopen(answer_end, "wb") as answers:
        for line in requests:
            made = [_answer(tokenizer, *conversation) for conversation in json.loads(line)]
            answers.write(json.dumps(made).encode() + b"\n")
            answers.flush()


def num_characters(messages: Sequence[Mapping[str, Any]]) -> int:
    """Of all that is said and called, about."""
    return sum(len(message["content"] or "") + len(str(message.get("tool_calls", ""))) for message in messages)


def _answer(
    tokenizer: Any, messages: list[dict[str, Any]], parts: list[tuple[int, bool]], tools: list[dict[str, Any]] | None
) -> dict[str, Any]:
    most = MAX_TEXT_BYTES + 4 * num_characters(messages) + 4 * len(str(tools or ""))
    given = {"tools": tools} if tools else {}
    texts = []
    try:
        for end, prompt in parts:
            signal.setitimer(signal.ITIMER_PROF, RENDER_CPU_S)
            text = tokenizer.apply_chat_template(messages[:end], tokenize=False, add_generation_prompt=prompt, **given)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if len(text) > most:
                return {"overrun": f"makes more than {MAX_TEXT_BYTES >> 20} MiB of text"}
            texts.append(text)
    except MemoryError:
        return {"overrun": f"takes more than {RENDER_MEMORY_BYTES >> 20} MB of memory"}
    except REFUSALS as error:
        return {"refused": str(error)[:500] or type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"texts": texts}


def _made(answer: dict[str, Any]) -> list[str] | BadData:
    if "refused" in answer:
        return BadData(f"The model's chat template refuses the conversation: {answer['refused']}")
    return list(answer["texts"])
