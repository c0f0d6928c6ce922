"""A text encoder that answers with one vector for each text, pooled as its `1_Pooling/config.json` says (sentence-transformers'
place for it), else the mean over its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from tunesmith.core.errors import InvalidInput, UnsupportedFormat
from tunesmith.core.prediction import read_parameters
from tunesmith.recipes.blocks.text_classifier import batches, context_of
from tunesmith.recipes.model_info import refuse_unsafe_files

POOLING = Path("1_Pooling", "config.json")
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class VectorParameters(BaseModel):
    """How vectors are given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    normalize: bool = True
    """Give vectors of length 1, whose products are cosines."""
    truncate: bool = True
    """Cut texts that are longer than the model's context; false refuses them."""


class TextEncoder:
    """A loaded model. `predict` may be called by one thread at a time."""

    def __init__(self, model: Any, tokenizer: Any, pooling: str) -> None:
        self._model, self._tokenizer, self.pooling = model.eval(), tokenizer, pooling
        self.most_tokens = context_of(model, tokenizer)

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[list[float]]:
        """For each text a vector (hidden size,). Raises `InvalidInput` naming the input or parameter."""
        told = read_parameters(VectorParameters, parameters)
        rows = [self._row(number, text, told) for number, text in enumerate(inputs)]
        found: list[list[float]] = [[] for _ in rows]
        for places in batches([len(row["input_ids"]) for row in rows]):
            vectors = self._vectors([rows[place] for place in places])
            if told.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
            for place, vector in zip(places, vectors.tolist(), strict=True):
                found[place] = vector
        return found

    def _row(self, number: int, text: Any, told: VectorParameters) -> dict[str, list[int]]:
        if not isinstance(text, str):
            raise InvalidInput(
                f"inputs.{number} is no text.", details=[{"loc": f"inputs.{number}", "message": "no text"}]
            )
        row = self._tokenizer(text, verbose=False)
        length = len(row["input_ids"])
        if length > self.most_tokens and not told.truncate:
            what = f"has {length} tokens, and the model takes {self.most_tokens}"
            raise InvalidInput(f"inputs.{number} {what}.", details=[{"loc": f"inputs.{number}", "message": what}])
        return dict(self._tokenizer(text, truncation=True, max_length=self.most_tokens, verbose=False))

    @torch.inference_mode()
    def _vectors(self, rows: list[dict[str, list[int]]]) -> torch.Tensor:
        """(rows, hidden size), fp32."""
        batch = self._tokenizer.pad(rows, padding=True, return_tensors="pt").to(self._model.device)
        states = self._model(**batch).last_hidden_state.float()
        if self.pooling == "cls":
            return states[:, 0].cpu()
        mask = batch["attention_mask"].unsqueeze(-1).float()
        return ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu()


def load(path: Path, threads: int) -> TextEncoder:
    """The encoder in a folder: safetensors only, no code of the model's own. Raises as `refuse_unsafe_files`."""
    from transformers import AutoModel, AutoTokenizer

    refuse_unsafe_files(path)
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token is None:
        raise UnsupportedFormat("The tokenizer has no padding token.", hint="Add pad_token to tokenizer_config.json.")
    model = AutoModel.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    return TextEncoder(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, pooling_of(path))


def pooling_of(path: Path) -> str:
    """`mean` or `cls`. Raises `UnsupportedFormat` for ways of pooling that are not known here."""
    try:
        told = json.loads((path / POOLING).read_bytes())
    except FileNotFoundError:
        return "mean"
    chosen = [name for name, value in told.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) == 1 and chosen[0] in MODES:
        return MODES[chosen[0]]
    raise UnsupportedFormat(
        f"{POOLING} pools by {', '.join(chosen) or 'nothing'}.", hint="Mean and CLS pooling are known."
    )
