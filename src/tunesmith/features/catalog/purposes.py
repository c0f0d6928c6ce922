"""What a language model is good for, told from its name, its tags, its chat template and its size; and how many there are."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

from tunesmith.features.catalog import hub
from tunesmith.schemas.models import CategoryCount, CategoryList, ModelRead, Purpose
from tunesmith.settings import Settings

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
ABOUT: dict[str, tuple[str, str]] = {
    "text-generation": ("Text generation", "Goes on with any text; the usual start for training on your own."),
    "code": ("Code", "Has seen much source code: completes, explains and mends it."),
    "instruction-following": ("Instruction following", "Has learned to do what a prompt asks for."),
    "conversational": ("Conversational", "Has a chat template, so it can hold a conversation."),
    "multimodal": ("Multimodal", "Takes pictures besides text; its language part can be tuned."),
    "compact": ("Compact", "Under 4 billion weights: trains and answers on small machines."),
}
"""Title and one sentence."""
PROVIDERS = (
    "HuggingFaceTB", "Qwen", "meta-llama", "mistralai", "google", "microsoft", "ibm-granite", "allenai", "deepseek-ai",
    "LiquidAI", "TinyLlama", "EleutherAI",
)  # fmt: skip
COMPACT_WEIGHTS = 4e9
CODE = re.compile(r"code|coder|codestral|devstral|starcoder", re.I)
INSTRUCT = re.compile(r"instruct|(?:^|[-_.])(?:it|chat|sft|dpo|assistant|zephyr|hermes)(?:[-_.]|$)", re.I)
MULTIMODAL = ("image-text-to-text", "any-to-any", "visual-question-answering", "video-text-to-text")
LANGUAGE = ("text-generation", *MULTIMODAL)
COUNTED = 500
"""Models of one kind that are counted on the hub at most."""
KEEP_S = 3600.0

_counts: dict[tuple[str, str], tuple[float, int]] = {}
_lock = threading.Lock()


def purposes(
    name: str,
    *,
    category: str | None,
    num_parameters: int | None,
    tags: Sequence[str] = (),
    has_chat_template: bool = False,
) -> list[Purpose]:
    """In the order of `PURPOSES`; none for what is no language model. `category` is the hub's word."""
    if category not in LANGUAGE:
        return []
    short = name.rpartition("/")[2]
    chats = has_chat_template or "conversational" in tags
    found = {
        "text-generation": True,
        "code": bool(CODE.search(short)) or "code" in tags,
        "instruction-following": chats or bool(INSTRUCT.search(short)),
        "conversational": chats,
        "multimodal": category in MULTIMODAL,
        "compact": num_parameters is not None and num_parameters < COMPACT_WEIGHTS,
    }
    return [purpose for purpose in PURPOSES if found[purpose]]


def categories(settings: Settings, models: Sequence[ModelRead]) -> CategoryList:
    """How many of each are at hand, and on the hub when it answers."""
    here = Counter(purpose for model in models for purpose in model.categories)
    counts, problem = _on_hub(settings, {p: hub.Query(purpose=p, sort="downloads") for p in PURPOSES})
    items = [_count(key, *ABOUT[key], here[key], counts.get(key)) for key in PURPOSES]
    return CategoryList(items=items, hub_problem=problem)


def providers(settings: Settings, models: Sequence[ModelRead]) -> CategoryList:
    """Organisations of what is at hand, most first, then those that are known for open models."""
    here = Counter(model.name.partition("/")[0] for model in models if "/" in model.name)
    keys = [*(key for key, _ in here.most_common(50)), *(key for key in PROVIDERS if key not in here)]
    asked = {key: hub.Query(category="text-generation", provider=key, sort="downloads") for key in keys}
    counts, problem = _on_hub(settings, asked)
    return CategoryList(items=[_count(key, key, "", here[key], counts.get(key)) for key in keys], hub_problem=problem)


def _count(key: str, title: str, description: str, num_at_hand: int, on_hub: int | None) -> CategoryCount:
    return CategoryCount(
        key=key,
        title=title,
        description=description,
        num_at_hand=num_at_hand,
        num_on_hub=on_hub,
        is_at_least=on_hub is not None and on_hub >= COUNTED,
    )


def _on_hub(settings: Settings, asked: dict[str, hub.Query]) -> tuple[dict[str, int], str]:
    """How many the hub has of each, all asked at the same time; remembered for an hour. And why it was not asked."""
    from huggingface_hub import constants

    if why := hub.why_not_asked(settings):
        return {}, f"{why}, so only models at hand are counted."
    now = time.monotonic()
    with _lock:
        known = {key: _counts.get((constants.ENDPOINT, key)) for key in asked}
    found = {key: kept[1] for key, kept in known.items() if kept and now - kept[0] < KEEP_S}
    missing = {key: query for key, query in asked.items() if key not in found}
    if not missing:
        return found, ""

    def ask(key: str) -> Callable[[], hub.Answer]:
        return lambda: hub.search(settings, missing[key], COUNTED)

    with ThreadPoolExecutor(6) as pool:
        answers = dict(zip(missing, pool.map(lambda key: ask(key)(), missing), strict=True))
    fresh = {key: len(answer.models) for key, answer in answers.items() if not answer.problem}
    with _lock:
        _counts.update({(constants.ENDPOINT, key): (now, number) for key, number in fresh.items()})
    problem = next((answer.problem for answer in answers.values() if answer.problem), "")
    return found | fresh, problem.replace("are shown", "are counted")
