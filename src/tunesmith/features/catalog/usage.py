"""How to use a model with other tools: the commands, filled in. Names are checked before they come here."""

from __future__ import annotations

from tunesmith.schemas.models import ModelRead, Snippet

QUESTION = "What can you help me with?"


def snippets(model: ModelRead, root: str, url: str) -> list[Snippet]:
    """Ways to use `model`, whose first base is `root`; `url` is this server's own, such as `http://127.0.0.1:8000`."""
    elsewhere = _tuned(model, root, url) if model.kind == "tuned" else _base(model)
    return [*elsewhere, *_over_http(model.name, url)]


def _tuned(model: ModelRead, root: str, url: str) -> list[Snippet]:
    name = model.output_name or f"job-{model.job_id}"
    fetch = f"curl -fL -o {name}.tar.gz {url}/api/v1/jobs/{model.job_id}/download\ntar -xzf {name}.tar.gz\ncd {name}\n"
    folder = f"{model.method}_model"
    whole = model.method == "standard"
    base_first = "" if whole else f"hf download {root} --local-dir base\n"
    load = f'model = AutoModelForCausalLM.from_pretrained("{folder}")' if whole else (
        f'base = AutoModelForCausalLM.from_pretrained("{root}", dtype="auto")\n'
        f'model = PeftModel.from_pretrained(base, "{folder}")'
    )  # fmt: skip
    merge = "" if whole else (
        'python - <<\'END\'\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n'
        f'base = AutoModelForCausalLM.from_pretrained("{root}", dtype="auto")\n'
        f'PeftModel.from_pretrained(base, "{folder}").merge_and_unload().save_pretrained("merged")\n'
        f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("merged")\nEND\n'
    )  # fmt: skip
    gguf = _gguf(folder if whole else "merged", name)
    needs_base = "" if whole else "The adapter needs its base model beside it; the first lines fetch both."
    return [
        Snippet(key="ollama", title="Ollama", language="shell", note=needs_base,
                text=f"{fetch}{base_first}ollama create {name} -f Modelfile\nollama run {name}\n"),
        Snippet(key="lm-studio", title="LM Studio", language="shell", text=f"{fetch}{merge}{gguf}lms import {name}.gguf\n",
                note="LM Studio reads GGUF; convert_hf_to_gguf.py comes with llama.cpp."),
        Snippet(key="transformers", title="Transformers", language="python", text=_transformers(load, folder, peft=not whole),
                note=f"In the folder that {name}.tar.gz unpacks to."),
    ]  # fmt: skip


def _base(model: ModelRead) -> list[Snippet]:
    name = model.title.lower()
    fetch = f"hf download {model.name} --local-dir base\n" if "/" in model.name else ""
    folder = "base" if fetch else f"path/to/{model.name}"
    source = model.name if fetch else folder
    load = f'model = AutoModelForCausalLM.from_pretrained("{source}", dtype="auto")'
    return [
        Snippet(key="ollama", title="Ollama", language="shell",
                text=f'{fetch}echo "FROM ./{folder}" > Modelfile\nollama create {name} -f Modelfile\nollama run {name}\n'),
        Snippet(key="lm-studio", title="LM Studio", language="shell",
                text=f"{fetch}{_gguf(folder, name)}lms import {name}.gguf\n",
                note="LM Studio reads GGUF; convert_hf_to_gguf.py comes with llama.cpp."),
        Snippet(key="transformers", title="Transformers", language="python", text=_transformers(load, source)),
    ]  # fmt: skip


def _gguf(folder: str, name: str) -> str:
    return f"python convert_hf_to_gguf.py {folder} --outfile {name}.gguf --outtype q8_0\n"


def _transformers(load: str, tokenizer: str, *, peft: bool = False) -> str:
    first = "from peft import PeftModel\n" if peft else ""
    return f"""{first}from transformers import AutoModelForCausalLM, AutoTokenizer

{load}
tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")
messages = [{{"role": "user", "content": "{QUESTION}"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def _over_http(name: str, url: str) -> list[Snippet]:
    here = "Asks this server, which loads the model at the first question."
    curl = f"""curl {url}/api/v1/models/chat \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{name}", "stream": false, "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
"""
    php = f"""<?php
$request = curl_init("{url}/api/v1/models/chat");
curl_setopt_array($request, [
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_HTTPHEADER => ["Content-Type: application/json"],
    CURLOPT_POSTFIELDS => json_encode([
        "model" => "{name}",
        "stream" => false,
        "messages" => [["role" => "user", "content" => "{QUESTION}"]],
    ]),
]);
echo json_decode(curl_exec($request), true)["content"], PHP_EOL;
"""
    python = f"""from tunesmith import Client

with Client("{url}") as client:
    print(client.models.chat("{name}", "{QUESTION}").content)
"""
    return [
        Snippet(key="curl", title="cURL", language="shell", text=curl, note=here),
        Snippet(key="php", title="PHP", language="php", text=php, note=here),
        Snippet(key="python", title="Python", language="python", text=python, note=f"{here} pip install tunesmith"),
    ]
