"""What llama.cpp makes of a GGUF file: perplexity, greedy answers, tokens, speed. Each in a process of its own.

A file that llama.cpp chokes on may end the process that loads it; so the loading is done by a child
(`python -m tunesmith.recipes.blocks.llama_cpp`), which reads its task from standard input and answers with one line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData, TunesmithError, Unavailable, UnsupportedFormat
from tunesmith.recipes.blocks import gguf_native
from tunesmith.recipes.gguf import check_gguf

DEFAULT_WINDOW = 512
"""Maximum length of a row, tokens."""
SPEED_PROMPT = "Tell a long story about a lighthouse keeper."
TIMEOUT_S = 1800.0

Message = dict[str, str]


class Looked(NamedTuple):
    """What was asked of one file; what was not asked is empty or 0."""

    perplexity: float = 0.0
    num_tokens: int = 0
    """Predicted tokens that the perplexity is the mean of."""
    answers: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    tokens_per_s: float = 0.0
    """Generated tokens a second, one stream."""


def look(
    gguf: Path,
    *,
    rows: Sequence[Sequence[int]] = (),
    texts: Sequence[str] = (),
    questions: Sequence[str | Sequence[Message]] = (),
    speed_tokens: int = 0,
    adapter: Path | None = None,
    max_tokens: int = 32,
    window: int = DEFAULT_WINDOW,
    timeout_s: float = TIMEOUT_S,
) -> Looked:
    """Load the file once and do all that is asked.

    `rows`: token numbers, for the perplexity. `texts`: to be cut into tokens. `questions`: a text to go on with, or messages
    of a chat; answered greedily with at most `max_tokens`. `speed_tokens`: how many to generate for measuring the speed.
    `adapter`: a LoRA adapter as GGUF, to lie over the model. Raises `BadData` for files that cannot be used,
    `Unavailable` without llama.cpp.
    """
    for path in (gguf, *([adapter] if adapter else [])):
        check_gguf(path)
    if not gguf_native.is_here():
        raise Unavailable("llama.cpp is not installed here.", hint=gguf_native.HOW)
    task = {
        "gguf": str(gguf), "rows": [list(map(int, row)) for row in rows], "texts": list(texts), "questions": list(questions),
        "speed_tokens": speed_tokens, "adapter": str(adapter or ""), "max_tokens": max_tokens, "window": window,
    }  # fmt: skip
    told = _ask_child(gguf, task, timeout_s)
    return Looked(**{**told, "answers": tuple(told["answers"]), "tokens": tuple(map(tuple, told["tokens"]))})


def perplexity(gguf: Path, rows: Sequence[Sequence[int]], window: int = DEFAULT_WINDOW) -> tuple[float, int]:
    """`(perplexity, predicted tokens)` of rows of token numbers; each row is cut at `window` tokens. Raises as `look`."""
    found = look(gguf, rows=rows, window=window)
    return found.perplexity, found.num_tokens


def greedy(gguf: Path, question: str | Sequence[Message], max_tokens: int = 32, *, adapter: Path | None = None) -> str:
    """The most likely continuation of a text, or answer to messages in the file's own chat template. Raises as `look`."""
    return look(gguf, questions=[question], max_tokens=max_tokens, adapter=adapter).answers[0]


def speed(gguf: Path, num_tokens: int = 64) -> float:
    """Generated tokens a second, one stream, all cores. Raises as `look`."""
    return look(gguf, speed_tokens=num_tokens).tokens_per_s


def check_tokens(gguf: Path, words: Path) -> None:
    """Compare a file with the tokenizer in the folder `words`; nothing is compared where llama.cpp is not installed. Raises
    `UnsupportedFormat` naming what is cut otherwise, `BadData` for a file that llama.cpp cannot use."""
    if not gguf_native.is_here():
        return
    command = [sys.executable, "-m", "tunesmith.recipes.blocks.gguf_tokens", str(gguf), str(words)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BadData(f"llama.cpp did not finish with {gguf.name} in {TIMEOUT_S:.0f} s.") from None
    lines = result.stdout.strip().splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    if told is None:
        raise BadData(f"llama.cpp cannot use the file: it ended with code {result.returncode}.", hint="Make it again.")
    if "message" in told:
        raise UnsupportedFormat(told["message"], hint=told["hint"])


def _ask_child(gguf: Path, task: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tunesmith.recipes.blocks.llama_cpp"]
    try:
        result = subprocess.run(command, input=json.dumps(task).encode(), capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BadData(f"llama.cpp did not finish with {gguf.name} in {timeout_s:.0f} s.") from None
    lines = result.stdout.decode(errors="replace").strip().splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if result.returncode or "error" in told:
        said = told.get("error") or f"it ended with code {result.returncode}"
        raise BadData(f"llama.cpp cannot use {gguf.name}: {said}", hint="Make the file again.")
    return dict(told)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """In the child."""
    gguf, found = Path(task["gguf"]), Looked()
    if task["rows"] or task["texts"]:
        with gguf_native.open_model(gguf, int(task["window"])) as model:
            if task["adapter"]:
                model.put_over(Path(task["adapter"]))
            scored = [model.log_probabilities(row) for row in task["rows"] if len(row) > 1]
            count = sum(len(row) for row in scored)
            loss = -sum(float(row.sum()) for row in scored) / max(1, count)
            tokens = tuple(tuple(model.tokenize(text, adds_special=False)) for text in task["texts"])
        found = Looked(perplexity=math.exp(loss) if count else 0.0, num_tokens=count, tokens=tokens)
    if task["questions"] or task["speed_tokens"]:
        server = _serve(gguf, int(task["window"]), task["adapter"])
        answers = tuple(_answer(server, question, int(task["max_tokens"])) for question in task["questions"])
        found = found._replace(answers=answers)
        if task["speed_tokens"]:
            found = found._replace(tokens_per_s=_speed(server, int(task["speed_tokens"])))
    return found._asdict()


def _serve(gguf: Path, window: int, adapter: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.use_jinja, params.warmup, params.verbosity = (
        max(window, 1024),
        1,
        True,
        False,
        0,
    )
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = gguf_native.threads()
    if adapter:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = adapter, 1.0
        params.lora_adapters = [info]
    return xllamacpp.Server(params)


def _answer(server: Any, question: str | list[Message], max_tokens: int) -> str:
    asked = {"max_tokens": max_tokens, "temperature": 0, "top_k": 1, "seed": 1, "cache_prompt": False}
    if isinstance(question, str):
        told = _checked(server.handle_completions({**asked, "prompt": question}))
        return str(told["choices"][0]["text"])
    told = _checked(server.handle_chat_completions({**asked, "messages": question}))
    message = told["choices"][0]["message"]
    return str(message.get("content") or message.get("reasoning_content") or "")


def _speed(server: Any, num_tokens: int) -> float:
    asked = {"prompt": SPEED_PROMPT, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    return float(_checked(server.handle_completions(asked))["timings"]["predicted_per_second"])


def _checked(told: dict[str, Any]) -> dict[str, Any]:
    if "error" in told or "choices" not in told:
        raise BadData(str(told.get("error") or told)[:300])
    return told


def main() -> None:
    """What the child does: one task in, one line out. The process ends without tidying llama.cpp's threads up."""
    try:
        told = _work(json.loads(sys.stdin.buffer.read()))
    except TunesmithError as error:
        told = {"error": error.message}
    except (RuntimeError, ValueError) as error:  # what llama.cpp throws
        told = {"error": str(error)[:300]}
    sys.stdout.write("\n" + json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(1 if "error" in told else 0)


if __name__ == "__main__":
    main()
