"""The Hugging Face hub: the model with a card that says what it is, private unless asked otherwise.

The token is the server's own (`HF_TOKEN`, or `hf auth login`); `HF_ENDPOINT` names another hub of the kind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import Conflict, InvalidInput, PermissionDenied, Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.features.deployments.targets.base import Health, TargetResult, TargetWork
from tunesmith.features.deployments.targets.building import (
    GgufFormat,
    checked,
    folder_of,
    gguf_files,
    model_files,
    place_file,
)
from tunesmith.features.deployments.targets.card import model_card

DEFAULT_ENDPOINT = "https://huggingface.co"


class HuggingFaceSettings(BaseModel):
    """What is pushed, and who may see it."""

    model_config = ConfigDict(extra="forbid")

    repo: str | None = Field(None, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    """`owner/name`; the token's owner and the deployment's name when absent."""
    public: bool = False
    """Whether everybody may see it. A repository that is there already keeps what it is."""
    merged: bool = False
    """Push an adapter merged into its base model rather than by itself."""
    gguf: list[GgufFormat] = Field(default_factory=list, max_length=12)
    """Formats to push besides."""
    licence: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{0,40}$")
    """The hub's short name of a licence, such as `apache-2.0`; the base model's when absent and known."""
    delete: bool = False
    """Delete the repository when it is undeployed. Otherwise it stays, as others may use it."""


class HuggingFace:
    """The target."""

    name = "huggingface"
    title = "Hugging Face hub"
    sentence = "Pushes the model with its card to a repository, private unless you say otherwise."
    Settings = HuggingFaceSettings

    def why_not(self) -> str | None:
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            return "This server is set to stay offline (HF_HUB_OFFLINE); deploy to cloud for a folder to carry instead."
        if not get_token():
            return "There is no token for the hub: set HF_TOKEN, or run `hf auth login` as the server's user."
        return None

    def check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return checked(HuggingFaceSettings, settings)

    def deploy(self, work: TargetWork) -> TargetResult:
        """Push, and go on where an earlier push was cut off.

        Raises `PermissionDenied` for a token that may not write, `Conflict` for a repository that is seen by more people than
        was asked for, `Unavailable` when the hub does not answer.
        """
        settings = HuggingFaceSettings.model_validate(work.settings)
        if why := self.why_not():
            raise Conflict(why)
        api = _api()
        with _told():
            repo = _repo(api, work, settings)
            folder = _assemble(work, settings, repo)
            api.create_repo(repo, private=not settings.public, exist_ok=True)
            found = api.model_info(repo)
            if not settings.public and found.private is False:
                raise Conflict(f"{repo} is public already.", hint="Choose another name, or set public: true.")
            work.report("Pushing to the hub", None)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{work.title}")
        shutil.rmtree(folder, ignore_errors=True)
        address = f"{endpoint()}/{repo}"
        details = {"repo": repo, "commit": str(getattr(commit, "oid", "") or ""), "delete": settings.delete}
        return TargetResult(address=address, instructions=_instructions(work, repo, settings), details=details)

    def check(self, result: TargetResult) -> Health:
        """Whether the repository is there with weights in it."""
        begin_s = monotonic_s()
        try:
            with _told():
                found = _api().model_info(result.details["repo"])
        except (Conflict, PermissionDenied, Unavailable, InvalidInput) as error:
            return Health(False, error.message)
        names = [file.rfilename for file in found.siblings or ()]
        if not any(name.endswith((".safetensors", ".gguf")) for name in names):
            return Health(False, f"{result.details['repo']} holds no weights.")
        return Health(True, f"{len(names)} files, {'private' if found.private else 'public'}", monotonic_s() - begin_s)

    def undeploy(self, result: TargetResult) -> None:
        """Leaves the repository as it is, unless `delete` was asked for."""
        if result.details.get("delete"):
            with _told():
                _api().delete_repo(result.details["repo"], missing_ok=True)


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="tunesmith")


@contextmanager
def _told() -> Iterator[None]:
    """Turns what the hub's library raises into sentences; none of them repeats a token."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    connection: Any = HfHubHTTPError.__mro__[1]  # of httpx or its successor, whichever this version is built on
    try:
        yield
    except HFValidationError as error:
        raise InvalidInput(str(error)[:300]) from None
    except (
        HfHubHTTPError,
        connection,
        RuntimeError,
        OSError,
    ) as error:  # a failed upload is a RuntimeError with its cause
        raise _sentence(error) from None


def _sentence(error: BaseException) -> Conflict | PermissionDenied | Unavailable:
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return Conflict("The hub has no such repository, or the token may not see it.")
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", 0)
    if status in (401, 403):
        return PermissionDenied(
            "The hub's token may not do this.", hint="Make one that may write: Settings, Access Tokens, on the hub."
        )
    why = f"answered with status {status}" if status else f"does not answer ({type(error).__name__})"
    return Unavailable(f"The hub {why}.", hint="Try again; what was uploaded is kept.")


def _repo(api: Any, work: TargetWork, settings: HuggingFaceSettings) -> str:
    name = settings.repo or work.name
    return name if "/" in name else f"{api.whoami()['name']}/{name}"


def _assemble(work: TargetWork, settings: HuggingFaceSettings, repo: str) -> Path:
    """Everything that is pushed, in one folder of links."""
    folder = work.folder / "push"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    adapter = Path(work.model.adapter_path) if work.model.adapter_path else None
    is_file = Path(work.model.path).is_file()
    kind = "gguf" if is_file else "adapter" if adapter and not settings.merged else "model"
    if is_file:
        place_file(Path(work.model.path), folder / f"{work.name}.gguf", may_link=True)
    elif adapter and settings.merged:
        from tunesmith.recipes.blocks.to_gguf import merge_in_child  # brings NumPy, which few requests need

        work.report("Merging the adapter into its base model", None)
        merge_in_child(folder_of(work), adapter, folder / "merged", timeout_s=work.timeout_s)
        for path in (folder / "merged").iterdir():
            path.rename(folder / path.name)
        (folder / "merged").rmdir()
    else:
        for path in model_files(adapter or folder_of(work)):
            place_file(path, folder / path.name, may_link=True)
    for format_name in settings.gguf if not is_file else ():
        place_file(gguf_files(work, format_name).model, folder / f"{work.name}-{format_name}.gguf", may_link=True)
    write_atomic(folder / "README.md", model_card(work, kind, repo, settings.licence))
    return folder


def _instructions(work: TargetWork, repo: str, settings: HuggingFaceSettings) -> str:
    if Path(work.model.path).is_file():
        return f"```\nllama-server -hf {repo}\nollama run hf.co/{repo}\n```"
    if work.model.adapter_path and not settings.merged:
        base = work.facts.get("base_model") or work.model.name
        return (
            "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{repo}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n```'
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")\ntokenizer = AutoTokenizer.from_pretrained("{repo}")\n```'
    )
