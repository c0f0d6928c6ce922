"""What a finished model is: how its files are checked, what can run it, and what it is asked. One value for each kind, which
registry, serving, catalog and download use; nowhere else is a kind named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PREDICT = "predict"
"""The engine of every kind that does not chat: it loads `ModelKind.load` and asks the `Predictor`."""


class Description(NamedTuple):
    """What a model's files say about it."""

    architecture: dict[str, Any]
    num_parameters: int | None = None
    """Of the files themselves: of an adapter, its own weights."""
    task: str = ""
    """What it does, a name of `core.tasks.TASKS`; empty: the first task of its kind."""
    labels: tuple[str, ...] = ()
    """Of a classifier: what it tells apart."""
    target: str = ""
    """Of a model that takes rows of a table: the column that it was trained to fill."""
    inputs: tuple[Mapping[str, Any], ...] = ()
    """Of a model that takes rows of a table: each column with `name`, `type` (`number`, `category`, `text`, `date`), and, where
    there are few, the `choices`."""


class Predictor(Protocol):
    """A loaded model that answers for its task. Lives in a serving process, or in a worker."""

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """One answer for each input, in the form that `core.tasks` gives for the task. Raises `InvalidInput` naming the input
        (`inputs.3`) that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """One kind of model. Importing it must not import torch."""

    name: str
    title: str
    framework: str
    """What loads it outside of here: `transformers`, `peft`, `llama.cpp`, `lightgbm` …"""
    tasks: tuple[str, ...]
    """What models of it do; names of `core.tasks.TASKS`."""
    matches: Callable[[Path], bool]
    """Whether a folder, or a file, is one. Looks at names and small files only."""
    describe: Callable[[Path, Path | None], Description]
    """`describe(path, base)`: checks the files without running anything and says what they hold; `base` is the folder of what
    an adapter stands on. Raises `UnsupportedFormat`, `BadData` or `NotFound` naming the file."""
    engines: tuple[str, ...]
    """Engines that can serve it, the usual first: `llama.cpp`, `vllm`, `transformers`, or `predict`."""
    load: str = ""
    """Of engine `predict`: `module:function`, imported by the serving process only; `load(path, threads) -> Predictor`."""
    needs_base: bool = False
    """Whether it is a part that stands on another model, as an adapter does."""
    opens: Callable[[Path], Path] = lambda folder: folder
    """What engines are given of its folder: the folder itself, or a file in it."""
    exports: tuple[str, ...] = ()
    """Formats that it can be turned into."""
    usage: str = ""
    """Python that loads a downloaded copy and asks it once; `{folder}` and `{base}` are filled in."""

    @property
    def predicts(self) -> bool:
        """Whether it is asked by `predict`, and not to chat."""
        return self.engines[:1] == (PREDICT,)
