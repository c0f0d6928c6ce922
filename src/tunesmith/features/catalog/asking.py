"""Asking the hub about one model: its files, its configuration, its card, and whether it is given to us."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from tunesmith.core.errors import Conflict, InvalidInput, NotFound, TunesmithError, Unavailable
from tunesmith.features.catalog import cards, hub
from tunesmith.features.catalog.fetching import WantedFile, gated
from tunesmith.recipes.model_info import CODE_SUFFIXES, PICKLE_SUFFIXES
from tunesmith.settings import Settings

CARD_WAIT_S = 2.5
"""Longest wait for the descriptions of a page of results."""
CARD_BYTES = 24_000
CONFIG_BYTES = 1_000_000
MAX_CARDS = 2000
"""Descriptions that are remembered."""
WANTED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "*tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "*processor*.json", "chat_template*", "*.jinja", "*.model", "modules.json", "sentence_bert_config.json", "README.md",
    "LICENSE*", "LICENCE*", "NOTICE*",
)  # fmt: skip
"""Files of a model that are fetched, in its folder itself."""
NEVER = tuple(f"*{suffix}" for suffix in (*PICKLE_SUFFIXES, *CODE_SUFFIXES))
"""Code, and formats that can run it."""
MAX_LEFT_OUT = 100
"""Names that are told."""
COMMIT = re.compile(r"[0-9a-f]{40}")

_descriptions: dict[str, str] = {}


class About(NamedTuple):
    """What the hub says of one model."""

    name: str
    commit: str
    files: list[WantedFile]
    """Those that would be fetched."""
    gguf_files: list[WantedFile]
    has_pickles_only: bool
    left_out: list[str]
    """Files that are never fetched: code, and formats that can run it."""
    gated: bool
    num_parameters: int | None
    category: str | None
    tags: list[str]
    licence: str | None
    licence_name: str | None


def about(settings: Settings, name: str, revision: str | None = None) -> About:
    """Raises `Conflict` when the hub is switched off, `Unavailable` when it is silent, `NotFound` for what it does not have."""
    from huggingface_hub import HfApi, constants

    if why := hub.why_not_asked(settings):
        raise Conflict(f"{why}, so only models at hand can be used.", hint="Start the server without that variable.")
    api = HfApi(endpoint=constants.ENDPOINT)
    ask = partial(api.model_info, name, revision=revision, files_metadata=True, timeout=hub.WAIT_S)
    return _read(name, _answered(name, ask))


def is_given(name: str) -> bool:
    """Whether the hub gives a gated model to our token. Raises `Unavailable` when it is silent."""
    from huggingface_hub import HfApi, constants

    try:
        _answered(name, partial(HfApi(endpoint=constants.ENDPOINT).auth_check, name))
    except (Conflict, NotFound):
        return False
    return True


def _answered(name: str, ask: Any) -> Any:
    """What the hub answers in time, its refusals as errors of ours."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    shown = constants.ENDPOINT.partition("://")[2]
    hint = "Check the network, HF_ENDPOINT and the proxy; models at hand work without the hub."
    try:
        said = hub.within(hub.WAIT_S, ask)
    except GatedRepoError:
        raise gated(name) from None
    except RevisionNotFoundError:
        raise NotFound(f"{name} has no such revision on the hub.", hint="Leave it out for the newest.") from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"The hub has no model {name}, or it is private.",
            hint="Look at the spelling with tunesmith models search; for a private model set HF_TOKEN.",
        ) from None
    except HFValidationError:
        raise InvalidInput(
            f"{name[:80]!r} is not the name of a model on the hub.", hint="Use organisation/name."
        ) from None
    except (*hub.unusable(), OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise Unavailable(f"{shown} could not be asked: {reason}.", hint=hint) from None
    if not said:
        raise Unavailable(f"{shown} did not answer within {hub.WAIT_S:g} s.", hint=hint)
    return said[0]


def _read(name: str, found: Any) -> About:
    """From `huggingface_hub.ModelInfo`."""
    if not COMMIT.fullmatch(found.sha or ""):
        raise Unavailable(f"The hub's answer about {name} cannot be used.", hint="Try again, or look at HF_ENDPOINT.")
    files = [file for file in map(_file, found.siblings or ()) if file]
    wanted, tags = wanted_files(files), list(found.tags or ())
    card = found.card_data.to_dict() if found.card_data else {}
    licence = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
    has_weights = any(file.path.endswith(".safetensors") for file in wanted)
    ggufs = [file for file in files if file.path.endswith(".gguf")]
    names = [sibling.rfilename for sibling in found.siblings or ()]
    return About(
        name=name,
        commit=found.sha,
        files=wanted,
        gguf_files=ggufs,
        has_pickles_only=not has_weights and not ggufs and any(one.lower().endswith(PICKLE_SUFFIXES) for one in names),
        left_out=sorted(one for one in names if one.lower().endswith((*PICKLE_SUFFIXES, *CODE_SUFFIXES)))[
            :MAX_LEFT_OUT
        ],
        gated=bool(found.gated),
        num_parameters=found.safetensors.total if found.safetensors else None,
        category=found.pipeline_tag,
        tags=tags,
        licence=licence or (card.get("license") if isinstance(card.get("license"), str) else None),
        licence_name=card.get("license_name") if isinstance(card.get("license_name"), str) else None,
    )


def _file(sibling: Any) -> WantedFile | None:
    """None for files in folders below and for what the hub tells no size or digest of."""
    try:
        return WantedFile(
            path=sibling.rfilename,
            size_bytes=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_id=sibling.blob_id,
        )
    except (ValueError, AttributeError):
        return None


def wanted_files(files: list[WantedFile]) -> list[WantedFile]:
    """What a model needs, small files first. Weights that are there twice, as Mistral's `consolidated`, come once."""
    found = [
        file
        for file in files
        if any(fnmatch(file.path, pattern) for pattern in WANTED)
        and not any(fnmatch(file.path.lower(), pattern) for pattern in NEVER)
    ]
    if any(fnmatch(file.path, "model*.safetensors") for file in found):
        found = [
            file for file in found if not file.path.endswith(".safetensors") or fnmatch(file.path, "model*.safetensors")
        ]
    return sorted(found, key=lambda file: (file.size_bytes > 50_000_000, file.path))


def config_of(name: str, commit: str) -> dict[str, Any] | None:
    """The model's `config.json`, without keeping it; None where it cannot be had."""
    text = _text(name, "config.json", commit, CONFIG_BYTES, hub.WAIT_S)
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def descriptions(names: list[str]) -> dict[str, str]:
    """The beginnings of the models' cards, as many as come in time; remembered while the server runs."""
    unknown = [name for name in names if name not in _descriptions]
    if unknown:
        while len(_descriptions) > MAX_CARDS:
            _descriptions.pop(next(iter(_descriptions)))
        pool = ThreadPoolExecutor(8)
        jobs = {name: pool.submit(_text, name, "README.md", "main", CARD_BYTES, CARD_WAIT_S) for name in unknown}
        try:
            hub.within(CARD_WAIT_S, lambda: [job.result() for job in jobs.values()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for name, job in jobs.items():
            if job.done() and not job.cancelled() and (card := job.result()) is not None:
                _descriptions[name] = cards.description(card)
    return {name: _descriptions.get(name, "") for name in names}


def _text(name: str, path: str, revision: str, most_bytes: int, wait_s: float) -> str | None:
    """The beginning of a text file of the hub; None when it does not come."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    def ask() -> str | None:
        url = f"{constants.ENDPOINT}/{quote(name)}/resolve/{quote(revision, safe='')}/{quote(path)}"
        come = b""
        with get_session().stream("GET", url, headers=build_hf_headers(), timeout=wait_s) as answer:
            if answer.status_code != 200:
                return "" if answer.status_code in (401, 403, 404) else None
            for piece in answer.iter_bytes():
                come += piece
                if len(come) >= most_bytes:
                    break
        return come[:most_bytes].decode(errors="replace")

    try:
        said = hub.within(wait_s, ask)
    except (*hub.unusable(), OSError, TunesmithError):
        return None
    return said[0] if said else None
