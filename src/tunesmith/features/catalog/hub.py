"""Asking the model hub: with a deadline, remembered for a while, and left alone for a while when it does not answer."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from tunesmith.schemas.models import Category, HubSort, Size
from tunesmith.settings import Settings

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


def search(settings: Settings, query: Query, count: int) -> Answer:
    """The first `count` models that fit; when the hub is switched off or silent, none and why. Never raises for the hub."""
    from huggingface_hub import constants

    if settings.hub_offline or constants.HF_HUB_OFFLINE:
        name = "TUNESMITH_HUB_OFFLINE" if settings.hub_offline else "HF_HUB_OFFLINE"
        return Answer([], f"The hub is switched off ({name}), so only models at hand are shown.")
    key = (constants.ENDPOINT, query, count)
    if (found := _memory.find(key)) is not None:
        return found
    answer = _ask(constants.ENDPOINT, query, count)
    _memory.keep(key, answer)
    return answer


def _ask(endpoint: str, query: Query, count: int) -> Answer:
    """Ask in a thread that is left behind when it takes too long."""
    said: list[Answer] = []
    thread = threading.Thread(target=lambda: said.append(_list(endpoint, query, count)), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    shown = endpoint.partition("://")[2]
    if not said and not thread.is_alive():
        return Answer([], f"What answers at {shown} is no model hub, so only models at hand are shown.")
    if not said:
        return Answer([], f"{shown} did not answer within {WAIT_S:g} s, so only models at hand are shown.")
    if said[0].problem:
        return Answer([], f"{shown} could not be asked ({said[0].problem}), so only models at hand are shown.")
    return said[0]


def _list(endpoint: str, query: Query, count: int) -> Answer:
    from huggingface_hub import HfApi

    try:
        found = HfApi(endpoint=endpoint).list_models(
            search=query.text or None,
            author=query.provider or None,
            pipeline_tag=query.category,
            filter=[f"license:{query.licence.lower()}"] if query.licence else None,
            num_parameters=_bounds(query.size),
            sort=SORTS[query.sort],
            limit=count,
            expand=FIELDS,  # type: ignore[arg-type]
        )
        return Answer(list(found))
    except _unusable() as error:
        return Answer([], str(error).strip().partition("\n")[0][:200] or type(error).__name__)


def _unusable() -> Any:
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
