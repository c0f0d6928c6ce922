"""LM Studio: the model as GGUF in the folder where LM Studio looks for models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_dir import write_atomic
from tunesmith.features.deployments.targets.base import Health, TargetResult, TargetWork
from tunesmith.features.deployments.targets.building import GgufFormat, checked, digest_of, gguf_files, place_file
from tunesmith.recipes.gguf import check_gguf

PUBLISHER = "tunesmith"
POINTER = ".lmstudio-home-pointer"
"""A file in the user's home in which LM Studio writes where its own folder is."""


class LMStudioSettings(BaseModel):
    """How the model goes to LM Studio."""

    model_config = ConfigDict(extra="forbid")

    format: GgufFormat = "q4_k_m"
    """Number format of the GGUF file; a GGUF version goes as it is."""
    publisher: str = Field(PUBLISHER, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The folder above the model's own, as LM Studio orders them."""


class LMStudio:
    """The target."""

    name = "lmstudio"
    title = "LM Studio"
    sentence = "Places the model where LM Studio on this machine finds it."
    Settings = LMStudioSettings

    def why_not(self) -> str | None:
        return None

    def check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return checked(LMStudioSettings, settings)

    def deploy(self, work: TargetWork) -> TargetResult:
        """Raises what writing GGUF raises."""
        settings = LMStudioSettings.model_validate(work.settings)
        files = gguf_files(work, settings.format)
        root = models_folder()
        if root is None:
            return _folder_only(work, files.model)
        target = root / settings.publisher / work.name / f"{work.name}.gguf"
        if not target.resolve().is_relative_to(root.resolve()):
            raise InvalidInput(f"{work.name} is no name for a folder.")
        work.report("Placing the file in LM Studio's folder", None)
        place_file(files.model, target)
        digest = digest_of(target, lambda share: work.report("Checking the file", share))
        _write_preset(work, target)
        told = f"""In LM Studio choose `{settings.publisher}/{work.name}` under My Models. From a terminal:

```
lms ls
lms load {work.name}
lms server start
```

The chat template travels inside the file.{_said(work)}"""
        details = {"file": str(target), "sha256": digest, "model": work.name, "root": str(root)}
        return TargetResult(address=str(target), instructions=told, details=details)

    def check(self, result: TargetResult) -> Health:
        """Whether the file is there and whole; LM Studio loads models only when it is asked."""
        path = Path(result.details["file"])
        if not path.is_file():
            return Health(False, f"{path.name} is no longer in LM Studio's folder.")
        try:
            check_gguf(path)
        except InvalidInput as error:
            return Health(False, error.message)
        return Health(True, "The file is in its place.")

    def undeploy(self, result: TargetResult) -> None:
        if not result.is_live:
            return
        path, root = Path(result.details["file"]), Path(result.details["root"])
        if not path.resolve().is_relative_to(root.resolve()):
            return
        path.unlink(missing_ok=True)
        path.with_suffix(".system-prompt.txt").unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            if folder.is_dir() and folder != root and not any(folder.iterdir()):
                folder.rmdir()


def models_folder() -> Path | None:
    """Where LM Studio keeps models: `LMSTUDIO_HOME`, what its pointer says, `~/.lmstudio`, or the older
    `~/.cache/lm-studio`; None where LM Studio has never run. The same on every system."""
    given, home = os.environ.get("LMSTUDIO_HOME"), Path.home()
    if given:
        return Path(given).expanduser() / "models"
    places = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    if (home / POINTER).is_file():
        places.insert(0, Path((home / POINTER).read_text(errors="replace").strip()))
    return next((place / "models" for place in places if place.is_dir()), None)


def _said(work: TargetWork) -> str:
    if not work.system_prompt:
        return ""
    return f" Set as system prompt: {work.system_prompt}"


def _write_preset(work: TargetWork, target: Path) -> None:
    """The system prompt beside the model, since a GGUF file has no place for one."""
    if work.system_prompt:
        write_atomic(target.with_suffix(".system-prompt.txt"), work.system_prompt)


def _folder_only(work: TargetWork, model: Path) -> TargetResult:
    told = f"""LM Studio has not run on this machine. Carry `{model.name}` to a machine that has it, then:

```
lms import {model.name}
```

or put it into `~/.lmstudio/models/{PUBLISHER}/{work.name}/` (Windows: `%USERPROFILE%\\.lmstudio\\models\\…`).{_said(work)}"""
    return TargetResult(address=str(model), is_live=False, instructions=told, details={"model": work.name})
