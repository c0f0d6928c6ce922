"""Numbers of jobs, datasets, evaluations, downloads and keys, given as a number or as a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.sdk.client import Client

Found = Callable[[Client, str], Iterable[tuple[int, str]]]
"""Those whose name holds a text, as `(number, name)`."""
SHOWN = 5


def picked(kind: str, text: str | int, find: Callable[[str], Iterable[tuple[int, str]]], listed: str = "") -> int:
    """The number that a word of the command line means: itself, or that of the one thing of this name among those that `find`
    gives. `listed`: the command that shows them. Raises `InvalidInput`, `NotFound`."""
    listed, word = listed or f"tunesmith {kind}s list", str(text).strip()
    if word.isdecimal() and int(word):
        return int(word)
    if not word or word.lstrip("-").isdecimal():
        raise InvalidInput(
            f"{word or 'An empty word'} names no {kind}.", hint=f"Give its number or its name; see: {listed}"
        )
    found = list(find(word))
    exact = [(n, name) for n, name in found if name == word] or [
        (n, name) for n, name in found if name.lower() == word.lower()
    ]
    if len(exact) == 1:
        return exact[0][0]
    if exact:
        named = ", ".join(str(n) for n, _ in exact[:SHOWN])
        raise InvalidInput(
            f"{len(exact)} {kind}s are called {word}: {named}.", hint="Give the number of the one you mean."
        )
    close = ", ".join([f"{n} ({name})" for n, name in found if word.lower() in name.lower()][:SHOWN])
    raise NotFound(f"There is no {kind} {word!r}.", hint=f"Did you mean {close}?" if close else f"See: {listed}")


def _reference(kind: str, find: Found, listed: str = "") -> Callable[[str | int], int]:
    """What turns a word of the command line into a number, as `picked`."""

    def number(text: str | int) -> int:
        def ask(word: str) -> Iterable[tuple[int, str]]:
            with Client() as client:
                return list(find(client, word))

        return picked(kind, text, ask, listed)

    number.__name__ = kind.upper()  # what typer calls it in its help
    return number


def _jobs(client: Client, text: str) -> Iterable[tuple[int, str]]:
    return ((job.id, job.info.name) for job in client.jobs.list(q=text))


def _datasets(client: Client, text: str) -> Iterable[tuple[int, str]]:
    return ((dataset.id, dataset.name) for dataset in client.datasets.list(q=text))


def _evaluations(client: Client, text: str) -> Iterable[tuple[int, str]]:
    return ((each.id, each.name) for each in client.evaluations.list(q=text))


def _downloads(client: Client, _text: str) -> Iterable[tuple[int, str]]:
    return {one.name: (one.id, one.name) for one in reversed(list(client.models.downloads()))}.values()


job_number = _reference("job", _jobs)
download_number = _reference("download", _downloads, "tunesmith models downloads")
dataset_number = _reference("dataset", _datasets)
evaluation_number = _reference("evaluation", _evaluations)

JobId = Annotated[int, typer.Argument(parser=job_number, metavar="JOB", help="The job's number or name.")]
JobIds = Annotated[
    list[Any], typer.Argument(parser=job_number, metavar="JOB...", help="Numbers or names of two to eight jobs.")
]
DatasetId = Annotated[
    int, typer.Argument(parser=dataset_number, metavar="DATASET", help="The dataset's number or name.")
]
DatasetIds = Annotated[
    list[Any], typer.Argument(parser=dataset_number, metavar="DATASET...", help="Numbers or names of datasets.")
]
EvaluationId = Annotated[
    int,
    typer.Argument(
        parser=evaluation_number, metavar="EVALUATION", help="The evaluation's number, which is its job's, or its name."
    ),
]
