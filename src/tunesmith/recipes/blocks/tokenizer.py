"""The tokenizer of a model, ready to train with. Needs no torch of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.recipes.chat_template import PLAIN_TEMPLATE, own_template


def load_tokenizer(path: str, *, revision: str | None = None, offline: bool = False, adapter: str | None = None) -> Any:
    """The tokenizer, with a chat template and a padding token in any case. The template is that of the `adapter` over the model
    where it has another one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False, local_files_only=offline
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if not Path(path).is_dir():
            raise
        raise JobFailure(
            FailureCode.MODEL_NOT_FOUND,
            f"The model folder {Path(path).name} has no tokenizer that can be read: {str(error).partition(chr(10))[0][:200]}",
            hint="Put tokenizer.json and tokenizer_config.json of the base model into the folder.",
        ) from error
    if tokenizer.eos_token is None:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            "The model's tokenizer has no end-of-text token, so a tuned model could never stop.",
            hint="Choose the instruction-tuned variant of the model.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = ("{{ bos_token }}" if opening(tokenizer) else "") + PLAIN_TEMPLATE
    if own := own_template(adapter, path):
        tokenizer.chat_template = own
    return tokenizer


def opening(tokenizer: Any) -> str:
    """The token that the model expects at the start of a text; empty for models that know none."""
    first = tokenizer("a")["input_ids"][0]
    return str(tokenizer.bos_token) if tokenizer.bos_token is not None and first == tokenizer.bos_token_id else ""
