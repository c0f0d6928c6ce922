"""What can go stale is compared with the code: settings, error codes, methods, commands, the OpenAPI snapshot."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from tests.openapi import SNAPSHOT, openapi
from tunesmith.core import errors
from tunesmith.recipes.catalog import RECIPES
from tunesmith.recipes.hyperparameters import field_docs
from tunesmith.settings import OTHER_VARIABLES, Settings

REPO = Path(__file__).parent.parent
DOCS = REPO / "docs"


def test_every_setting_is_documented_and_no_other() -> None:
    text = (DOCS / "settings.md").read_text()
    assert set(re.findall(r"`(TUNESMITH_[A-Z_]+)`", text)) == {
        *(f"TUNESMITH_{name.upper()}" for name in Settings.model_fields),
        *OTHER_VARIABLES,
    }
    described = field_docs(Settings)
    assert set(Settings.model_fields) <= set(described), "each setting has a docstring"


def test_every_error_and_failure_code_is_documented() -> None:
    text = (DOCS / "errors.md").read_text()

    def codes(root: type[errors.TunesmithError]) -> set[str]:
        own = set() if root in (errors.TunesmithError, errors.JobFailure) else {root().code}
        return own.union(*(codes(child) for child in root.__subclasses__() if child.__module__ == errors.__name__))

    for code in codes(errors.TunesmithError) | {str(code) for code in errors.FailureCode}:
        assert f"`{code}`" in text, code


def test_every_method_and_each_of_its_settings_is_documented() -> None:
    text = (DOCS / "hyperparameters.md").read_text()
    for recipe in RECIPES:
        assert f"`{recipe.name}`" in text
        assert set(recipe.params.model_fields) <= set(field_docs(recipe.params)), (
            f"{recipe.name}: a docstring under each field"
        )
        for name in recipe.params.model_fields:
            assert f"`{name}`" in text, f"{recipe.name}.{name}"


def test_the_api_is_what_the_snapshot_says() -> None:
    """After a wanted change: make openapi."""
    assert openapi() == json.loads(SNAPSHOT.read_text()), (
        "the API has changed: run make openapi and look at the difference"
    )


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    import typer

    from tunesmith.cli.main import app

    root = typer.main.get_command(app)
    known = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        subcommands = getattr(command, "commands", None)
        known |= {f"{name} {sub}" for sub in subcommands} if subcommands else {name}
    text = (DOCS / "commands.md").read_text()
    for command in known:
        assert f"`tunesmith {command}" in text, command
    for page in [REPO / "README.md", *DOCS.glob("*.md")]:
        for line in re.findall(r"^(?:\$ )?tunesmith (.+)$|`tunesmith ([^`]+)`", page.read_text(), flags=re.M):
            words = [w for w in shlex.split((line[0] or line[1]).partition("#")[0]) if not w.startswith("-")]
            if words:
                assert words[0] in known or " ".join(words[:2]) in known, f"{page.name}: tunesmith {' '.join(words)}"


def test_the_readmes_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)\b", (REPO / "README.md").read_text(), flags=re.M)) <= targets


def test_pages_that_are_linked_exist() -> None:
    for page in [REPO / "README.md", REPO / "ARCHITECTURE.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
