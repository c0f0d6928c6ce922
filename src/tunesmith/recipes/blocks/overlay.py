"""An adapter laid over a model with PEFT, so that nothing of the model itself changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.recipes.adapter_info import ADAPTER_WEIGHTS, AdapterInfo, read_adapter_info
from tunesmith.recipes.blocks.adapter_weights import EMBEDDINGS, HEAD


def lay_over(model: Any, folder: Path, name: str = "default", *, may_replace: bool = False) -> Any:
    """The PEFT model with one more adapter. `model`: the base, or the PEFT model that earlier adapters lie in.

    PEFT initializes nothing: some ways of it rewrite the base. Weights of the base that the adapter's file holds besides are
    refused unless they are the base's own, or with `may_replace` take their place. Raises `UnsupportedFormat` or `BadData`
    naming what cannot be used, and what PEFT raises for shapes that do not fit.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    info = read_adapter_info(folder)
    config = LoraConfig.from_pretrained(str(folder))
    config.init_lora_weights, config.inference_mode = False, True
    held = load_file(folder / ADAPTER_WEIGHTS)
    base, laid = (model.get_base_model(), model) if isinstance(model, PeftModel) else (model, None)
    if not may_replace:
        _drop_own(held, info, base)
    done = False
    try:
        if laid is None:
            laid = PeftModel(base, config, adapter_name=name)
        else:
            laid.add_adapter(name, config)
        _check(set_peft_model_state_dict(laid, held, adapter_name=name), name, laid)
        done = True
    finally:
        if not done and laid is not model:
            take_off(base)
        elif not done and name in model.peft_config:
            model.delete_adapter(name)
    return laid.eval()


def merge_into(model: Any, folder: Path) -> Any:
    """The model with the adapter in its own weights; it is nobody else's. Raises as `lay_over`.

    Where output and embedding are one, a change of one of them must not become the other's: they are taken apart before.
    """
    info = read_adapter_info(folder)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    changed = {*(f"{module}.weight" for module in info.parts), *info.whole}
    if (
        head is not None
        and head.weight is embedding.weight
        and any(name.endswith((*EMBEDDINGS, HEAD)) for name in changed)
    ):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    merged = lay_over(model, folder, may_replace=True).merge_and_unload()
    if head is not None and merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = False
    return merged


def take_off(base: Any) -> None:
    """Leave the model as it was before the first adapter, wherever PEFT stopped."""
    for module in list(base.modules()):
        for name, child in module._modules.items():
            module._modules[name] = _inner(child)


def _check(found: Any, name: str, laid: Any) -> None:
    """Raise `BadData` for tensors that found no place, and for places that got none but those that are one with others."""
    if found.unexpected_keys:
        raise BadData(
            f"The adapter changes {found.unexpected_keys[0][:120]}, which the model does not have.",
            hint="Choose the base model that the adapter was trained on.",
        )
    own = {key: tensor.data_ptr() for key, tensor in laid.state_dict().items() if name in key.split(".")}
    filled = {place for key, place in own.items() if key not in found.missing_keys}
    if missing := [key for key in found.missing_keys if key in own and own[key] not in filled]:
        raise BadData(f"The adapter's file lacks {missing[0][:120]}, which its configuration names.")


def _drop_own(held: dict[str, torch.Tensor], info: AdapterInfo, base: Any) -> None:
    """Take out what is the base's own. Raises `UnsupportedFormat` for a weight that differs: everybody over the base would
    get it."""
    for weight, key in info.whole.items():
        if info.is_saved_module(weight):
            continue
        ours = _weight_of(base, weight)
        if ours is None or ours.shape != held[key].shape or not torch.equal(ours, held[key].to(ours)):
            raise UnsupportedFormat(
                f"The adapter holds its own {weight[:120]}, which cannot lie beside other adapters over one base.",
                hint="Merge it: compress it to the format merged, and use that version.",
            )
        del held[key]


def _weight_of(base: Any, name: str) -> torch.Tensor | None:
    """The base's own weight, also below what PEFT has put around its module."""
    module, (*path, last) = base, name.split(".")
    for part in path:
        module = _inner(module)
        if part not in module._modules:
            return None
        module = module._modules[part]
    found = _inner(module)._parameters.get(last)
    return found.data if found is not None else None


def _inner(module: Any) -> Any:
    """The layer itself, below PEFT's wrappers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
    return module
