"""Supervised fine-tuning speed: Tunesmith beside TRL and LLaMA-Factory, each at its defaults and best tuned.

    python bench/sft.py [--steps 16] [--rounds 3] [--method lora|qlora|standard] [--rows FILE] [--only tunesmith,trl]

One run; contenders by turns, each in a process of its own, the order turned by one every round. All train on the same rows
in the same order, on the same tokens with the same ones supervised (Tunesmith's, handed to the peers; a run that trained
on others is refused), eight rows a step, the same adapter, optimizer and rate. Tokens are counted once, by us, padding
never. Peers are installed into environments of their own under --envs.

Prints medians over the rounds: tokens a second in the steady state (the first --warm-up steps left out) and over the whole
run (start of the process to its end: imports, loading, training, saving), supervised tokens a second, peak memory of the process tree,
seconds from the command to the first step begun and done, and the first and last loss, which show that all do the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from peers.configs import ROWS_A_STEP, Layout, Work, chosen, llamafactory_config, trl_request, tunesmith_config
from peers.environments import PINS, environment_python
from peers.processes import Measured, RunFailed, end_by_exception, plain_environment, run_measured
from peers.rows import TokenisedRows, read_tokens, sorted_in_steps, write_raw_rows, write_tokens
from tunesmith.features.catalog.starter import ensure_starter_model
from tunesmith.recipes.plans import read_machine

CONTENDERS = ("tunesmith", "trl", "trl tuned", "llamafactory", "llamafactory tuned")
LAYOUTS = {"trl": "8x1,4x2,2x4,1x8,8x1+flat,4x2+flat", "llamafactory": "8x1,4x2,2x4,1x8"}
"""What is tried to find a peer's best; `+compile` may be added by --layouts."""
PEERS = Path(__file__).resolve().parent / "peers"
MIB = 1024**2


@dataclass(frozen=True)
class Timeline:
    """What a run told of itself; times are seconds since 1970."""

    first_step_begun_at: float
    step_ended_at: list[float]
    losses: list[float]


@dataclass(frozen=True)
class Result:
    """One run of one contender."""

    tokens_per_s: float
    """Steady state."""
    supervised_per_s: float
    whole_run_tokens_per_s: float
    peak_bytes: int
    first_step_begun_s: float
    first_step_done_s: float
    wall_s: float
    first_loss: float
    last_loss: float


class Bench:
    """Runs contenders on one piece of work; `place` holds all that they write."""

    def __init__(self, work: Work, rows: TokenisedRows, place: Path, pythons: dict[str, Path], warm_up: int) -> None:
        self.work, self.rows, self.place, self.pythons, self.warm_up = work, rows, place, pythons, warm_up
        self.environment = plain_environment(place)
        self._count = 0

    def run(self, contender: str, layout: Layout | None, steps: int | None = None) -> Result:
        """One run. Raises `RunFailed`."""
        self._count += 1
        folder = self.place / f"run{self._count}"
        folder.mkdir()
        work = replace(self.work, steps=steps or self.work.steps)
        if contender == "tunesmith":
            measured, timeline = self._tunesmith(work, folder)
        else:
            measured, timeline = self._peer(contender.split()[0], work, folder, layout)
        shutil.rmtree(folder)
        return self._result(measured, timeline)

    def _tunesmith(self, work: Work, folder: Path) -> tuple[Measured, Timeline]:
        out = folder / "out"
        measured = run_measured(tunesmith_command(work, folder, out), folder, self.environment)
        return measured, self._checked_order(tunesmith_timeline(out / "events.jsonl"))

    def _checked_order(self, told: tuple[Timeline, list[int]]) -> Timeline:
        timeline, tokens_seen = told
        expected = [sum(self.rows.tokens_of_steps()[: step + 1]) for step in range(len(tokens_seen))]
        if tokens_seen != expected:
            sys.exit(
                "Tunesmith took its rows in another order than this bench gives to the others: "
                "bring row_order in bench/peers/rows.py in line with recipes/blocks/row_order.py."
            )
        return timeline

    def _peer(self, peer: str, work: Work, folder: Path, layout: Layout | None) -> tuple[Measured, Timeline]:
        marks, out = folder / "marks.jsonl", folder / "out"
        config = folder / "config.json"
        if peer == "trl":
            config.write_text(json.dumps(trl_request(work, out, marks, layout)))
            command = [str(self.pythons[peer]), str(PEERS / "trl_sft.py"), str(config)]
        else:
            config.write_text(json.dumps(llamafactory_config(work, out, layout)))
            command = [str(self.pythons[peer]), str(PEERS / "llamafactory_sft.py"), str(config), str(marks)]
        measured = run_measured(command, folder, self.environment)
        begun, timeline = peer_timeline(marks)
        expected = (sum(self.rows.tokens_of_steps()), sum(self.rows.supervised_of_steps()))
        if begun != expected:
            raise RunFailed(f"it trained on {begun} (tokens, supervised tokens) and not on {expected}")
        return measured, timeline

    def _result(self, measured: Measured, timeline: Timeline) -> Result:
        """Rates by our count. Without enough steps for a warm-up the first step's end is where the steady state begins."""
        ends = timeline.step_ended_at
        tokens, supervised = (
            counts[: len(ends)] for counts in (self.rows.tokens_of_steps(), self.rows.supervised_of_steps())
        )
        left_out = min(self.warm_up, len(ends) - 1)
        seconds = ends[-1] - ends[left_out - 1]
        return Result(
            tokens_per_s=sum(tokens[left_out:]) / seconds,
            supervised_per_s=sum(supervised[left_out:]) / seconds,
            whole_run_tokens_per_s=sum(tokens) / measured.wall_s,
            peak_bytes=measured.peak_bytes,
            first_step_begun_s=timeline.first_step_begun_at - measured.began_at,
            first_step_done_s=ends[0] - measured.began_at,
            wall_s=measured.wall_s,
            first_loss=timeline.losses[0],
            last_loss=timeline.losses[-1],
        )


def tunesmith_command(work: Work, folder: Path, out: Path) -> list[str]:
    config = folder / "job.yaml"
    config.write_text(json.dumps(tunesmith_config(work)))  # JSON is YAML
    return [sys.executable, "-m", "tunesmith", "train", "--local", "--config", str(config), "--output", str(out)]


def tunesmith_timeline(events: Path) -> tuple[Timeline, list[int]]:
    """And the tokens seen up to the end of each step."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    steps = [line for line in lines if line["type"] == "step"]
    begun = next(line for line in lines if line["type"] == "phase" and line["phase"] == "training")
    ended = [seconds_of(step["at"]) for step in steps]
    return Timeline(seconds_of(begun["at"]), ended, [step["loss"] for step in steps]), [
        step["tokens_seen"] for step in steps
    ]


def peer_timeline(marks: Path) -> tuple[tuple[int, int], Timeline]:
    """And `(tokens, supervised tokens)` of the rows that it trained on."""
    lines = [json.loads(line) for line in marks.read_text().splitlines()]
    by_event: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_event.setdefault(line["event"], []).append(line)
    (begun,) = by_event["train_begin"]
    ended = [line["at"] for line in by_event["step_end"]]
    losses = [line["loss"] for line in by_event["loss"]]
    return (begun["tokens"], begun["supervised"]), Timeline(by_event["step_begin"][0]["at"], ended, losses)


def seconds_of(at: str) -> float:
    """An event's time as seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()


# -- getting ready ------------------------------------------------------------------------------------------------------


def prepare(work: Work, place: Path, pythons: dict[str, Path]) -> TokenisedRows:
    """Train one step with Tunesmith in a home of its own, which leaves its tokens, and write them down for the peers.
    Raises `RunFailed`."""
    folder = place / "prepare"
    folder.mkdir()
    environment = plain_environment(folder)
    run_measured(tunesmith_command(replace(work, steps=1), folder, folder / "out"), folder, environment)
    rows = sorted_in_steps(read_tokens(Path(environment["TUNESMITH_HOME"]), folder / "out"))
    write_tokens(rows, work.rows)
    if python := pythons.get("llamafactory"):
        command = [str(python), str(PEERS / "llamafactory_rows.py"), str(work.rows), str(work.llamafactory_rows)]
        run_measured(command, folder, environment)
    return rows


def tune(bench: Bench, peer: str, layouts: list[Layout], steps: int) -> Layout:
    """The fastest of `layouts` over a few steps."""
    found: dict[Layout, float] = {}
    for layout in layouts:
        try:
            result = bench.run(f"{peer} tuned", layout, steps)
        except RunFailed as error:
            print(f"  {peer} {layout}: did not run: {str(error).strip().splitlines()[-1][:200]}", flush=True)
            continue
        found[layout] = result.tokens_per_s
        print(f"  {peer} {layout}: {result.tokens_per_s:.0f} tokens/s, {result.peak_bytes / MIB:.0f} MiB", flush=True)
    if not found:
        sys.exit(f"No layout of {peer} ran; name others with --layouts.")
    return max(found, key=lambda layout: found[layout])


# -- what is printed ----------------------------------------------------------------------------------------------------


def median(results: list[Result], name: str) -> float:
    return statistics.median(float(getattr(result, name)) for result in results)


def show(found: dict[str, list[Result]], titles: dict[str, str]) -> None:
    width = max(len(title) for title in titles.values())
    head = "tokens/s  (least-most)   supervised/s  whole run/s  peak MiB  first step begun / done  loss first → last"
    print(f"\n{'medians':{width}}  {head}")
    for name, results in found.items():
        if not results:
            continue
        rates = [result.tokens_per_s for result in results]
        print(
            f"{titles[name]:{width}}  {median(results, 'tokens_per_s'):8.1f}  ({min(rates):.0f}-{max(rates):.0f})".ljust(
                width + 27
            )
            + f"{median(results, 'supervised_per_s'):10.1f}  {median(results, 'whole_run_tokens_per_s'):11.1f}"
            f"  {median(results, 'peak_bytes') / MIB:8.0f}  {median(results, 'first_step_begun_s'):7.1f} s / "
            f"{median(results, 'first_step_done_s'):5.1f} s       {median(results, 'first_loss'):.4f} → {median(results, 'last_loss'):.4f}"
        )
    ours = found.get("tunesmith")
    if not ours:
        return
    print("\nTunesmith beside each: times the speed (steady, whole run), share of the memory")
    for name, results in found.items():
        if results and name != "tunesmith":
            steady, whole, memory = (
                median(ours, n) / median(results, n) for n in ("tokens_per_s", "whole_run_tokens_per_s", "peak_bytes")
            )
            print(f"{titles[name]:{width}}  {steady:5.2f} x  {whole:5.2f} x  {memory:4.0%}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps a run; at least 2")
    parser.add_argument("--warm-up", type=int, default=4, help="steps left out of the steady state; at least 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", choices=("lora", "qlora", "standard"), default="lora")
    parser.add_argument("--model", type=Path, help="folder; the starter model (SmolLM2-135M-Instruct) when absent")
    parser.add_argument(
        "--rows", type=Path, help="JSON lines with question and answer, such as GSM8K's; made up when absent"
    )
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument(
        "--layouts",
        action="append",
        default=[],
        metavar="PEER=4x2,1x8+compile",
        help="what a tuned peer may choose from; one alone is taken untried",
    )
    parser.add_argument("--tune-steps", type=int, default=6, help="steps a layout is tried for")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "tunesmith-bench")
    parser.add_argument("--json", type=Path, help="write every run's figures here")
    options = parser.parse_args()
    options.only = chosen(options.only, CONTENDERS, parser)
    if options.steps < 2 or options.tune_steps < 2 or options.warm_up < 1:
        parser.error("--steps and --tune-steps are at least 2, --warm-up at least 1")
    try:
        named = dict(text.split("=", 1) for text in options.layouts)
        options.layouts = {
            peer: [Layout.parse(t) for t in named.get(peer, LAYOUTS[peer]).split(",")] for peer in LAYOUTS
        }
    except ValueError as error:
        parser.error(f"--layouts: {error}")
    if set(named) - set(LAYOUTS):
        parser.error(f"--layouts knows {', '.join(LAYOUTS)}")
    return options


def main() -> None:
    options = parse()
    end_by_exception()
    peers = sorted({name.split()[0] for name in options.only} - {"tunesmith"})
    pythons = {peer: environment_python(peer, options.envs) for peer in peers}
    model = (options.model or ensure_starter_model(options.envs / "models", print)).resolve()
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as name:
        place = Path(name)
        work = Work(
            model=model, rows=place / "tokens.jsonl", llamafactory_rows=place / "tokenised", raw_rows=place / "rows.jsonl",
            steps=options.steps, method=options.method, bf16=machine.fast_bf16, cuda=machine.device == "cuda",
        )  # fmt: skip
        what = write_raw_rows(options.rows, options.steps * ROWS_A_STEP, work.raw_rows)
        try:
            rows = prepare(work, place, pythons)
        except RunFailed as error:
            sys.exit(f"The rows could not be made ready:\n{error}")
        tokens = sum(rows.tokens_of_steps())
        print(
            f"{options.method} on {model.name}, {machine.device}, {'bf16' if work.bf16 else 'fp32'} for every contender, "
            f"{os.cpu_count()} cores\n{len(rows.ids)} {what}, {ROWS_A_STEP} a step, {options.steps} steps: {tokens:,} tokens, "
            f"{sum(rows.supervised_of_steps()):,} supervised; padded eight by eight they would be {rows.padded_tokens():,}",
            flush=True,
        )
        bench = Bench(work, rows, place, pythons, options.warm_up)
        found, titles = compare(bench, options)
    show(found, titles)
    if options.json:
        told = {"method": options.method, "model": model.name, "steps": options.steps, "bf16": work.bf16, "peers": PINS}
        runs = {titles[name]: [asdict(result) for result in results] for name, results in found.items()}
        options.json.write_text(json.dumps({**told, "tokens": tokens, "runs": runs}, indent=1))
    if not all(found.values()):
        sys.exit("Some contenders did not run; see above.")


def compare(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """Results and titles by contender."""
    chosen: dict[str, Layout | None] = {}
    for name in options.only:
        peer, _, tuned = name.partition(" ")
        layouts = options.layouts.get(peer, [])
        chosen[name] = None
        if tuned:
            chosen[name] = (
                layouts[0] if len(layouts) == 1 else tune(bench, peer, layouts, min(options.tune_steps, options.steps))
            )
    titles = {name: f"{name} ({layout})" if layout else name for name, layout in chosen.items()}
    found: dict[str, list[Result]] = {name: [] for name in options.only}
    for number in range(options.rounds):
        turn = number % len(options.only)
        for name in options.only[turn:] + options.only[:turn]:
            try:
                result = bench.run(name, chosen[name])
            except RunFailed as error:
                print(f"round {number + 1}: {titles[name]} did not run:\n{error}", flush=True)
                continue
            found[name].append(result)
            print(
                f"round {number + 1}: {titles[name]}: {result.tokens_per_s:.1f} tokens/s, {result.wall_s:.1f} s in all",
                flush=True,
            )
    return found, titles


if __name__ == "__main__":
    main()
