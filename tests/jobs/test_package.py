"""The download: whole, checkable, the same bytes twice, and made in constant memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.rows import chat_templates
from tests.tiny import make_tokenizer
from tunesmith.core.errors import Conflict, NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec, ModelRef
from tunesmith.core.packing import CHUNK_BYTES
from tunesmith.features.jobs.package import fetching, stream_package

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


def spec(**params: object) -> JobSpec:
    return JobSpec(job_id=1, name="Bot", recipe="lora", params=params, cache_dir="/tmp",
                   model=ModelRef(name="org/base", path="/models/org--base"))  # fmt: skip


def make_model(job: Path, produces: str, *, adapter: bool, template: str = CHATML, size: int = 1000) -> None:
    artifacts = JobDir(job).artifacts
    folder = artifacts / produces
    folder.mkdir(parents=True)
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    save_file({"w": np.arange(size, dtype=np.float32)}, folder / weights)
    (folder / ("adapter_config.json" if adapter else "config.json")).write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (folder / "training_config.yaml").write_text("method: lora\n")
    (folder / ("ü" * 60 + ".txt")).write_text("a long name beyond ASCII")
    (artifacts / "report").mkdir()
    (artifacts / "report" / "report.html").write_text("<h1>Report</h1>")


def unpack(pieces: bytes, to: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(pieces), mode="r:gz") as archive:
        archive.extractall(to, filter="data")
    return to / "bot"


def test_the_archive_is_whole_and_its_sums_are_right(tmp_path: Path) -> None:
    make_model(tmp_path / "a", "lora_model", adapter=True)
    folder = unpack(b"".join(stream_package(JobDir(tmp_path / "a"), spec(), "lora_model", "bot")), tmp_path / "out")
    sums = dict(line.split("  ", 1)[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(sums) == files - {"SHA256SUMS"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert {"Modelfile", "LM_STUDIO.md", "README.md", "report/report.html", "lora_model/training_config.yaml"} <= files
    assert (folder / "lora_model" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "a" / "artifacts" / "lora_model" / "adapter_model.safetensors"
    ).read_bytes()


def test_the_same_bytes_twice_whenever_the_files_were_written(tmp_path: Path) -> None:
    archives = []
    for name in ("one", "two"):
        make_model(tmp_path / name, "lora_model", adapter=True)
        for number, path in enumerate((tmp_path / name).rglob("*")):
            os.utime(path, (number, number) if name == "one" else None)
        archives.append(b"".join(stream_package(JobDir(tmp_path / name), spec(), "lora_model", "bot")))
    assert archives[0] == archives[1]
    assert archives[0][4:8] == b"\0\0\0\0"  # gzip's own time stamp


def made(folder: Path, job: Path, produces: str, template: str, **params: object) -> Path:
    """The unpacked package of a job whose model has a tokenizer with this chat template."""
    if not JobDir(job).artifacts.is_dir():
        make_model(job, produces, adapter=produces == "lora_model")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(JobDir(job).artifacts / produces)
    return unpack(b"".join(stream_package(JobDir(job), spec(**params), produces, "bot")), folder)


def test_an_adapter_names_its_base_and_a_whole_model_itself(tmp_path: Path) -> None:
    adapter = made(tmp_path / "1", tmp_path / "a", "lora_model", chat_templates.CHATML)
    whole = made(tmp_path / "2", tmp_path / "m", "standard_model", chat_templates.LLAMA3, system_prompt='Say """hi"""')
    first, second = (adapter / "Modelfile").read_text(), (whole / "Modelfile").read_text()
    assert "FROM ./base\nADAPTER ./lora_model\n" in first and "hf download org/base --local-dir base" in first
    assert second.startswith("FROM ./standard_model\n") and "ADAPTER" not in second
    assert second.count('"""') == 4 and "SYSTEM" in second
    assert "merge_and_unload" in (adapter / "LM_STUDIO.md").read_text()
    assert "merge_and_unload" not in (whole / "LM_STUDIO.md").read_text()


def test_the_modelfile_has_the_models_own_template_and_end_marks(tmp_path: Path) -> None:
    odd = "{% for m in messages %}{{ '<<' + m.role + '>>' + m.content + '<</>>' }}{% endfor %}{% if add_generation_prompt %}{{ '<<assistant>>' }}{% endif %}"
    told = (made(tmp_path / "1", tmp_path / "a", "lora_model", odd) / "Modelfile").read_text()
    assert '{{ if eq .Role "user" }}<<user>>{{ .Content }}<</>>{{ end }}' in told and told.count("TEMPLATE") == 1
    assert 'PARAMETER stop "<</>>"' in told and "<|im_start|>" not in told and "start_header_id" not in told
    job = tmp_path / "b"
    make_model(job, "lora_model", adapter=True)
    (JobDir(job).artifacts / "lora_model" / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    told = (made(tmp_path / "2", job, "lora_model", chat_templates.MISTRAL) / "Modelfile").read_text()
    assert "# TEMPLATE is missing" in told and "\nTEMPLATE" not in told
    for number in (0, 1):
        assert f"PARAMETER stop {json.dumps(make_tokenizer().convert_ids_to_tokens(number))}" in told


def test_a_package_holds_the_base_that_nobody_else_has(tmp_path: Path) -> None:
    make_model(tmp_path / "a", "lora_model", adapter=True)
    merged = JobDir(tmp_path / "a").artifacts / "base_model"
    merged.mkdir()
    (merged / "config.json").write_text("{}")
    folder = unpack(b"".join(stream_package(JobDir(tmp_path / "a"), spec(), "lora_model", "bot")), tmp_path / "out")
    assert (folder / "base_model" / "config.json").is_file()
    assert "FROM ./base_model\nADAPTER ./lora_model\n" in (folder / "Modelfile").read_text()
    assert 'from_pretrained("base_model")' in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("base", "told"),
    [("org/base", "hf download org/base"), ("job:7", "tunesmith jobs download 7"),
     ("bot@1.2.0", "tunesmith registry export bot@1.2.0"), ("mine", "Copy its folder")],
)  # fmt: skip
def test_every_base_can_be_had(base: str, told: str) -> None:
    assert told in fetching(base)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    make_model(tmp_path / "a", "lora_model", adapter=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a" / "artifacts" / "lora_model" / "link").symlink_to(tmp_path / "secret")
    folder = unpack(b"".join(stream_package(JobDir(tmp_path / "a"), spec(), "lora_model", "bot")), tmp_path / "out")
    assert not (folder / "lora_model" / "link").exists()


def test_memory_stays_constant(tmp_path: Path) -> None:
    make_model(tmp_path / "a", "lora_model", adapter=True, size=16 * 1024 * 1024)  # 64 MiB
    tracemalloc.start()
    total = sum(len(piece) for piece in stream_package(JobDir(tmp_path / "a"), spec(), "lora_model", "bot"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > CHUNK_BYTES and peak < 8 * CHUNK_BYTES


def test_no_model_is_a_conflict_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        stream_package(JobDir(tmp_path), spec(), "lora_model", "bot")


def test_a_link_that_appears_while_the_archive_is_sent_ends_it(tmp_path: Path) -> None:
    """In the place of a file and of a whole folder: nothing of what lies elsewhere is sent."""
    for number, name in enumerate(("lora_model", "lora_model/tokenizer_config.json")):
        job = JobDir(tmp_path / f"job-{number}")
        make_model(job.path, "lora_model", adapter=True)
        archive = stream_package(job, spec(), "lora_model", "bot")
        elsewhere = tmp_path / f"elsewhere-{number}"
        (job.artifacts / name).rename(elsewhere)
        (job.artifacts / name).symlink_to(elsewhere)
        with pytest.raises(NotFound):
            b"".join(archive)
