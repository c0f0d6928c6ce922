"""The compression job on the real 135M model and on a tiny tuned one: what is made, what it costs, and going on after a kill."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.ground import Ground
from tests.worker.job import Job, wait_until
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_spec import ModelRef
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.compress.result import entries_of

QUIET = {"OMP_NUM_THREADS": "1"}


def report_of(job: Job) -> dict[str, Any]:
    return json.loads((job.dir.artifacts / "compressed" / "report.json").read_bytes())


@pytest.mark.slow
def test_q8_0_and_q4_k_m_of_the_real_model_stay_near_it(tmp_path: Path, starter_model: Path) -> None:
    model = {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "path": str(starter_model)}
    params = {"formats": ["f16", "q8_0", "q4_k_m"], "num_eval_tokens": 700}
    job = Job(tmp_path / "job", recipe="compress", model=model, params=params)
    assert job.start(**QUIET).wait(280) == 0, job.log()
    told = report_of(job)
    found = {entry["format"]: entry for entry in told["formats"]}
    assert list(found) == ["f16", "q8_0", "q4_k_m"] and told["source"]["computed_in"] == "float32"
    assert found["f16"]["perplexity_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert found["f16"]["same_greedy_answer"] and "Paris" in told["source"]["greedy_answer"]
    assert found["q8_0"]["perplexity_ratio"] == pytest.approx(1.0, abs=0.02)
    assert found["q4_k_m"]["perplexity_ratio"] == pytest.approx(1.0, abs=0.10)
    assert found["q4_k_m"]["size_bytes"] < found["q8_0"]["size_bytes"] < told["source"]["size_bytes"]
    assert all(entry["same_tokens"] and entry["tokens_per_s"] > 0 for entry in found.values())
    assert job.exit().metrics["q8_0_perplexity_ratio"] == found["q8_0"]["perplexity_ratio"]
    assert job.events("artifact")[-1].name == "compressed"
    listed = entries_of(job.dir.artifacts)
    assert {Path(entry["path"]).suffix for entry in listed} == {".gguf"} and len(listed) == 3
    assert (job.dir.artifacts / "compressed" / "compression.svg").is_file()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ModelRef:
    """A tiny model with an adapter over it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.3)
    tuned.save_pretrained(str(folder))
    return ModelRef(name="job:7", path=str(tiny_model), adapter_path=str(folder))


def test_a_tuned_model_in_every_kind_of_format(tmp_path: Path, tuned: ModelRef) -> None:
    most = {"merged": 1e-3, "f16": 0.01, "q8_0": 0.02, "torchao_int8": 0.05, "bnb_int8": 0.05, "bnb_int4": 0.3}
    if importlib.util.find_spec("torchao") is None:  # an extra
        del most["torchao_int8"]
    formats = list(most)
    params = {"formats": formats, "num_eval_tokens": 300}
    job = Job(tmp_path / "job", recipe="compress", model=tuned.model_dump(), params=params)
    assert job.start(**QUIET).wait(250) == 0, job.log()
    found = {entry["format"]: entry for entry in report_of(job)["formats"]}
    assert list(found) == formats and not report_of(job)["failed"]
    for name in formats:
        assert found[name]["perplexity_ratio"] == pytest.approx(1.0, abs=most[name]), name
    folder = job.dir.artifacts / "compressed"
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tuned.path, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tuned.adapter_path).merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).state_dict()
    assert all(torch.allclose(theirs[name], ours[name], atol=1e-5) for name in theirs)
    assert "base_model_relation: quantized" in (folder / "q8_0" / "README.md").read_text()


def test_an_adapter_may_stay_beside_its_base_model(tmp_path: Path, tuned: ModelRef, tiny_model: Path) -> None:
    params = {"formats": ["f16"], "merge": False, "num_eval_tokens": 200}
    job = Job(tmp_path / "job", recipe="compress", model=tuned.model_dump(), params=params)
    assert job.start(**QUIET).wait(120) == 0, job.log()
    entry = report_of(job)["formats"][0]
    assert entry["perplexity_ratio"] == pytest.approx(1.0, abs=0.01)
    assert {"adapter.gguf", entry["file"]} <= {p.name for p in (job.dir.artifacts / "compressed" / "f16").iterdir()}


def test_killed_and_started_again_it_keeps_the_formats_that_are_done(tmp_path: Path, tuned: ModelRef) -> None:
    params = {"formats": ["f16", "q8_0", "q4_0"], "num_eval_tokens": 300}
    job = Job(tmp_path / "job", recipe="compress", model=tuned.model_dump(), params=params)
    first = job.dir.artifacts / "compressed" / "f16" / "compression.json"
    process = job.start(**QUIET)
    wait_until(first.is_file, 120)
    process.kill()
    process.wait()
    before = first.stat().st_mtime_ns
    job.launch(2)
    assert job.start(2, **QUIET).wait(120) == 0, job.log()
    assert first.stat().st_mtime_ns == before
    assert [entry["format"] for entry in report_of(job)["formats"]] == ["f16", "q8_0", "q4_0"]
    assert not list((job.dir.artifacts / "compressed").glob(".*"))


def test_the_rows_of_a_dataset_are_used_where_there_is_one(tmp_path: Path, tiny_model: Path) -> None:
    from tests.recipes.ground import train

    run = Ground(tmp_path, tiny_model).run(recipe="compress", formats=["q8_0"], num_eval_tokens=200)
    assert train(run) == "completed"
    told = json.loads((run.dir.artifacts / "compressed" / "report.json").read_bytes())
    assert 150 <= told["source"]["num_tokens"] <= 200


def test_what_cannot_be_made_is_refused_before_the_job_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = get_recipe("compress")
    assert recipe.kind == "compression"
    with pytest.raises(InvalidInput) as error:
        check_params(recipe, {"formats": ["awq"]})
    assert "pip install llmcompressor" in error.value.details[0]["message"]
    with pytest.raises(InvalidInput):
        check_params(recipe, {"formats": []})
