"""A user's settings against a recipe's own parameter class: every problem at once, each with its place and a remedy."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesmith.core.errors import InvalidInput
from tunesmith.core.recipe import Recipe
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural

OTHER_NAMES = {
    "lr": "learning_rate",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "optim": "optimizer",
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "r": "lora_r",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "grad_accum": "gradient_accumulation_steps",
    "clip_grad_norm": "max_grad_norm",
    "eval_split": "validation_split",
    "val_set_size": "validation_split",
}
"""What other trainers call it."""


def check_params(recipe: Recipe, given: dict[str, Any], *, prefix: str = "hyperparameters") -> Any:
    """An instance of `recipe.params`. Raises `InvalidInput` with one detail a problem, its place below `prefix`."""
    try:
        return recipe.params.model_validate(given)
    except ValidationError as error:
        details = [_detail(recipe.params, problem, prefix) for problem in error.errors()]
    where = ", ".join(detail["loc"] for detail in details[:5])
    raise InvalidInput(
        f"{plural(len(details), 'setting')} of {recipe.name} cannot be used: {where}.",
        hint="Each problem is named with its place.",
        details=details,
    )


def _detail(params: type[BaseModel], problem: Any, prefix: str) -> dict[str, Any]:
    parts = [str(part) for part in problem["loc"]]
    message = message_of(problem)
    if problem["type"] == "extra_forbidden":
        guess = did_you_mean(parts[-1], params) if len(parts) == 1 else None
        message = f"there is no such setting{f'; did you mean {guess}?' if guess else ''}"
    return {
        "loc": ".".join([prefix, *parts]) if prefix else ".".join(parts),
        "message": message,
        "type": problem["type"],
    }


def did_you_mean(name: str, params: type[BaseModel]) -> str | None:
    """The field that someone who wrote `name` most likely wanted."""
    other = OTHER_NAMES.get(name.lower())
    if other in params.model_fields:
        return other
    close = difflib.get_close_matches(name.lower(), params.model_fields, n=1, cutoff=0.6)
    return close[0] if close else None
