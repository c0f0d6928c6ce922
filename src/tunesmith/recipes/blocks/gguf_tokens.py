"""Whether llama.cpp cuts conversations into the tokens that the model was trained with. `llama_cpp.check_tokens` starts it.

`python -m tunesmith.recipes.blocks.gguf_tokens <file.gguf> <folder with the tokenizer>` answers with one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import BadData, JobFailure, TunesmithError, UnsupportedFormat
from tunesmith.recipes.blocks import gguf_native
from tunesmith.recipes.blocks.loading import load_tokenizer
from tunesmith.recipes.blocks.templates import Conversation, Part, Renderer

CUT = "Hello world! It's 42.5 % of 1,234 — naïve café.\n\n  x = 1;\t# 日本語 🙂"
TALKS = (
    [("user", "Hello")],
    [("user", CUT), ("assistant", "  def f():\n    return 1\n\n"), ("user", "\nAnd \t then?  ")],
    [("system", " Be short. "), ("user", CUT), ("assistant", "naïve café")],
)
"""Conversations that are cut once they are rendered, special tokens and what stands beside them included."""
WINDOW = 512


def rendered(tokenizer: Any) -> list[str]:
    """The conversations as the model's template writes them; without those that it refuses."""
    talks = [[{"role": role, "content": content} for role, content in talk] for talk in TALKS]
    asked = [Conversation(talk, [Part(len(talk), True)]) for talk in talks]
    with Renderer(tokenizer) as template:
        return [parts[0] for parts in template.render_all(asked) if not isinstance(parts, BadData)]


def compare(tokenizer: Any, texts: Sequence[str], found: Sequence[Sequence[int]]) -> None:
    """Raise `UnsupportedFormat` for the first text that llama.cpp has cut into other tokens than the tokenizer does."""
    for text, ours in zip(texts, found, strict=True):
        if list(ours) != list(tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise UnsupportedFormat(
                f"llama.cpp cuts a conversation of this model into other tokens than it was trained with: {text[:200]!r}.",
                hint="Serve the model with engine transformers, or use a format that is a folder of safetensors.",
            )


def main(gguf: Path, words: Path) -> None:
    """What the child does. It ends without tidying llama.cpp's threads up."""
    told: dict[str, str] = {}
    try:
        tokenizer = load_tokenizer(str(words), offline=True)
        texts = rendered(tokenizer)
        with gguf_native.open_model(gguf, WINDOW) as model:
            compare(tokenizer, texts, [model.tokenize(text, adds_special=False) for text in texts])
    except JobFailure:  # a base model without an end of text has no conversations
        pass
    except TunesmithError as error:
        told = {"message": error.message, "hint": error.hint}
    sys.stdout.write("\n" + json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
