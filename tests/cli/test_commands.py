"""The commands as people type them, against a real server; what programs read; exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import tunesmith
from tests.conftest import CommandServer, ServerProcess
from tunesmith import Client
from tunesmith.cli.config import read_config
from tunesmith.cli.demo import DATA as DEMO_DATA
from tunesmith.cli.demo import find_data
from tunesmith.core.errors import InvalidInput

ROWS = "".join(json.dumps({"question": f"what is {n}", "answer": f"it is {n}"}) + "\n" for n in range(120))


@pytest.fixture
def files(tmp_path: Path, tiny_model: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    return tmp_path


@pytest.fixture
def run(files: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def command(
        *words: str, url: str = "http://127.0.0.1:9", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return tunesmith(files, *words, timeout_s=timeout_s, TUNESMITH_URL=url)

    return command


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_whole_way_by_commands(start_server: Callable[..., ServerProcess], files: Path, run: Run) -> None:
    server = start_server(files / "home", CommandServer)
    done = run("datasets", "upload", "rows.jsonl", "--json", url=server.url)
    assert done.returncode == 0, done.stderr
    (dataset,) = json.loads(done.stdout)
    assert (dataset["status"], dataset["num_rows"]) == ("ready", 120)
    assert "what is 0" in run("datasets", "preview", "1", url=server.url).stdout
    assert run("datasets", "validate", "rows", url=server.url).returncode == 0
    mapped = json.loads(
        run("datasets", "map", "rows", "question=answer", "answer=question", "--json", url=server.url).stdout
    )
    assert mapped["mapping"] == {"question": "answer", "answer": "question"}
    run("datasets", "map", "1", "question=question", "answer=answer", url=server.url)
    made = run(
        "jobs",
        "create",
        "--model",
        "tests/tiny",
        "--dataset",
        "1",
        "--set",
        "max_steps=4",
        "--set",
        "batch_size=4",
        "--watch",
        url=server.url,
    )
    assert made.returncode == 0, made.stderr
    assert "completed" in made.stdout and "4/4" in made.stderr
    shown = json.loads(run("--json", "jobs", "show", "1", url=server.url).stdout)
    assert shown["progress"]["step"] == 4
    said = json.loads(run("chat", "job:1", "-m", "what is 3", "--max-tokens", "4", "--json", url=server.url).stdout)
    assert said["model"] == "job:1" and said["completion_tokens"] <= 4
    assert (
        run("jobs", "download", "1", "m.tar.gz", url=server.url).returncode == 0
        and (files / "m.tar.gz").stat().st_size > 1000
    )
    assert run("jobs", "pause", "1", url=server.url).returncode == 5
    assert run("jobs", "show", "99", url=server.url).returncode == 4
    with Client(server.url) as client:
        job = client.jobs.get(1)
        steps = [item.event["step"] for item in job.follow() if item.event["type"] == "step"]
        assert steps == [1, 2, 3, 4] and job.wait().status == "completed"
        pieces = list(job.chat("what is 3", stream=True, max_tokens=4, temperature=0.0))
        whole = job.chat("what is 3", max_tokens=4, temperature=0.0)
        assert whole.content and "".join(pieces) == whole.content


def test_the_demo_takes_no_other_data(start_server: Callable[..., ServerProcess], files: Path) -> None:
    with Client(start_server(files / "home").url) as client:
        client.datasets.upload(files / "rows.jsonl", "larkmoor")
        assert find_data(client) is None, "the same name is not enough"
        dataset = client.datasets.upload(DEMO_DATA, "another name")
        found = find_data(client)
        assert found and found.id == dataset.id
        client.datasets.update(dataset.id, mapping={"question": "answer", "answer": "question"})
        client.datasets.wait(dataset.id)
        assert find_data(client) is None, "it was changed"


def test_training_with_no_server(files: Path, run: Run) -> None:
    config = "model: {name: tests/tiny}\ntraining_data: {path: rows.jsonl}\nhyperparameters: {max_steps: 3}\nevaluation: {validation_split: 0.1}\n"
    (files / "job.yaml").write_text(config)
    done = run("train", "--config", "job.yaml", "--output", "out", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in told if event.get("type") == "step"] == [1, 2, 3]
    model = Path(told[-1]["model"])
    assert (model / "adapter_model.safetensors").is_file()
    assert run("train", "--config", "job.yaml", "--output", "out").returncode == 5, (
        "a second run does not write over the first"
    )


@pytest.mark.parametrize(("text", "place", "words"), [
    ("model: {name: a/b}\ntraining_data: {path: rows.jsonl}\nhyperparameters: {learning_rat: 1}\n", "hyperparameters.learning_rat", "did you mean learning_rate"),
    ("model: {name: a/b}\ntraining_data: {path: rows.jsonl}\noptimization: {batch_size: 0}\n", "optimization.batch_size", "at least"),
    ("modle: {name: a/b}\ntraining_data: {path: rows.jsonl}\n", "modle", "did you mean model"),
    ("model: {name: a/b}\ntraining_data: {path: none.jsonl}\n", "training_data.path", "no such file"),
    ("model: {name: a/b}\ntraining_data: {path: rows.jsonl}\nhyperparameters: {epochs: 1}\nevaluation: {epochs: 2}\n", "evaluation.epochs", "hyperparameters.epochs and evaluation.epochs"),
    ("model: {name: a/b}\nmethod: lora\ntraining_data: {path: rows.jsonl}\nmethod: qlora\n", "method", "in lines 2 and 4"),
    ("model: {name: a/b}\ntraining_data: {path: rows.jsonl}\nhyperparameters:\n  epochs: 1\n  epochs: 2\n", "epochs", "in lines 4 and 5"),
    ("!!python/object/apply:os.system ['echo hacked > hacked']", "", "not YAML"),
])  # fmt: skip
def test_a_bad_configuration_names_the_place(files: Path, run: Run, text: str, place: str, words: str) -> None:
    (files / "job.yaml").write_text(text)
    shutil.copytree(files / "home" / "models" / "tests--tiny", files / "a" / "b")
    done = run("train", "--config", "job.yaml", "--local", "--json")
    assert done.returncode == 2, done.stderr
    body = json.loads(done.stderr.splitlines()[-1])
    assert words in json.dumps(body) and (not place or place in [d["loc"] for d in body["details"]])
    assert not (files / "hacked").exists()


def test_a_configuration_may_share_parts_and_hold_dates(files: Path) -> None:
    text = "hyperparameters: &base {epochs: 1, lora_r: 4}\noptimization: {batch_size: 2}\nname: 2026-05-01\nmodel: {name: a/b}\ntraining_data: {path: x}\n"
    (files / "job.yaml").write_text(text)
    config = read_config(files / "job.yaml")
    assert config.name == "2026-05-01" and config.settings() == {"epochs": 1, "lora_r": 4, "batch_size": 2}
    (files / "job.yaml").write_text(
        text.replace("{batch_size: 2}", "{batch_size: 2}\nevaluation: {<<: *base, epochs: 3}")
    )
    with pytest.raises(InvalidInput, match=r"evaluation\.lora_r"):
        read_config(files / "job.yaml")


def test_without_a_server_the_hint_says_how_to_start_one(run: Run) -> None:
    done = run("jobs", "list")
    assert done.returncode == 3 and "tunesmith up" in done.stderr and "Traceback" not in done.stderr
    assert run("doctor").returncode == 0
    assert run("jobs", "create").returncode == 2
    assert run("up", "--host", "0.0.0.0").returncode == 2


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys; sys.argv = ['tunesmith', '--help']\nimport contextlib, io\n"
        "from tunesmith.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
        "heavy = {'torch', 'transformers', 'polars', 'pyarrow', 'sqlalchemy', 'fastapi'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
