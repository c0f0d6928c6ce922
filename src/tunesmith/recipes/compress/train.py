"""A compression, told from the top."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import FailureCode, JobFailure, TunesmithError
from tunesmith.core.events import ArtifactEvent
from tunesmith.core.job_dir import fsync_tree, new_folder, write_atomic
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.gguf_vocab import read_vocab
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.compress import making, report
from tunesmith.recipes.compress.checking import (
    Measured,
    Probe,
    draw_rows,
    importance_of,
    measure_gguf,
    measure_model,
    speed_of,
)
from tunesmith.recipes.compress.result import ENTRY
from tunesmith.recipes.compress.spec import RECIPE, UNWEIGHED, WHOLE, CompressParams

WORK = "compression"
"""Folder of what is only needed while the job is at work."""
IMPORTANCE = "importance.safetensors"


LOSSLESS = ("merged", "f32")
EXACT, ROUNDED = 0.005, 0.03
"""How far the perplexity of a lossless format may be from its source's, as a share: in float32, and where weights or sums are
rounded to 16 bits."""


class Halted(Exception):
    """Somebody asked for the job to end or pause."""

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome


def train(params: CompressParams, run: RunContext) -> str:
    """Make each format, check it, and leave `artifacts/compressed/`. Returns an `Outcome`; raises `JobFailure`."""
    if not run.is_main:
        return Outcome.COMPLETED
    # 1) What is compressed, and how it does as it is
    set_threads(run.spec.resources.cpu_threads)
    assert run.spec.model is not None  # the service refuses a job without one
    source = making.source_of(run.spec.model, offline=run.spec.offline)
    place = str(source.adapter if source.adapter and (source.adapter / "tokenizer.json").is_file() else source.base)
    tokenizer = load_tokenizer(place, offline=True)
    rows = draw_rows(run, params, tokenizer)
    probe = Probe(rows.check, rows.calibration, tokenizer, params.question, params.max_new_tokens, params.max_length)
    folder = run.dir.artifacts / RECIPE.produces
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)  # half-made by a killed predecessor
    failed: list[dict[str, str]] = []
    if set(params.formats) - set(WHOLE):
        tell_notes(run, Path(place))
    try:
        before = measure_source(run, params, source, probe)
        # 2) One format after the other; those that an earlier attempt finished stay
        for number, name in enumerate(params.formats, start=1):
            halt_if_asked(run)
            try:
                one_format(run, params, source, probe, name, before, f"{name}, {number} of {len(params.formats)}")
            except TunesmithError as error:
                if isinstance(error, JobFailure) and error.failure != FailureCode.UNSUPPORTED:
                    raise
                failed.append({"format": name, "message": error.message})
                run.notice(f"{name} could not be made: {error.message}", hint=error.hint, level="warning")
    except Halted as halted:
        return halted.outcome
    # 3) What is left behind
    return leave(run, params, folder, before, failed)


def tell_notes(run: RunContext, words: Path) -> None:
    """Say what llama.cpp does not carry over of the tokenizer for some rare text."""
    try:
        notes = read_vocab(words, 1).notes
    except TunesmithError:  # said of each format that cannot be made for it
        return
    for note in notes:
        run.notice(
            note, code="tokenizer_notes", hint="Formats that are folders of safetensors have the tokenizer itself."
        )


def leave(
    run: RunContext, params: CompressParams, folder: Path, before: dict[str, Any], failed: list[dict[str, str]]
) -> str:
    """The report over all formats. Raises `JobFailure` when there is not one."""
    run.phase("saving", "report")
    found = {entry["format"]: entry for entry in _finished(folder)}
    entries = [found[name] for name in params.formats if name in found]
    if not entries:
        raise JobFailure(FailureCode.UNSUPPORTED, "None of the formats could be made: " + failed[0]["message"])
    report.write_report(folder, before, entries, failed)
    shutil.rmtree(run.dir.path / WORK, ignore_errors=True)
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    run.report(ArtifactEvent(name=RECIPE.produces, path=f"artifacts/{RECIPE.produces}", size_bytes=size_bytes))
    numbers = {"source_perplexity": before["perplexity"], "source_size_bytes": float(before["size_bytes"])}
    for entry in entries:
        numbers |= {
            f"{entry['format']}_{key}": entry[key] for key in ("perplexity_ratio", "size_bytes", "tokens_per_s")
        }
    run.metrics({name: float(value) for name, value in numbers.items() if value is not None})
    return Outcome.COMPLETED


def measure_source(run: RunContext, params: CompressParams, source: making.Source, probe: Probe) -> dict[str, Any]:
    """The source's numbers; measured once, whatever the number of attempts."""
    kept = run.dir.path / WORK / "source.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return dict(json.loads(kept.read_bytes()))
    run.phase("loading")
    assert run.spec.model is not None
    place = making.place_for(source.base, *used_in())
    if place.dtype != torch.float32:
        run.notice(
            f"The source is measured in {_name(place.dtype)}: in float32 it does not fit into memory.", level="warning",
            hint="Perplexities of the formats may be off by half a percent beside it.",
        )  # fmt: skip
    model = load_causal_lm(run.spec.model, dtype=place.dtype, device=place.device, offline=run.spec.offline).eval()
    run.phase("evaluating", "the source")
    found = measure_model(model, probe, lambda done, total: _tick(run, done, total, "rows"))
    told = {"name": source.name, "size_bytes": making.size_of(source), "computed_in": _name(place.dtype)}
    told |= {"question": probe.question, **_numbers(found)}
    kept.parent.mkdir(exist_ok=True)
    if params.calibrate and probe.calibration and set(params.formats) - {*UNWEIGHED, *WHOLE}:
        run.phase("evaluating", "what real text does in it")
        found_of = importance_of(model, probe.calibration, lambda done, total: _tick(run, done, total, "rows"))
        save_file(found_of, kept.parent / IMPORTANCE)
        fsync_tree(kept.parent)
    told |= timed(model, probe)
    write_atomic(kept, told)  # last: what is in it is taken for done
    del model
    gc.collect()  # models hold themselves in circles
    return told


def used_in() -> making.Place:
    """Where a model would be served from on this machine, and in which format."""
    device = pick_device()
    return making.Place(device, pick_dtype(device, None, fp16=False))


def timed(model: Any, probe: Probe) -> dict[str, Any]:
    """The speed of a model whose quality has been measured, in the format that it would be served in. Weights that are quantised
    already stay what they are."""
    used = used_in()
    if "quantization_config" not in model.config.to_dict():
        model = model.to(device=used.device, dtype=used.dtype)
    return {"tokens_per_s": speed_of(model, probe), "timed_in": _name(model.dtype)}


def one_format(
    run: RunContext,
    params: CompressParams,
    source: making.Source,
    probe: Probe,
    name: str,
    before: dict[str, Any],
    detail: str,
) -> None:
    """Make a format, load it, compare it with the source; its folder appears when all of that is done."""
    target = run.dir.artifacts / RECIPE.produces / name
    if (target / ENTRY).is_file():
        return
    begin_s = monotonic_s()
    whole = whole_model(run, source) if name in WHOLE and name != "merged" and source.adapter else source.base
    with new_folder(target, before_rename=lambda _: halt_if_asked(run)) as folder:
        run.phase("saving", detail)
        file = make(run, params, source, probe, name, folder, whole)
        run.phase("evaluating", detail)
        if file:
            beside = folder / making.ADAPTER_FILE
            measured = measure_gguf(folder / file, probe, beside if beside.is_file() else None)
        else:
            measured = measure_folder(run, probe, name, folder)
            gc.collect()  # models hold themselves in circles
        size_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".gguf", ".safetensors"))
        entry = {"format": name, "file": file or "", "size_bytes": size_bytes, **_numbers(measured)}
        entry |= compared(measured, before)
        is_whole = before["computed_in"] == "float32" and (name == "f32" or making.is_float32(source))
        check_lossless(name, entry["perplexity_ratio"], is_whole=is_whole)
        entry |= {"seconds": round(monotonic_s() - begin_s, 1)}
        report.write_card(folder, source.name, entry)
        (folder / ENTRY).write_text(json.dumps(entry, indent=1, ensure_ascii=False))
    if measured.same_tokens is False:
        run.notice(
            f"llama.cpp cuts some text into other tokens than transformers in {name}.", level="warning",
            hint="Answers may differ from the tuned model's; report the model's name.",
        )  # fmt: skip


def measure_folder(run: RunContext, probe: Probe, name: str, folder: Path) -> Measured:
    """With transformers: plain weights as the source is measured, quantised ones in the format that they are saved for."""
    device: torch.device = pick_device()
    dtype: torch.dtype | None = None
    if name == "merged":
        device, dtype = making.place_for(folder, *used_in())
    model = making.load_saved(folder, device, dtype)
    found = measure_model(model, probe, lambda done, total: _tick(run, done, total, "rows"))
    if dtype is None:
        return found._replace(tokens_per_s=speed_of(model, probe))
    return found._replace(tokens_per_s=timed(model, probe)["tokens_per_s"])


def make(
    run: RunContext, params: CompressParams, source: making.Source, probe: Probe, name: str, folder: Path, whole: Path
) -> str:
    """Returns the GGUF file's name, empty for folders of safetensors."""
    if name == "merged":
        making.make_merged(source, folder, lambda done, total: _tick(run, done, total, "weights"))
        return ""
    if name in WHOLE:
        making.make_quantised(name, whole, folder, pick_device(), probe.tokenizer, probe.calibration)
        return ""
    file_name = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", run.spec.output_name or source.name.rpartition("/")[2]).strip(".-") or "model"
    )
    kept = run.dir.path / WORK / IMPORTANCE
    return making.make_gguf(
        source, name, folder, file_name, merge=params.merge, importance=load_file(kept) if kept.is_file() else None,
        progress=lambda done, total: _tick(run, done, total, "bytes"),
    )  # fmt: skip


def whole_model(run: RunContext, source: making.Source) -> Path:
    """The model with its adapter merged in, made once and gone when the job is done."""
    made, beside = run.dir.artifacts / RECIPE.produces / "merged", run.dir.path / WORK / "merged"
    if (made / ENTRY).is_file():
        return made
    if source.adapter and not beside.is_dir():
        run.phase("saving", "merging the adapter")
        making.write_merged(source.base, source.adapter, beside, lambda done, total: _tick(run, done, total, "weights"))
    return beside


def compared(measured: Measured, before: dict[str, Any]) -> dict[str, Any]:
    """Against the source."""
    both = measured.perplexity is not None and before["perplexity"]
    return {
        "perplexity_ratio": measured.perplexity / before["perplexity"] if both else None,  # type: ignore[operator]
        "same_greedy_answer": measured.greedy_answer.strip() == before["greedy_answer"].strip(),
    }


def check_lossless(name: str, ratio: float | None, *, is_whole: bool) -> None:
    """Raises `JobFailure` when a format that loses nothing is another model than the source. `is_whole`: nothing is rounded to
    16 bits."""
    if name not in LOSSLESS or ratio is None:
        return
    if not abs(ratio - 1) <= (EXACT if is_whole else ROUNDED):
        raise JobFailure(
            FailureCode.INTERNAL,
            f"The format {name} loses nothing, yet its perplexity is {ratio:.4f} times that of the source: something of the "
            "model is not in it.",
            hint="Report the model and the adapter; merging the adapter with PEFT's merge_and_unload is a way around.",
        )


def halt_if_asked(run: RunContext) -> None:
    """Raises `Halted`."""
    control = run.control()
    if control.stop:
        raise Halted(Outcome.CANCELLED)
    if control.pause:
        raise Halted(Outcome.PAUSED)


def _tick(run: RunContext, done: int, total: int, unit: str) -> None:
    run.progress(done, total, unit)
    halt_if_asked(run)


def _numbers(found: Measured) -> dict[str, Any]:
    return {name: value for name, value in found._asdict().items() if name != "same_tokens" or value is not None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _finished(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob(f"*/{ENTRY}"))]
