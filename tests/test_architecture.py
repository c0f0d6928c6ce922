"""Rules that are executed: sizes, broad handlers, and what must never be written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "tunesmith"
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_TRAIN_LINES = 550, 60, 120
BROAD = {
    "recipes/catalog.py",
    "core/rounds.py", "worker/__main__.py", "executors/zygote.py",
    "recipes/blocks/tracking.py",
}  # fmt: skip
"""Work that is repeated, the last lines of processes, and what must not disturb the training."""
FORBIDDEN = {
    r"\bimport pickle\b|\bpickle\.loads?\(|\btorch\.load\(|allow_pickle=True": "pickle can run code when it is read",
    r"shell=True": "names of users must reach programs as they are",
    r"trust_remote_code=True": "models bring no code",
    r"request\.url\b": "Host can poison it; decide on the ASGI scope",
    r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError": "nothing is left undone",
}


def files() -> Iterator[Path]:
    return SOURCE.rglob("*.py")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_and_no_function_grows_without_limit() -> None:
    found = [f"{path}: {n} lines" for path in files() if (n := path.read_text().count("\n")) > MAX_FILE_LINES]
    for path in files():
        if "migrations" in path.parts:
            continue  # a migration is a list, read once
        for node in functions(path):
            limit = MAX_TRAIN_LINES if node.name == "train" and "recipes" in path.parts else MAX_FUNCTION_LINES
            if (length := (node.end_lineno or 0) - node.lineno) > limit:
                found.append(f"{path}:{node.lineno} {node.name}: {length} lines")
    assert not found


def test_broad_handlers_stand_in_their_places_only() -> None:
    found = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"BaseException"}
            reraises = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            if names & {"Exception", "BaseException"} and not reraises and str(path.relative_to(SOURCE)) not in BROAD:
                found.append(f"{path}:{node.lineno}")
    assert not found


def test_what_must_never_be_written() -> None:
    found = []
    for path in files():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for pattern, why in FORBIDDEN.items():
                if re.search(pattern, line) and "never" not in line.lower():
                    found.append(f"{path}:{number}: {why}")
    assert not found


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in files() if path.stem in ("utils", "helpers", "misc", "common_utils")]


def test_the_server_loads_no_training_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, tempfile, pathlib\n"
        "from tunesmith.app import create_app\n"
        "from tunesmith.settings import Settings\n"
        "create_app(Settings(home=pathlib.Path(tempfile.mkdtemp())))\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'polars', 'pyarrow', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
