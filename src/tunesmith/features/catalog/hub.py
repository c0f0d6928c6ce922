"""Asking the model hub: with a deadline, remembered for a while, and left alone for a while when it does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from tunesmith.schemas.models import Category, HubSort, Purpose, Size
from tunesmith.settings import Settings

ReplyT = TypeVar("ReplyT")

WAIT_S = 6.0
"""Longest wait for an answer; the hub's own library waits without end."""
KEEP_S = 300.0
"""How long an answer is used again."""
SILENCE_S = 20.0
"""How long a hub that did not answer is not asked."""
MAX_ANSWERS = 100
"""Answers that are remembered."""
FIELDS = ["author", "downloads", "gated", "lastModified", "likes", "pipeline_tag", "safetensors", "tags"]
BOUNDS: dict[str, tuple[float, float]] = {
    "under-500m": (0, 5e8),
    "500m-2b": (5e8, 2e9),
    "2b-5b": (2e9, 5e9),
    "5b-10b": (5e9, 1e10),
    "over-10b": (1e10, float("inf")),
}
"""Weights: at least, and less than."""
SORTS: dict[str, Any] = {
    "trending": "trending_score",
    "downloads": "downloads",
    "likes": "likes",
    "updated": "last_modified",
}


class Query(NamedTuple):
    """What is looked for."""

    text: str = ""
    category: Category | None = None
    provider: str = ""
    size: Size | None = None
    licence: str = ""
    sort: HubSort = "trending"
    purpose: Purpose | None = None


def asked_for(text: str, category: str | None, provider: str, size: Size | None, licence: str, sort: HubSort) -> Query:
    """`category` is the hub's word, or one of our purposes."""
    is_purpose = category in PURPOSES and category != "text-generation"
    return Query(
        text, None if is_purpose else category, provider, size, licence, sort, category if is_purpose else None  # type: ignore[arg-type]
    )  # fmt: skip


class Asked(NamedTuple):
    """How a purpose is asked for at the hub."""

    category: str | None = "text-generation"
    tag: str | None = None
    text: str = ""
    most: float | None = None
    """Weights."""


PURPOSES: dict[str, Asked] = {
    "text-generation": Asked(),
    "code": Asked(tag="code"),
    "instruction-following": Asked(text="instruct"),
    "conversational": Asked(tag="conversational"),
    "multimodal": Asked("image-text-to-text"),
    "compact": Asked(most=4e9),
}


class Answer(NamedTuple):
    """What the hub said: `huggingface_hub.ModelInfo` each, or why it said nothing."""

    models: list[Any]
    problem: str = ""


class _Memory:
    """Answers of a short while ago, and since when the hub is silent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: dict[tuple[str, Query, int], tuple[float, list[Any]]] = {}
        self.silent: dict[str, tuple[float, str]] = {}

    def find(self, key: tuple[str, Query, int]) -> Answer | None:
        now = time.monotonic()
        with self.lock:
            if (kept := self.answers.get(key)) and now - kept[0] < KEEP_S:
                return Answer(kept[1])
            if (silent := self.silent.get(key[0])) and now - silent[0] < SILENCE_S:
                return Answer([], silent[1])
        return None

    def keep(self, key: tuple[str, Query, int], answer: Answer) -> None:
        with self.lock:
            if answer.problem:
                self.silent[key[0]] = (time.monotonic(), answer.problem)
                return
            self.silent.pop(key[0], None)
            while len(self.answers) >= MAX_ANSWERS:
                self.answers.pop(next(iter(self.answers)))
            self.answers[key] = (time.monotonic(), answer.models)


_memory = _Memory()


def why_not_asked(settings: Settings) -> str:
    """Why the hub is not asked at all, by the variable that says so; empty when it may be."""
    from huggingface_hub import constants

    if settings.hub_offline or constants.HF_HUB_OFFLINE:
        name = "TUNESMITH_HUB_OFFLINE" if settings.hub_offline else "HF_HUB_OFFLINE"
        return f"The hub is switched off ({name})"
    return ""


def has_token() -> bool:
    """Whether there is a token for the hub: HF_TOKEN, or what `hf auth login` has kept."""
    from huggingface_hub import get_token

    return bool(get_token())


def search(settings: Settings, query: Query, count: int) -> Answer:
    """The first `count` models that fit; when the hub is switched off or silent, none and why. Never raises for the hub."""
    from huggingface_hub import constants

    if why := why_not_asked(settings):
        return Answer([], f"{why}, so only models at hand are shown.")
    key = (constants.ENDPOINT, query, count)
    if (found := _memory.find(key)) is not None:
        return found
    answer = _ask(constants.ENDPOINT, query, count)
    _memory.keep(key, answer)
    return answer


def within(wait_s: float, work: Callable[[], ReplyT]) -> list[ReplyT]:
    """What `work` returns, asked in a thread that is left behind when it takes too long. Nothing when it did; what it
    raises is raised here."""
    said: list[ReplyT] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            said.append(work())
        except (*unusable(), OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(wait_s)
    if failed:
        raise failed[0]
    return said


def _ask(endpoint: str, query: Query, count: int) -> Answer:
    shown = endpoint.partition("://")[2]
    try:
        said = within(WAIT_S, lambda: _list(endpoint, query, count))
    except (*unusable(), OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return Answer([], f"{shown} could not be asked ({reason}), so only models at hand are shown.")
    if not said:
        return Answer([], f"{shown} did not answer within {WAIT_S:g} s, so only models at hand are shown.")
    return Answer(said[0])


def _list(endpoint: str, query: Query, count: int) -> list[Any]:
    from huggingface_hub import HfApi

    asked = PURPOSES[query.purpose] if query.purpose else Asked(query.category)
    tags = [f"license:{query.licence.lower()}"] if query.licence else []
    found = HfApi(endpoint=endpoint).list_models(
        search=" ".join(filter(None, (query.text, asked.text))) or None,
        author=query.provider or None,
        pipeline_tag=asked.category,
        filter=[*tags, asked.tag] if asked.tag else tags or None,
        num_parameters=_bounds(query.size) or (f"max:{_count(asked.most)}" if asked.most else None),
        sort=SORTS[query.sort],
        limit=count,
        expand=FIELDS,  # type: ignore[arg-type]
    )
    return list(found)


def unusable() -> Any:
    """What an answer that cannot be used raises: the errors of the hub's HTTP library, whichever that is, and odd answers."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, ValueError, LookupError, TypeError, AttributeError)


def _bounds(size: Size | None) -> str | None:
    """As the hub writes it: `min:2B,max:5B`."""
    if size is None:
        return None
    least, most = BOUNDS[size]
    parts = [f"min:{_count(least)}"] if least else []
    return ",".join([*parts, *([f"max:{_count(most)}"] if most != float("inf") else [])])


def _count(number: float) -> str:
    return f"{number / 1e9:g}B" if number >= 1e9 else f"{number / 1e6:g}M"
