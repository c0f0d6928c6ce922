"""Requests and tokens a second, and latencies, at 1, 8 and 32 streams: Tunesmith's gateway beside llama.cpp's own server and
`transformers serve`, all on the same model.

    python bench/serving.py [--rounds 3] [--requests 24] [--tokens 48] [--streams 1,8,32] [--model FOLDER] [--threads N]
                            [--format q8_0] [--only tunesmith,llama.cpp,fallback,transformers]

Tunesmith runs as a user has it: a real server, `POST /deployments/`, and requests through `/v1/chat/completions` with all it
does on the way (choice of the model, turns, usage written to the database). Plain llama.cpp is the same library's own HTTP
server in a process of its own, over the same GGUF file with the same threads, slots and context; nothing stands before it.
`fallback` is Tunesmith's engine transformers, and `transformers serve` runs with `--continuous-batching`. Contenders take turns within each round; each has its process up all
the time, but only one is asked at a time. Every request is a stream of exactly `--tokens` tokens (`ignore_eos`; transformers,
which does not know it, is counted by the tokens that come). The medians over the rounds and their ratios are printed.

With `--adapter` it measures something else: seconds from a training job's end to the first token of its adapter, by the
playground whose base is up, and by a new deployment beside one of the same base.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from start import MODEL_NAME, server
from tunesmith.features.catalog.starter import ensure_starter_model
from tunesmith.sdk.client import Client

CONTENDERS = ("tunesmith", "llama.cpp", "fallback", "transformers")
PAIRS = (("tunesmith", "llama.cpp"), ("tunesmith", "transformers"), ("fallback", "transformers"))
PROMPTS = (
    "Tell a story about a lighthouse keeper.", "Explain how bread rises.", "Write a letter to a friend in Oslo.",
    "What should one see in Lisbon?", "Describe the life of a bee.", "How does a sailing boat sail against the wind?",
)  # fmt: skip
UP_WITHIN_S = 300
PLAIN = """
import json, sys, threading
import xllamacpp
told = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = told["gguf"], told["port"], told["parallel"]
params.n_ctx = told["context"] * told["parallel"]
params.use_jinja, params.ui, params.verbosity = True, False, 1
for cpu in (params.cpuparams, params.cpuparams_batch):
    cpu.n_threads = told["threads"]
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@dataclass
class Asked:
    """One round of one contender."""

    requests_per_s: float
    tokens_per_s: float
    p50_s: float
    p95_s: float
    first_p50_s: float


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], url: str, log: Path) -> Iterator[None]:
    """A server that answers at `url`; ended with all it started."""
    with log.open("wb") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        deadline_s = time.monotonic() + UP_WITHIN_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5).status_code == 200:
                    break
            if child.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


async def one(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> tuple[float, float, int]:
    """Seconds of a streamed request, seconds to its first token, and its tokens."""
    began_s, first_s, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            sys.exit(f"{url} answered {answer.status_code}: {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and '"content":' in line:
                tokens += 1
                first_s = first_s or time.perf_counter() - began_s
    return time.perf_counter() - began_s, first_s, tokens


async def load(url: str, name: str, streams: int, num_requests: int, num_tokens: int) -> Asked:
    """`num_requests` requests, `streams` of them at a time."""
    gate, limits = asyncio.Semaphore(streams), httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

        async def ask(number: int) -> tuple[float, float, int]:
            body = {
                "model": name, "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}], "stream": True,
                "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
            }  # fmt: skip
            if name not in ("tunesmith", "base"):
                del body["ignore_eos"]
            async with gate:
                return await one(client, url, body)

        began_s = time.perf_counter()
        told = await asyncio.gather(*(ask(number) for number in range(num_requests)))
        whole_s = time.perf_counter() - began_s
    times, firsts = sorted(t for t, _, _ in told), sorted(f for _, f, _ in told)
    return Asked(
        requests_per_s=num_requests / whole_s,
        tokens_per_s=sum(n for _, _, n in told) / whole_s,
        p50_s=statistics.median(times),
        p95_s=times[min(len(times) - 1, int(0.95 * len(times)))],
        first_p50_s=statistics.median(firsts),
    )


def main() -> None:
    options = arguments()
    work = Path(tempfile.mkdtemp(prefix="bench-serving-"))
    model = options.model or ensure_starter_model(Path.home() / ".cache" / "tunesmith-tests")
    shutil.copytree(model, work / "tunesmith" / "models" / MODEL_NAME)
    only, streams = options.only.split(","), [int(n) for n in options.streams.split(",")]
    parallel, urls = max(streams), dict[str, tuple[str, str]]()
    with contextlib.ExitStack() as up:
        client = up.enter_context(server(work))
        settings = {
            "engine": "llama.cpp", "quantization": options.format, "threads": options.threads, "max_concurrent": parallel,
            "context_tokens": options.context,
        }  # fmt: skip
        made = client.deployments.create("tunesmith", MODEL_NAME, settings=settings)
        found = client.deployments.wait(made.id, timeout_s=UP_WITHIN_S)
        urls["tunesmith"] = (found.address.removesuffix("/v1"), "tunesmith")
        [gguf] = (work / "tunesmith" / "cache" / "gguf").glob("*.gguf")
        if options.adapter:
            adapters_in_use(client, work, options.rounds)
            return
        if "fallback" in only:
            settings |= {"engine": "transformers"}
            made = client.deployments.create("fallback", MODEL_NAME, settings=settings)
            found = client.deployments.wait(made.id, timeout_s=UP_WITHIN_S)
            urls["fallback"] = (found.address.removesuffix("/v1"), "fallback")
        if "llama.cpp" in only:
            port = free_port()
            told = {
                "gguf": str(gguf),
                "port": port,
                "parallel": parallel,
                "context": options.context,
                "threads": options.threads,
            }
            up.enter_context(
                process(
                    [sys.executable, "-c", PLAIN, json.dumps(told)],
                    f"http://127.0.0.1:{port}/health",
                    work / "plain.log",
                )
            )
            urls["llama.cpp"] = (f"http://127.0.0.1:{port}", "base")
        if "transformers" in only:
            port = free_port()
            command = [
                str(Path(sys.executable).with_name("transformers")),
                "serve",
                str(model),
                "--continuous-batching",
            ]
            command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
            up.enter_context(process(command, f"http://127.0.0.1:{port}/health", work / "transformers.log"))
            urls["transformers"] = (f"http://127.0.0.1:{port}", str(model))
        for name, (url, asked) in urls.items():
            if name in only:
                asyncio.run(load(url, asked, 2, 4, 8))  # warm
        for number in streams:
            compare(options, {name: urls[name] for name in urls if name in only}, number)
    shutil.rmtree(work, ignore_errors=True)


def adapters_in_use(client: Client, work: Path, rounds: int) -> None:
    """Train, and take the time from the job's last word to the first words of its adapter."""
    rows = work / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(64))
    )
    dataset = client.datasets.upload(rows)
    settings = {"max_steps": 2, "batch_size": 4, "validation_split": 0.0, "max_length": 64}
    asked = {
        "messages": [{"role": "user", "content": "What is 7?"}],
        "max_tokens": 1,
        "temperature": 0,
        "stream": False,
    }
    client.connection.post("/models/chat", {"model": MODEL_NAME, **asked})  # the playground's base is up
    playground, deployed = [], []
    for turn in range(rounds):
        job = client.jobs.create(model=MODEL_NAME, method="lora", dataset_id=dataset.id, hyperparameters=settings)
        job.wait()
        began_s = time.perf_counter()
        client.connection.post(f"/jobs/{job.id}/chat", asked)
        playground.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        made = client.deployments.create(
            f"adapter-{turn}", f"job:{job.id}", settings=client.deployments.get("tunesmith").settings
        )
        address = client.deployments.wait(made.id).address
        answer = httpx.post(f"{address}/chat/completions", json={"model": made.name, **asked}, timeout=60)
        answer.raise_for_status()
        deployed.append(time.perf_counter() - began_s)
    print(f"adapter in use after training, median of {rounds}: playground {statistics.median(playground):.2f} s, "
          f"new deployment {statistics.median(deployed):.2f} s")  # fmt: skip


def compare(options: argparse.Namespace, urls: dict[str, tuple[str, str]], streams: int) -> None:
    """Rounds in which contenders take turns, beginning with another one each time."""
    told: dict[str, list[Asked]] = {name: [] for name in urls}
    names = list(urls)
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            url, asked = urls[name]
            few = name in ("fallback", "transformers")
            requests = max(streams, options.requests // 3) if few else max(streams, options.requests)
            told[name].append(asyncio.run(load(url, asked, streams, requests, options.tokens)))
    print(f"\n{streams} stream(s), median of {options.rounds} rounds")
    print(f"{'':14}{'requests/s':>12}{'tokens/s':>12}{'p50 s':>9}{'p95 s':>9}{'first s':>9}")
    medians = {}
    for name, rounds in told.items():
        row = [statistics.median(getattr(asked, field) for asked in rounds) for field in Asked.__dataclass_fields__]
        medians[name] = row[1]
        print(f"{name:14}{row[0]:12.2f}{row[1]:12.1f}{row[2]:9.2f}{row[3]:9.2f}{row[4]:9.3f}", flush=True)
    for mine, other in PAIRS:
        if mine in medians and other in medians:
            print(f"{mine} / {other}: {medians[mine] / medians[other]:.3f} x tokens/s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--context", type=int, default=256, help="tokens of one request")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--format", default="q8_0")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--only", default=",".join(CONTENDERS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
