"""From submitting a job to its first training step begun: Tunesmith beside `llamafactory-cli train` and a TRL script.

    python bench/start.py [--rounds 5] [--warm 3] [--method lora|qlora|standard] [--model FOLDER] [--only tunesmith,trl]

Tunesmith runs as a user has it: a real server, `POST /jobs/`, the time of the job's own "training" event. Cold is the first
job after the server's start, submitted as soon as it answers; warm are the next ones. A peer starts anew each time, so it
has no warm start of its own; its runs after the first find its files in the machine's cache, and those are its medians.
Contenders take turns. Tokens are at hand for all of them: Tunesmith's cache, LLaMA-Factory's `tokenized_path`, and rows of
token ids for TRL. One optimizer step each; the first step's begin is LLaMA-Factory's line "Running training", and TRL's
`on_step_begin`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from peers.configs import ROWS_A_STEP, Work, chosen, llamafactory_config, trl_request, tunesmith_settings
from peers.environments import environment_python
from peers.processes import RunFailed, end_by_exception, end_tree, plain_environment, run_measured
from peers.rows import write_raw_rows
from sft import PEERS, peer_timeline, prepare, seconds_of
from tunesmith.features.catalog.starter import ensure_starter_model
from tunesmith.recipes.plans import read_machine
from tunesmith.sdk.client import Client

CONTENDERS = ("tunesmith", "trl", "llamafactory")
MODEL_NAME = "bench-model"
NUM_STEPS_OF_ROWS = 8
"""Rows of a data set as small as a first try has: the start must not hang on its size."""
RUNNING = "Running training"
SERVER_TIMEOUT_S = 60


# -- Tunesmith ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(home: Path) -> Iterator[Client]:
    """A server of its own process on a free port, over `home`; ends the program when it does not start."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    environment = {**plain_environment(home), "TUNESMITH_HUB_OFFLINE": "true"}
    with (home / "server.log").open("ab") as log:
        command = [sys.executable, "-m", "tunesmith", "up", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)
    try:
        client = Client(f"http://127.0.0.1:{port}")
        deadline_s = time.monotonic() + SERVER_TIMEOUT_S
        while not _answers(client):
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"The server did not start:\n{(home / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)
        yield client
        client.close()
    finally:
        process.terminate()
        process.wait()


def _answers(client: Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.connection.http.get("/system/health").is_success
    return False


def submit(client: Client, dataset_id: int, work: Work) -> float:
    """Seconds from `POST /jobs/` to the job's first step begun; returns when the job has ended."""
    settings = {**tunesmith_settings(work.method), "max_steps": 1, "bf16": work.bf16}
    began_at = time.time()
    job = client.jobs.create(model=MODEL_NAME, method=work.method, dataset_id=dataset_id, hyperparameters=settings)
    job.wait()
    events = (told.event for told in job.events())
    training = next(event for event in events if event["type"] == "phase" and event["phase"] == "training")
    return seconds_of(training["at"]) - began_at


def bring_model(model: Path, home: Path) -> None:
    """Put `model` among the home's models, by hard links where the file system lets us."""
    target = plain_environment(home)["TUNESMITH_HOME"]

    def link_or_copy(source: str, destination: str) -> None:
        try:
            os.link(Path(source).resolve(), destination)
        except OSError:
            shutil.copy2(source, destination)

    shutil.copytree(model, Path(target) / "models" / MODEL_NAME, copy_function=link_or_copy)


# -- the peers ----------------------------------------------------------------------------------------------------------


def start_trl(python: Path, work: Work, folder: Path) -> float:
    """Seconds from the command to the first step begun. Raises `RunFailed`."""
    marks, request = folder / "marks.jsonl", folder / "request.json"
    request.write_text(json.dumps(trl_request(work, folder / "out", marks, None)))
    measured = run_measured([str(python), str(PEERS / "trl_sft.py"), str(request)], folder, plain_environment(folder))
    return peer_timeline(marks)[1].first_step_begun_at - measured.began_at


def start_llamafactory(python: Path, work: Work, folder: Path) -> float:
    """Seconds from `llamafactory-cli train` to its line "Running training". Raises `RunFailed`."""
    config = folder / "config.yaml"
    config.write_text(json.dumps(llamafactory_config(work, folder / "out", None)))  # JSON is YAML
    command = [str(python.with_name("llamafactory-cli")), "train", str(config)]
    environment = plain_environment(folder)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    began_s, running_s, lines = time.perf_counter(), 0.0, []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                if RUNNING in line and not running_s:
                    running_s = time.perf_counter() - began_s
        except BaseException:
            end_tree(process)
            raise
    if process.returncode or not running_s:
        raise RunFailed("".join(lines)[-2000:])
    return running_s


# -- the bench ----------------------------------------------------------------------------------------------------------


class Bench:
    """Starts of each contender by turns; `place` holds all that they write."""

    def __init__(self, work: Work, place: Path, pythons: dict[str, Path], num_warm: int) -> None:
        self.work, self.place, self.pythons, self.num_warm = work, place, pythons, num_warm
        self.home = place / "home"
        self.home.mkdir()
        self.found: dict[str, list[float]] = {}

    def cache_tokens(self) -> int:
        """One job before all that count, which leaves its tokens. Returns the dataset's number."""
        bring_model(self.work.model, self.home)
        with server(self.home) as client:
            dataset_id = client.datasets.upload(self.work.raw_rows).id
            submit(client, dataset_id, self.work)
        return dataset_id

    def tunesmith(self, dataset_id: int) -> None:
        with server(self.home) as client:
            for number in range(1 + self.num_warm):
                seconds = submit(client, dataset_id, self.work)
                self._keep("tunesmith, warm" if number else "tunesmith, cold", seconds)

    def peer(self, name: str) -> None:
        start = start_trl if name == "trl" else start_llamafactory
        title = "TRL script" if name == "trl" else "llamafactory-cli train"
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            seconds = start(self.pythons[name], self.work, Path(folder))
        self._keep(title if f"{title}, first" in self.found else f"{title}, first", seconds)

    def _keep(self, title: str, seconds: float) -> None:
        self.found.setdefault(title, []).append(seconds)
        print(f"  {title}: {seconds:.2f} s", flush=True)


def show(found: dict[str, list[float]]) -> None:
    print("\nfrom submitting to the first step begun, seconds")
    ours = {title.rpartition(" ")[2]: statistics.median(found[title]) for title in found if "tunesmith" in title}
    for title, seconds in found.items():
        median = statistics.median(seconds)
        beside = ", ".join(f"{median / own:.1f} x Tunesmith {kind}" for kind, own in ours.items())
        spread = f"median {median:6.2f}  ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} runs)"
        print(f"{title:30} {spread}  {'' if 'tunesmith' in title else beside}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=3, help="warm jobs after each cold one")
    parser.add_argument("--method", choices=("lora", "qlora", "standard"), default="lora")
    parser.add_argument("--model", type=Path, help="folder; the starter model (SmolLM2-135M-Instruct) when absent")
    parser.add_argument("--rows", type=Path, help="JSON lines with question and answer; made up when absent")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "tunesmith-bench")
    parser.add_argument("--json", type=Path, help="write every start's seconds here")
    options = parser.parse_args()
    options.only = chosen(options.only, CONTENDERS, parser)
    return options


def main() -> None:
    options = parse()
    end_by_exception()
    pythons = {name: environment_python(name, options.envs) for name in options.only if name != "tunesmith"}
    model = (options.model or ensure_starter_model(options.envs / "models", print)).resolve()
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as name:
        place = Path(name)
        work = Work(
            model=model, rows=place / "tokens.jsonl", llamafactory_rows=place / "tokenised", raw_rows=place / "rows.jsonl",
            steps=1, method=options.method, bf16=machine.fast_bf16, cuda=machine.device == "cuda",
        )  # fmt: skip
        what = write_raw_rows(options.rows, NUM_STEPS_OF_ROWS * ROWS_A_STEP, work.raw_rows)
        print(
            f"{options.method} on {model.name}, {machine.device}, {'bf16' if work.bf16 else 'fp32'} for every contender, "
            f"{os.cpu_count()} cores; {NUM_STEPS_OF_ROWS * ROWS_A_STEP} {what}"
        )
        bench = Bench(work, place, pythons, options.warm)
        try:
            if pythons:
                prepare(work, place, pythons)
            dataset_id = bench.cache_tokens() if "tunesmith" in options.only else 0
            for number in range(options.rounds):
                print(f"round {number + 1}", flush=True)
                for contender in options.only:
                    bench.tunesmith(dataset_id) if contender == "tunesmith" else bench.peer(contender)
        except RunFailed as error:
            sys.exit(f"A contender did not run:\n{error}")
    show(bench.found)
    if options.json:
        options.json.write_text(json.dumps(bench.found, indent=1))


if __name__ == "__main__":
    main()
