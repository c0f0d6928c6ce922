"""`GET /jobs/{id}/download`: one `.tar.gz` with all that is needed to use the model elsewhere, made while it is sent.

Memory is constant whatever the size, and the same job gives the same bytes: names are sorted, times and owners fixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tunesmith.core.errors import Conflict
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.packing import Member, pack
from tunesmith.features.catalog.service import MERGED_BASE
from tunesmith.features.jobs import files
from tunesmith.recipes.blocks.ollama_template import template_in

REPORT = "report/report.html"
NO_TEMPLATE = (
    "# TEMPLATE is missing: the model's chat template does more than Ollama's language can say. Ollama looks for one of its own\n"
    "# that fits; compare an answer of `ollama run --verbose` with one here, and write a TEMPLATE where they differ."
)


def stream_package(
    folder: JobDir, spec: JobSpec, produces: str, name: str, report: bytes | None = None
) -> Iterator[bytes]:
    """The archive, piece by piece. `name` becomes the folder inside; `report` takes the place of the report's page. Raises
    `Conflict` before the first byte."""
    model = folder.artifacts / produces
    if not produces or not model.is_dir():
        raise Conflict("This job has left no model.", hint="Download is possible once the job is completed.")
    return pack(name, members(folder, spec, produces, name, report))


def members(folder: JobDir, spec: JobSpec, produces: str, name: str, report: bytes | None = None) -> list[Member]:
    """Every file but the checksums, sorted by name. Links are left out, also those that appear while the archive is sent: it
    holds only what is in the job."""
    artifacts = folder.artifacts
    found = [
        Member(each.path, partial(files.artifact, folder, each.path))
        for each in files.artifacts(folder)
        if each.path.partition("/")[0] in (produces, MERGED_BASE, "report")
    ]
    if report is not None:
        found = [Member(each.name, report) if each.name == REPORT else each for each in found]
    texts = {
        "Modelfile": modelfile(artifacts / produces, spec, produces),
        "LM_STUDIO.md": lm_studio(artifacts / produces, spec, produces, name),
        "README.md": readme(artifacts / produces, spec, produces, name),
    }
    found += [Member(title, text.encode()) for title, text in texts.items()]
    return sorted(found, key=lambda member: member.name)


def modelfile(model: Path, spec: JobSpec, produces: str) -> str:
    """For `ollama create`: an adapter names its base model by FROM and itself by ADAPTER; whole weights are the FROM. The
    template is the model's own; where Ollama's language cannot say it, that is said instead."""
    lines = [f"FROM ./{produces}"]
    if is_adapter(model):
        base = f"FROM ./{MERGED_BASE}" if holds_base(model) else f"{_what_to_pull(spec)}\nFROM ./base"
        lines = [base, f"ADAPTER ./{produces}"]
    found = template_in(model)
    lines.append(f"TEMPLATE {in_quotes(found.text)}" if found.text else NO_TEMPLATE)
    if system := spec.params.get("system_prompt"):
        lines.append(f"SYSTEM {in_quotes(str(system))}")
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in found.stop]
    lines += ["PARAMETER temperature 0.7", f"PARAMETER num_ctx {_context(spec)}"]
    return "\n".join(lines) + "\n"


def in_quotes(text: str) -> str:
    """Text in triple quotes, which it cannot hold itself."""
    return '"""' + text.replace('"""', "'''") + '"""'


def holds_base(model: Path) -> bool:
    """Whether the package has the adapter's base model itself."""
    return (model.parent / MERGED_BASE).is_dir()


def _what_to_pull(spec: JobSpec) -> str:
    base = spec.model.name if spec.model else ""
    return f"# The adapter needs its base model, {base}, which this package does not hold. {fetching(base)}"


def fetching(base: str) -> str:
    """How a base model gets into the folder `base`, in one line."""
    if is_hub_id(base):
        return f"Fetch it beside this file: hf download {base} --local-dir base"
    if base.startswith("job:"):
        get = f"Get it with: tunesmith jobs download {base.removeprefix('job:')}; its model's folder goes"
    elif "@" in base:
        get = f"Get it with: tunesmith registry export {base}; its files go"
    else:
        return "Copy its folder beside this file under the name base, or write its path in FROM."
    return f"{get} beside this file under the name base."


def is_hub_id(base: str) -> bool:
    return base.count("/") == 1 and not base.startswith(("/", ".", "~")) and ":" not in base and "@" not in base


def is_adapter(model: Path) -> bool:
    return (model / "adapter_config.json").is_file()


def _context(spec: JobSpec) -> int:
    return max(2048, int(spec.params.get("max_length") or 0))


def readme(model: Path, spec: JobSpec, produces: str, name: str) -> str:
    """What is in the archive and the three ways to use it."""
    base = spec.model.name if spec.model else ""
    if is_adapter(model):
        folder = MERGED_BASE if holds_base(model) else base if is_hub_id(base) else "base"
        what = f"`{produces}/` is a LoRA adapter for `{base}`; it needs that model beside it."
        if holds_base(model):
            what = f"`{produces}/` is a LoRA adapter for `{MERGED_BASE}/`, which is {base} with its adapter merged in."
        load = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{folder}")\n'
            f'model = PeftModel.from_pretrained(base, "{produces}")\n'
        )
        first = "In this folder:" if holds_base(model) else f"{fetching(base)}\n\nThen, in this folder:"
    else:
        what = f"`{produces}/` is a whole model, tuned from `{base}`."
        load = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{produces}")\n'
        )
        first = "In this folder:"
    return f"""# {name}

{what} Format: safetensors. The card with data, settings and scores is `{produces}/README.md`; charts are in `report/`.

## Python

```python
{load}tokenizer = AutoTokenizer.from_pretrained("{produces}")
```

## Ollama

{first}

```
ollama create {name} -f Modelfile
ollama run {name}
```

## LM Studio

See `LM_STUDIO.md`.

## Whole?

`sha256sum -c SHA256SUMS` (macOS: `shasum -a 256 -c SHA256SUMS`) checks every file.
"""


def lm_studio(model: Path, spec: JobSpec, produces: str, name: str) -> str:
    """LM Studio reads GGUF: how to make one with llama.cpp's converters."""
    base = spec.model.name if spec.model else ""
    base = MERGED_BASE if holds_base(model) else base if is_hub_id(base) else "base"
    if is_adapter(model):
        steps = f"""1. Join the adapter and its base model (`pip install transformers peft`):

   ```python
   from peft import PeftModel
   from transformers import AutoModelForCausalLM, AutoTokenizer

   base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")
   PeftModel.from_pretrained(base, "{produces}").merge_and_unload().save_pretrained("merged")
   AutoTokenizer.from_pretrained("{produces}").save_pretrained("merged")
   ```

2. Turn it into one GGUF file with llama.cpp's converter:

   ```
   python convert_hf_to_gguf.py merged --outfile {name}.gguf --outtype q8_0
   ```
"""
    else:
        steps = f"""1. Turn the model into one GGUF file with llama.cpp's converter:

   ```
   python convert_hf_to_gguf.py {produces} --outfile {name}.gguf --outtype q8_0
   ```
"""
    number = 3 if is_adapter(model) else 2
    return f"""# {name} in LM Studio

{steps}
{number}. `lms import {name}.gguf`, or move the file to `~/.lmstudio/models/tunesmith/{name}/`.
{number + 1}. Open LM Studio, choose `{name}`, and chat. The chat template travels inside the GGUF file.
"""
