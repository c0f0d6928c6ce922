"""The recipe itself, in this process: answers, resuming, a judge over a real socket, benchmarks, and the real 135M model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes.ground import PAIRS, Ground, events, params_of, train
from tunesmith.core.errors import JobFailure
from tunesmith.core.job_spec import Control
from tunesmith.executors.local import credentials
from tunesmith.recipes.blocks.generation import generate
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.split import split_rows
from tunesmith.recipes.evaluate.answering import Watch
from tunesmith.recipes.evaluate.rows import load_material

SHORT = {"max_new_tokens": 6, "latency_prompts": 0}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def ground(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)


def told(run: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`(scores.json, samples)`"""
    folder = run.dir.artifacts / "evaluation"
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return json.loads((folder / "scores.json").read_text()), samples


def test_answers_in_batches_are_those_given_alone(ground: Ground) -> None:
    run = ground.run(recipe="evaluate", **SHORT)
    tokenizer = load_tokenizer(run.spec.model.path, offline=True)
    model = load_causal_lm(run.spec.model, dtype=torch.float32, device=torch.device("cpu"), offline=True).eval()
    material = load_material(run, run.spec.dataset, params_of(run), tokenizer)
    prompts = [question.prompt_ids for question in material.questions[:6]]
    assert len({len(prompt) for prompt in prompts}) > 1
    together = generate(model, tokenizer, prompts, 8, Watch(run))
    assert together == [generate(model, tokenizer, [prompt], 8, Watch(run))[0] for prompt in prompts]
    question = material.questions[0]
    assert question.expected == PAIRS[question.row]["answer"] and PAIRS[question.row]["question"] in question.prompt


def test_the_rows_are_those_that_training_held_out(ground: Ground) -> None:
    held_out = {"job_id": 1, "share": 0.25, "seed": 7, "max_length": 128}
    run = ground.run(recipe="evaluate", held_out=held_out, max_prompts=5, **SHORT)
    assert train(run) == "completed"
    scores, samples = told(run)
    assert [sample["row"] for sample in samples] == split_rows(48, 0.25, 7)[1].tolist()
    assert scores["dataset"]["held_out_by"] == 1 and scores["dataset"]["num_rows"] == 12
    answered = [sample for sample in samples if "answer" in sample]
    assert len(answered) == 5 == scores["scores"]["exact_match"]["num_samples"]
    assert scores["scores"]["perplexity"]["num_samples"] == 12
    steps = [(event.done, event.total) for event in events(run, "progress") if event.unit == "steps"]
    assert steps == sorted(steps) and steps[-1] == (17, 17)


def test_the_rows_are_those_that_the_data_itself_holds_out(ground: Ground) -> None:
    rows = [{**row, "split": "validation" if number % 6 == 0 else "train"} for number, row in enumerate(PAIRS)]
    held_out = {"job_id": 1, "share": 0.1, "seed": 7, "max_length": 128, "split_by": "file"}
    run = ground.run(rows, recipe="evaluate", held_out=held_out, **SHORT)
    assert run.spec.dataset is not None
    data = run.spec.dataset.model_copy(update={"split_column": "split", "num_held_out": 8})
    tokenizer = load_tokenizer(run.spec.model.path, offline=True)
    material = load_material(run, data, params_of(run), tokenizer)
    assert sorted(question.row for question in material.questions) == list(range(0, 48, 6))


def test_a_run_that_was_paused_goes_on_where_it_was(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ground.run(recipe="evaluate", **SHORT, batch_size=4, max_prompts=20)
    assert train(whole) == "completed"
    first = ground.run(recipe="evaluate", **SHORT, batch_size=4, max_prompts=20)
    journal = first.dir.path / "evaluation" / "answers.jsonl"
    monkeypatch.setattr(first, "control", lambda: Control(pause=journal.exists() and bool(journal.read_text())))
    assert train(first) == "paused"
    done = journal.read_text().splitlines()
    assert 0 < len(done) < 20
    with journal.open("a") as file:
        file.write('{"row": 3, "ans')  # what a kill leaves
    again = ground.again(first)
    assert train(again) == "completed" and not journal.exists()
    texts = [[(s["row"], s.get("answer")) for s in told(run)[1]] for run in (whole, again)]
    assert texts[0] == texts[1]
    assert told(whole)[0]["scores"]["rouge1"] == told(again)[0]["scores"]["rouge1"]
    stopped = ground.run(recipe="evaluate", **SHORT)
    monkeypatch.setattr(stopped, "control", lambda: Control(stop=True))
    assert train(stopped) == "cancelled" and not (stopped.dir.artifacts / "evaluation").exists()


def test_plain_texts_are_measured_by_their_likelihood(ground: Ground) -> None:
    rows = [{"text": f"the question and the answer {n}"} for n in range(12)]
    run = ground.run(rows, recipe="evaluate", shape="text", mapping={"text": "text"})
    assert train(run) == "completed"
    scores, _ = told(run)
    assert set(scores["scores"]) == {"perplexity", "token_accuracy"} and "plain text" in scores["reason"]


# -- a judge ----------------------------------------------------------------------------------------------------------


class Endpoint(BaseHTTPRequestHandler):
    """Likes answers of an even row; fails at first, and never gets to a number for some."""

    asked: list[dict[str, Any]] = []
    keys: set[str | None] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Endpoint.asked.append(body)
        Endpoint.keys.add(self.headers.get("authorization"))
        text = body["messages"][0]["content"]
        first = sum(one["messages"] == body["messages"] for one in Endpoint.asked) == 1
        word = "I cannot say." if "what is 3 " in text else "Fine.\nScore: 4"
        answer = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
        self.send_response(500 if first and "what is 5 " in text else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_about: Any) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_judge_is_asked_again_and_its_failures_are_counted(
    ground: Ground, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.recipes.evaluate.judge.PAUSE_S", 0.01)
    monkeypatch.setenv("TUNESMITH_JUDGE_API_KEY", "sk-secret")
    judge = {"base_url": endpoint, "model": "judge-1"}
    run = ground.run(PAIRS[:8], recipe="evaluate", judge=judge, **SHORT)
    assert train(run) == "completed"
    scores, samples = told(run)
    assert scores["judge"] == {"model": "judge-1", "criteria": scores["judge"]["criteria"], "failed": 1}
    assert scores["scores"]["judge"]["value"] == 4 and scores["scores"]["judge"]["num_samples"] == 7
    assert sum("judge" in sample for sample in samples) == 7
    assert any("1 of 8" in notice.message for notice in events(run, "notice"))
    assert "judge-1" in {body["model"] for body in Endpoint.asked} and Endpoint.keys == {"Bearer sk-secret"}
    assert "sk-secret" not in run.dir.spec.read_text() + json.dumps([scores, samples])
    # The key goes to the workers of its own endpoint only, wherever else a user wants to send it.
    assert "TUNESMITH_JUDGE_API_KEY" not in credentials(run.spec)
    monkeypatch.setenv("TUNESMITH_JUDGE_URL", endpoint)
    assert "TUNESMITH_JUDGE_API_KEY" in credentials(run.spec)
    inside = ground.run(PAIRS[:2], recipe="evaluate", judge={**judge, "public_only": True}, **SHORT)
    with pytest.raises(Exception, match="is not on the internet"):
        train(inside)
    gone = ground.run(PAIRS[:2], recipe="evaluate", judge={"base_url": "http://127.0.0.1:9/v1"}, **SHORT)
    with pytest.raises(JobFailure, match="could not be asked"):
        train(gone)


# -- benchmarks and the real model ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_benchmarks_without_data_are_named_and_hold_up_nothing(ground: Ground) -> None:
    pytest.importorskip("lm_eval")
    run = ground.run(PAIRS[:6], recipe="evaluate", benchmarks=["arc_easy", "no-such-task"], metrics=["perplexity"])
    assert train(run) == "completed"
    scores, _ = told(run)
    why = {each["task"]: each["why"] for each in scores["skipped"]}
    assert set(why) == {"arc_easy", "no-such-task"} and "no task of this name" in why["no-such-task"]
    assert "the dataset allenai/ai2_arc, is not in the cache" in why["arc_easy"] and "perplexity" in scores["scores"]
    assert sum("was skipped" in notice.message for notice in events(run, "notice")) == 2


def test_benchmarks_alone_that_cannot_run_fail_and_say_what_is_missing(ground: Ground) -> None:
    pytest.importorskip("lm_eval")
    run = ground.run(recipe="evaluate", benchmarks=["arc_easy"])
    run.spec = run.spec.model_copy(update={"dataset": None})
    with pytest.raises(JobFailure, match=r"arc_easy: its data, the dataset allenai/ai2_arc, is not in the cache"):
        train(run)
    assert not (run.dir.artifacts / "evaluation").exists()


@pytest.mark.slow
def test_a_benchmark_runs_to_its_end_on_data_that_was_brought_along(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gsm8k of lm-eval itself, offline, with its data where the hub's library keeps it."""
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    cache_gsm8k(tmp_path / "datasets", 8)
    run = ground.run(PAIRS[:6], recipe="evaluate", benchmarks=["gsm8k"], benchmark_limit=4, metrics=["perplexity"])
    assert train(run) == "completed"
    found = told(run)[0]
    strict = found["scores"]["gsm8k/exact_match (strict-match)"]
    assert not found["skipped"] and strict["num_samples"] == 4 and strict["unit"] == "share"
    assert strict["low"] <= strict["value"] < strict["high"] <= 1  # none of four right is not surely none at all
    steps = [event for event in events(run, "progress") if event.unit == "steps"]
    assert steps[-1].done == steps[-1].total == 6 + 4


def cache_gsm8k(cache: Path, count: int) -> None:
    """Rows of that data set, as `load_dataset` leaves them after it was online."""
    import datasets

    rows = [{"question": f"What is {n} and {n}?", "answer": f"Twice {n}.\n#### {2 * n}"} for n in range(count)]
    folder = cache / "openai___gsm8k" / "main" / "0.0.0" / ("e" * 40)
    folder.mkdir(parents=True)
    splits = {}
    for split in ("train", "test"):
        with datasets.arrow_writer.ArrowWriter(path=str(folder / f"gsm8k-{split}.arrow")) as writer:
            for row in rows:
                writer.write(row)
            num_examples, num_bytes = writer.finalize()
        splits[split] = {"name": split, "num_examples": num_examples, "num_bytes": num_bytes, "dataset_name": "gsm8k"}
    text = {"dtype": "string", "_type": "Value"}
    about = {
        "builder_name": "parquet", "dataset_name": "gsm8k", "config_name": "main", "splits": splits,
        "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0},
        "features": {"question": text, "answer": text},
    }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(about))


@pytest.mark.slow
def test_the_real_model_is_measured_as_it_is(tmp_path: Path, starter_model: Path) -> None:
    capitals = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Germany", "Berlin")]
    rows = [{"question": f"What is the capital of {a}? Answer with one word.", "answer": b} for a, b in capitals * 2]
    run = Ground(tmp_path, starter_model).run(rows, recipe="evaluate", latency_prompts=2, metrics=[
        "perplexity", "classification", "latency",
    ])  # fmt: skip
    assert train(run) == "completed"
    scores, samples = told(run)
    found = scores["scores"]
    assert found["accuracy"]["value"] >= 0.5 and found["macro_f1"]["num_samples"] == 8
    assert 1 < found["perplexity"]["value"] < 200 and found["tokens_per_s"]["value"] > 0
    assert 0 < found["time_to_first_token_p50_s"]["value"] <= found["time_to_first_token_p95_s"]["value"] < 60
    expected = plain_loss(starter_model, samples[0])
    assert samples[0]["stats"]["likelihood"][0] == pytest.approx(expected, rel=0.05, abs=0.1)


def plain_loss(folder: Path, sample: dict[str, Any]) -> float:
    """Of one answer, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = sample["prompt"].partition("user\n")[2].removesuffix("assistant").strip()
    asked = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        [*asked, {"role": "assistant", "content": sample["expected"]}], tokenize=False
    )
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(whole.rstrip())["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0].float().log_softmax(-1)
    return float(-np.sum([logits[i - 1, ids[0, i]] for i in range(start, ids.shape[1])]))


def test_rows_that_a_job_drew_from_all_rows_are_found_again(ground: Ground) -> None:
    """Two rows are too long to be learned: they count where the rows are drawn."""
    rows = [
        {**row, "answer": row["answer"] + " question" * (300 if number in (3, 9) else 0)}
        for number, row in enumerate(PAIRS)
    ]
    held_out = {"job_id": 1, "share": 0.25, "seed": 7, "max_length": 128, "split_by": "rows"}
    run = ground.run(rows, recipe="evaluate", held_out=held_out, **SHORT)
    assert run.spec.dataset is not None
    tokenizer = load_tokenizer(run.spec.model.path, offline=True)
    material = load_material(run, run.spec.dataset, params_of(run), tokenizer)
    assert {question.row for question in material.questions} <= set(split_rows(48, 0.25, 7)[1].tolist())
