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
from tunesmith.features.jobs import files

CHATML = """TEMPLATE \"\"\"{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
\"\"\"
PARAMETER stop "<|im_start|>"
PARAMETER stop "<|im_end|>"
"""
LLAMA3 = """TEMPLATE \"\"\"{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

\"\"\"
PARAMETER stop "<|eot_id|>"
PARAMETER stop "<|start_header_id|>"
"""
LLAMA2 = """TEMPLATE \"\"\"{{- if .System }}[INST] <<SYS>>
{{ .System }}
<</SYS>>

{{ else }}[INST] {{ end }}{{ .Prompt }} [/INST] {{ .Response }}\"\"\"
PARAMETER stop "[INST]"
PARAMETER stop "[/INST]"
"""
GEMMA = """TEMPLATE \"\"\"{{- range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}
{{ .Content }}<end_of_turn>
{{ end }}<start_of_turn>model
\"\"\"
PARAMETER stop "<end_of_turn>"
"""
PLAIN = """TEMPLATE \"\"\"{{- range .Messages }}{{ if eq .Role "assistant" }}Assistant{{ else if eq .Role "system" }}System{{ else }}User{{ end }}: {{ .Content }}
{{ end }}Assistant:\"\"\"
PARAMETER stop "User:"
"""
FAMILIES = (
    ("<|im_start|>", CHATML),
    ("<|start_header_id|>", LLAMA3),
    ("[INST]", LLAMA2),
    ("<start_of_turn>", GEMMA),
)
"""What a chat template contains, and how Ollama writes the same."""
REPORT = "report/report.html"


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
        if each.path.partition("/")[0] in (produces, "report")
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
    """For `ollama create`: an adapter names its base model by FROM and itself by ADAPTER; whole weights are the FROM."""
    if is_adapter(model):
        base = spec.model.name if spec.model else ""
        source = (
            f"# The adapter needs its base model, {base}, which this package does not hold. {fetching(base)}\n"
            f"FROM ./base\nADAPTER ./{produces}\n"
        )
    else:
        source = f"FROM ./{produces}\n"
    system = spec.params.get("system_prompt")
    quoted = f'SYSTEM """{str(system).replace(chr(34) * 3, chr(39) * 3)}"""\n' if system else ""
    return f"{source}{ollama_template(model)}{quoted}PARAMETER temperature 0.7\nPARAMETER num_ctx {_context(spec)}\n"


def fetching(base: str) -> str:
    """How a base model gets into the folder `base`, in one line."""
    is_hub_id = base.count("/") == 1 and not base.startswith(("/", ".", "~")) and ":" not in base and "@" not in base
    if is_hub_id:
        return f"Fetch it beside this file: hf download {base} --local-dir base"
    return "Copy its folder beside this file under the name base, or write its path in FROM."


def ollama_template(model: Path) -> str:
    """TEMPLATE and stop words for the model's chat template, told by its marks."""
    text = chat_template(model)
    return next((template for mark, template in FAMILIES if mark in text), PLAIN)


def chat_template(model: Path) -> str:
    """The Jinja text, from its own file or from the tokenizer's configuration; empty when there is none."""
    own = model / "chat_template.jinja"
    if own.is_file():
        return own.read_text(errors="replace")
    try:
        config = json.loads((model / "tokenizer_config.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return str(config.get("chat_template") or "")


def is_adapter(model: Path) -> bool:
    return (model / "adapter_config.json").is_file()


def _context(spec: JobSpec) -> int:
    return max(2048, int(spec.params.get("max_length") or 0))


def readme(model: Path, spec: JobSpec, produces: str, name: str) -> str:
    """What is in the archive and the three ways to use it."""
    base = spec.model.name if spec.model else ""
    if is_adapter(model):
        what = f"`{produces}/` is a LoRA adapter for `{base}`; it needs that model beside it."
        load = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            f'model = PeftModel.from_pretrained(base, "{produces}")\n'
        )
        first = f"{fetching(base)}\n\nThen, in this folder:"
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
