"""The model card (README.md with Hugging Face front matter) and the configuration that makes the same model again."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith.core.job_spec import JobSpec

LOADING_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
LOADING_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
LIBRARIES = ("tunesmith", "torch", "transformers", "peft")


def write_card(
    folder: Path,
    spec: JobSpec,
    params: dict[str, Any],
    metrics: dict[str, float],
    *,
    task: str = "text-generation",
    usage: str = "",
    library: str = "transformers",
) -> None:
    """Write `README.md` and `training_config.yaml` to the model folder. `usage`: Python that loads and asks it, of models that
    are no language models."""
    adapter = (folder / "adapter_config.json").exists()
    base = spec.model.name if spec.model else ""
    front = {
        "base_model": base,
        "library_name": "peft" if adapter else library,
        "pipeline_tag": task,
        "tags": [
            "tunesmith",
            spec.recipe,
            *([] if usage or "train_on" not in params else ["sft"]),
            *(["lora"] if adapter else []),
        ],
    }
    front = {name: value for name, value in front.items() if value}
    loading = usage or (LOADING_ADAPTER.replace("{base}", base) if adapter else LOADING_MODEL)
    data = spec.dataset
    lines = [
        "---", _yaml(front).strip(), "---", "", f"# {_plain(spec.name)}", "",
        f"{_plain(base) + ' tuned' if base else 'Made'} with the `{spec.recipe}` method of Tunesmith.", "", "## Use", "", "```python", loading, "```",
        "", "## Training data", "",
        f"{_plain(data.name)}, {data.num_rows} rows, version `{data.digest}`." if data else "None.", "",
        "## Results", "", "| metric | value |", "|---|---|", *(f"| {name} | {value:.6g} |" for name, value in metrics.items()),
        "", "## Settings", "", "| setting | value |", "|---|---|", *(f"| {k} | {_plain(str(v))} |" for k, v in params.items()),
        "", "## Made with", "", ", ".join(f"{name} {version(name)}" for name in LIBRARIES), "",
    ]  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines))
    (folder / "training_config.yaml").write_text(config_yaml(spec, params))


def config_yaml(spec: JobSpec, params: dict[str, Any]) -> str:
    """The job as `tunesmith train --config` reads it."""
    config: dict[str, Any] = {
        "name": spec.name,
        "method": spec.recipe,
        "model": {"name": spec.model.name} if spec.model else {},
        "training_data": {"dataset": spec.dataset.name, "version": spec.dataset.digest} if spec.dataset else {},
        "hyperparameters": {key: value for key, value in params.items() if value is not None},
    }
    return _yaml(config)


def _yaml(value: dict[str, Any]) -> str:
    import yaml  # the server imports this module and seldom comes here

    return yaml.safe_dump(value, sort_keys=False)


def _plain(text: str) -> str:
    """One line that cannot break a table or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
