"""The corpus as its users bring it: uploaded by the command line, asked for by the API, shown by the page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import ServerProcess
from tests.rows.corpus import CASES, Case
from tests.ui.conftest import browser, page, window
from tests.ui.ground import TINY, add_tiny_model
from tunesmith.cli.main import app

__all__ = ["browser", "page", "window"]  # fixtures
END = "<|im_end|>"


def files() -> dict[str, list[Case]]:
    """Cases whose rows have the same columns as one file, with lists and objects in columns of their own: the two longest of
    each shape. The rest are tried below HTTP."""
    kinds = defaultdict(list)
    for case in CASES:
        columns = tuple((name, type(value) in (list, dict) and type(value)) for name, value in case.row.items())
        kinds[(case.shape, columns)].append(case)
    kept: list[list[Case]] = []
    for cases in sorted(kinds.values(), key=len, reverse=True):
        if sum(cases[0].shape == other[0].shape for other in kept) < 2:
            kept.append(cases)
    return {f"corpus {number}": cases for number, cases in enumerate(kept, 1)}


def learned(row: dict[str, Any]) -> list[str]:
    """The stretches that are learned, of all texts of a row as the API shows it."""
    return [
        "".join(token["text"] for token in tokens)
        for text in row["texts"]
        for kind, tokens in groupby(text["tokens"], lambda token: token["kind"])
        if kind == "learned"
    ]


@pytest.mark.timeout(600)
def test_the_command_line_the_api_and_the_page_teach_the_same(
    start_server: Callable[..., ServerProcess], tiny_model: Path, tmp_path: Path, page: Any
) -> None:
    """Every file by the command line; of each shape the first by the page too, with what the API told it."""
    server, corpus = start_server(), files()
    add_tiny_model(server.home, tiny_model)
    for name, cases in corpus.items():
        lines = [json.dumps(case.row, ensure_ascii=False) for case in cases]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    uploaded = command(server, "upload", *(str(tmp_path / f"{name}.jsonl") for name in corpus))
    found = {dataset["name"]: dataset for dataset in uploaded}
    shapes = set()
    for name, cases in corpus.items():
        rows = command(server, "show-tokens", name, "--model", TINY, *(f"--row={n + 1}" for n in range(len(cases))))[
            "rows"
        ]
        assert found[name]["shape"] == cases[0].shape
        for case, row in zip(cases, rows, strict=True):
            if case.learned is None:
                assert row["problem"] and not row["texts"], case.name
            else:
                assert learned(row) == [answer + END for answer in case.learned], case.name
        if cases[0].shape not in shapes:
            check_page(page, f"{server.url}/datasets/{found[name]['id']}?tab=tokens", rows[:3])
        shapes.add(cases[0].shape)
    assert not page.alarms


def command(server: ServerProcess, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--json", "datasets", *words], env={"TUNESMITH_URL": server.url})
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def check_page(page: Any, url: str, rows: list[dict[str, Any]]) -> None:
    """The first rows, as the API tells them to the page and as it draws them."""
    with page.expect_response(lambda answer: "/tokens?" in answer.url) as told:
        page.goto(url)
    assert told.value.json()["rows"] == rows
    page.locator(".tokens, .note[data-tone=bad]").first.wait_for(timeout=30_000)
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('.tokens')].map(text => [...text.children]
            .filter(token => token.dataset.kind === 'learned').map(token => token.textContent).join(''))"""
    )
    assert drawn == ["".join(learned({"texts": [text]})) for row in rows for text in row["texts"]]
