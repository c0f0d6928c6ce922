"""Ollama: the model as GGUF, its Modelfile, and, where Ollama runs, the model created through its HTTP API.

Which Ollama is used is the administrator's choice (`OLLAMA_HOST`, as Ollama's own programs read it), not a caller's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import Conflict, TunesmithError, Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.features.deployments.targets.base import Health, TargetResult, TargetWork
from tunesmith.features.deployments.targets.building import (
    CHUNK_BYTES,
    GgufFiles,
    GgufFormat,
    checked,
    digest_of,
    gguf_files,
    place_file,
)
from tunesmith.features.jobs.package import NO_TEMPLATE, in_quotes
from tunesmith.recipes.blocks.ollama_template import template_of

PORT = 11434
ANSWER_S = 5.0
"""Longest wait for Ollama to say that it is there."""
CHECK_S = 120.0
"""Longest wait for a few generated tokens; the model may have to be loaded first."""
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
    "seed": "seed",
}
"""The playground's name of a setting → Ollama's."""


class OllamaSettings(BaseModel):
    """How the model goes to Ollama."""

    model_config = ConfigDict(extra="forbid")

    format: GgufFormat = "q8_0"
    """Number format of the GGUF file; a GGUF version goes as it is."""
    context_tokens: int = Field(4096, ge=128, le=1_048_576)
    """Prompt and answer together."""
    keep_adapter: bool = False
    """Give Ollama the base model and the adapter (ADAPTER) rather than both merged."""
    model_name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]{0,79}(:[a-z0-9][a-z0-9._-]{0,39})?$")
    """What Ollama calls it; the deployment's name when absent."""


class _Recipe(NamedTuple):
    """All that a Modelfile says."""

    model: str
    adapter: str
    template: str
    system: str
    parameters: dict[str, Any]


class Ollama:
    """The target."""

    name = "ollama"
    title = "Ollama"
    sentence = "Creates the model in Ollama on this machine, or a ready folder for an Ollama elsewhere."
    Settings = OllamaSettings

    def why_not(self) -> str | None:
        return None

    def check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return checked(OllamaSettings, settings)

    def deploy(self, work: TargetWork) -> TargetResult:
        """Raises what writing GGUF raises, `Conflict` with Ollama's words when it refuses, `Unavailable` when it goes away."""
        settings = OllamaSettings.model_validate(work.settings)
        title = settings.model_name or work.name
        files = gguf_files(work, settings.format, keeps_adapter=settings.keep_adapter)
        with _client() as client:
            is_there = _answers(client)
            if (
                not is_there and files.model.parent != work.folder
            ):  # a version of the registry, and somebody will carry it
                place_file(files.model, work.folder / "model.gguf")
                files = files._replace(model=work.folder / "model.gguf")
            recipe = _recipe(work, settings, files)
            write_atomic(work.folder / "Modelfile", modelfile(recipe))
            if not is_there:
                return _folder_only(work, title, str(client.base_url))
            _create(client, title, recipe, files, work)
            address = str(client.base_url).rstrip("/")
        told = (
            f"Use it with `ollama run {title}`, or through `{address}/v1` with any OpenAI client and `model: {title}`."
        )
        return TargetResult(
            address=f"{address} {title}", instructions=told, details={"model": title, "folder": str(work.folder)}
        )

    def check(self, result: TargetResult) -> Health:
        """By generating a few tokens."""
        begin_s = monotonic_s()
        asked = {"model": result.details["model"], "prompt": "Hello", "stream": False, "options": {"num_predict": 4}}
        try:
            with _client(CHECK_S) as client:
                answer = client.post("/api/generate", json=asked)
                told = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            return Health(False, f"Ollama does not answer ({type(error).__name__}).")
        if answer.status_code != 200 or "response" not in told:
            return Health(False, f"Ollama says: {str(told.get('error') or answer.status_code)[:300]}")
        return Health(True, f"{told.get('eval_count', 0)} tokens generated", monotonic_s() - begin_s)

    def undeploy(self, result: TargetResult) -> None:
        """Raises `Unavailable` when Ollama does not answer, `Conflict` when it refuses."""
        if not result.is_live:
            return
        with _told(), _client() as client:
            answer = client.request("DELETE", "/api/delete", json={"model": result.details["model"]})
        if answer.status_code not in (200, 404):
            raise Conflict(f"Ollama does not delete {result.details['model']}: {_error_of(answer)}")


def modelfile(recipe: _Recipe) -> str:
    """What `ollama create -f` reads."""
    lines = [f"FROM ./{recipe.model}"]
    lines += [f"ADAPTER ./{recipe.adapter}"] if recipe.adapter else []
    lines.append(f"TEMPLATE {in_quotes(recipe.template)}" if recipe.template else NO_TEMPLATE)
    lines += [f"SYSTEM {in_quotes(recipe.system)}"] if recipe.system else []
    for name, value in recipe.parameters.items():
        for one in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {name} {json.dumps(one, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _recipe(work: TargetWork, settings: OllamaSettings, files: GgufFiles) -> _Recipe:
    found = template_of(files.model)
    stop = list(dict.fromkeys([*found.stop, *(work.sampling.get("stop") or [])]))
    given = {
        PARAMETERS[name]: value for name, value in work.sampling.items() if name in PARAMETERS and value is not None
    }
    parameters = {**given, "num_ctx": settings.context_tokens, **({"stop": stop} if stop else {})}
    adapter = files.adapter.name if files.adapter else ""
    return _Recipe(files.model.name, adapter, found.text, work.system_prompt, parameters)


def host() -> str:
    """Where Ollama listens, from `OLLAMA_HOST`; a name without a scheme or a port gets the usual ones."""
    given = os.environ.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    scheme, separator, rest = given.partition("://")
    scheme, rest = (scheme, rest) if separator else ("http", given)
    name, _, path = rest.partition("/")
    if not re.search(r":\d+$", name):
        name += {"http": f":{PORT}" if not separator else ":80", "https": ":443"}.get(scheme, "")
    name = re.sub(r"^(0\.0\.0\.0|\[::\])?:", "127.0.0.1:", name)
    return f"{scheme}://{name}/{path}".rstrip("/")


def _client(timeout_s: float = ANSWER_S) -> httpx.Client:
    return httpx.Client(base_url=host(), timeout=timeout_s, trust_env=False)


@contextmanager
def _told() -> Iterator[None]:
    """Turns what the connection says into a sentence. Raises `Unavailable`."""
    try:
        yield
    except httpx.HTTPError as error:
        raise Unavailable(
            f"Ollama at {host()} does not answer ({type(error).__name__}).", hint="Start it with: ollama serve"
        ) from None


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/api/version").status_code == 200
    except httpx.HTTPError:
        return False


def _create(client: httpx.Client, title: str, recipe: _Recipe, files: GgufFiles, work: TargetWork) -> None:
    """Upload what Ollama does not have yet, then create the model from it."""
    asked: dict[str, Any] = {"model": title, "parameters": recipe.parameters, "stream": True}
    asked |= {"template": recipe.template} if recipe.template else {}
    asked |= {"system": recipe.system} if recipe.system else {}
    with _told():
        asked["files"] = {recipe.model: _upload(client, files.model, work)}
        if files.adapter:
            asked["adapters"] = {recipe.adapter: _upload(client, files.adapter, work)}
        with client.stream("POST", "/api/create", json=asked, timeout=work.timeout_s) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _refused(title, _error_of(answer))
            last = ""
            for told in _lines(answer):
                if "error" in told:
                    raise _refused(title, str(told["error"]))
                last = str(told.get("status", ""))
                work.report(f"Ollama: {last[:100]}", None)
    if last != "success":
        raise _refused(title, f"it ended with {last[:200]!r}")


def _upload(client: httpx.Client, path: Path, work: TargetWork) -> str:
    """The blob's name, `sha256:…`, after it is there."""
    digest = "sha256:" + digest_of(path, lambda share: work.report("Reading the model", share))
    if client.head(f"/api/blobs/{digest}").status_code == 200:
        return digest

    def pieces() -> Iterator[bytes]:
        done, total = 0, max(1, path.stat().st_size)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                done += len(chunk)
                work.report("Uploading to Ollama", done / total)

    size = {"Content-Length": str(path.stat().st_size)}
    answer = client.post(f"/api/blobs/{digest}", content=pieces(), headers=size, timeout=work.timeout_s)
    if answer.status_code not in (200, 201):
        raise Conflict(f"Ollama did not take {path.name}: {_error_of(answer)}")
    return digest


def _lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.strip():
            told = json.loads(line)
            if isinstance(told, dict):
                yield told


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("error"))[:300]
    except (ValueError, AttributeError):
        return f"status {answer.status_code}"


def _refused(title: str, why: str) -> TunesmithError:
    return Conflict(f"Ollama did not create {title}: {why[:300]}", hint="Update Ollama, or choose another format.")


def _folder_only(work: TargetWork, title: str, address: str) -> TargetResult:
    told = f"""Ollama does not answer at {address}. The folder is ready; where Ollama is installed:

```
cd {shlex.quote(str(work.folder))}
ollama create {title} -f Modelfile
ollama run {title}
```

To have it done from here, start Ollama (`ollama serve`), set `OLLAMA_HOST` when it is not on this machine, and deploy again."""
    return TargetResult(address=str(work.folder), is_live=False, instructions=told, details={"model": title})
