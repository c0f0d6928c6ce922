"""The model: an encoder or a causal model with a head for the labels of the data, and what is saved of it in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import RunContext
from tunesmith.core.words import plural
from tunesmith.engine.lora import LoraLinear, add_lora, lora_layers
from tunesmith.recipes.blocks.loading import load_causal_lm, load_config
from tunesmith.recipes.classifiers import ENDING, MULTI_LABEL, UNSURE_BELOW, labels_of
from tunesmith.recipes.model_info import refuse_unsafe_files

SINGLE_LABEL = "single_label_classification"
NAMED = 5
"""Labels or weights that a sentence names."""


class Labelled(NamedTuple):
    """Which labels the model's outputs stand for."""

    names: tuple[str, ...]
    is_multi: bool
    is_head_new: bool


def labels_for(run: RunContext, base: ModelRef, names: tuple[str, ...], is_multi: bool) -> Labelled:
    """Those of the base model where it is a classifier that knows all of `names`, else `names` with a new head; says which."""
    config = load_config(base, offline=run.spec.offline)
    architectures = config.architectures or [""]
    if not str(architectures[0]).endswith(ENDING) or base.adapter_path:
        return Labelled(names, is_multi, True)
    known = labels_of(config.to_dict())
    unknown = [name for name in names if name not in known]
    if not unknown and (config.problem_type == MULTI_LABEL) == is_multi and len(known) > 1:
        unused = [name for name in known if name not in names]
        if unused and run.attempt == 1:
            run.notice(
                f"The model keeps {plural(len(unused), 'label')} that no row has: {_few(unused)}.",
                code="labels_kept",
            )  # fmt: skip
        return Labelled(known, is_multi, False)
    if run.attempt == 1:
        what = f"does not know {plural(len(unknown), 'label')} of the data ({_few(unknown)})" if unknown else (
            "was made for one label a text, the data has several" if is_multi else "was made for several labels a text, the data has one"
        )  # fmt: skip
        run.notice(f"The model's head is made anew: {base.name} {what}.", level="warning", code="head_made_anew")
    return Labelled(names, is_multi, True)


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def load_model(
    run: RunContext, base: ModelRef, labelled: Labelled, tokenizer: Any, dtype: torch.dtype, seed: int
) -> Any:
    """The base model with its head, on the CPU. Raises `JobFailure` for architectures without one, and where weights of the base
    itself are missing."""
    from transformers import AutoModelForSequenceClassification

    if Path(base.path).is_dir():
        refuse_unsafe_files(Path(base.path))
    config = load_config(base, offline=run.spec.offline)
    config.id2label = dict(enumerate(labelled.names))
    config.label2id = {name: number for number, name in enumerate(labelled.names)}
    config.problem_type = MULTI_LABEL if labelled.is_multi else SINGLE_LABEL
    if hasattr(config, UNSURE_BELOW):
        delattr(config, UNSURE_BELOW)
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base.path, revision=base.revision, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True,
            local_files_only=run.spec.offline, ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise JobFailure(
            FailureCode.UNSUPPORTED, f"transformers has no classifier for models of type {config.model_type}.",
            hint="Choose an encoder such as BERT, RoBERTa, DistilBERT or ModernBERT, or a language model such as Llama or Qwen.",
        ) from error  # fmt: skip
    if base.adapter_path:
        merged = load_causal_lm(base, dtype=dtype, device=torch.device("cpu"), offline=run.spec.offline)
        model.base_model.load_state_dict(merged.base_model.state_dict())
    _check_missing(model, info)
    if labelled.is_head_new:
        _fresh(final_layer(model), float(getattr(config, "initializer_range", 0.02) or 0.02))
    return model


def _check_missing(model: Any, info: Any) -> None:
    """The head may be new, and the pooler, which is of the head; all else has to be in the files."""
    inside = f"{model.base_model_prefix}."
    missing = [key for key in info["missing_keys"] if key.startswith(inside) and ".pooler." not in key]
    if missing:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            f"The model's files lack {plural(len(missing), 'weight')} of the model itself: {_few(sorted(missing))}.",
            hint="Download the model again, or choose another one.",
        )


def final_layer(model: Any) -> nn.Linear:
    """The layer that gives the logits: the last one outside of the base model. Raises `JobFailure` where there is none."""
    inside = {id(module) for module in model.base_model.modules()}
    found = [module for module in model.modules() if type(module) is nn.Linear and id(module) not in inside]
    if not found or found[-1].out_features != model.config.num_labels:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            f"The head of {type(model).__name__} does not end in a linear layer of one output for each label.",
            hint="Choose an encoder such as BERT, RoBERTa, DistilBERT or ModernBERT, or a language model such as Llama or Qwen.",
        )
    return found[-1]


def _fresh(layer: nn.Linear, spread: float) -> None:
    with torch.no_grad():
        layer.weight.normal_(0.0, spread)
        if layer.bias is not None:
            layer.bias.zero_()


def inner_layers(model: Any) -> list[str]:
    """The linear layers of the base model by full name, its pooler left out."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(f"{model.base_model_prefix}.")
        and ".pooler." not in name
    ]


def add_adapters(model: Any, head: list[nn.Parameter], r: int, alpha: int, dropout: float, seed: int) -> None:
    """Freeze `model` but for its head, and put an adapter on each inner linear layer."""
    torch.manual_seed(seed)
    add_lora(model, inner_layers(model), r, alpha, dropout)
    for param in head:
        param.requires_grad_(True)


def plain_model(model: Any, whole: Any) -> Any:
    """`whole`, the base model loaded anew in fp32, with what the adapters of `model` have learned merged in, and its head."""
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for name, layer in lora_layers(model):
            change = (layer.lora_b.float() @ layer.lora_a.float()) * layer.scale  # (out, in)
            target = whole.get_submodule(name).weight
            target += (change.T if isinstance(layer.base, Conv1D) else change).to(target.device)
        for name, param in whole.named_parameters():
            if name in trained and trained[name].requires_grad:
                param.copy_(trained[name])
    return whole


def has_adapters(model: Any) -> bool:
    return any(isinstance(module, LoraLinear) for module in model.modules())
