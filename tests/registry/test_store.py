"""Versions and their files: what is registered stays as it is, and what is not as it was is not loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.ground import make_base
from tests.registry.ground import Ground, adapter, flip, weights
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, UnsupportedFormat
from tunesmith.features.catalog.service import resolve_model
from tunesmith.features.registry import checking, listing, service, store
from tunesmith.features.registry.naming import next_version, number_of, parse_ref
from tunesmith.features.registry.repository import UsageRepository, VersionRepository
from tunesmith.features.registry.service import NewVersion
from tunesmith.features.registry.store import Store


def test_a_registered_model_says_what_it_is_and_is_found_by_every_name(both: Ground) -> None:
    first = both.model(1, metrics={"eval_loss": 1.5}, tags=["a", "a", "b"])
    second = both.model(2, lineage={"method": "standard"})
    assert (first.version, second.version) == ("1.0.0", "1.1.0") and first.tags == ["a", "b"]
    assert first.architecture == {"task": "text-generation", "family": "llama", "num_layers": 1, "hidden_size": 8, "num_heads": 2,
                                  "num_kv_heads": 1, "vocab_size": 32, "context_length": 128}  # fmt: skip
    assert first.num_parameters == 64 and second.lineage["parent_version"] == "1.0.0"
    with both.database.unit_of_work() as session:
        for ref, version in {
            "support-bot@1.0.0": "1.0.0",
            "support-bot@latest": "1.1.0",
            "support-bot": "1.1.0",
        }.items():
            assert service.find_version(session, ref).version == version
        service.add_scores(session, service.find_version(session, "support-bot@1.0.0"), "held out", {"bleu": 12.0})
        service.record_use(session, first.id, requests=3, errors=1, latency_sum_s=0.5, tokens=10)
        service.record_use(session, first.id, requests=1, errors=0, latency_sum_s=0.5, tokens=10)
        with pytest.raises(NotFound, match="no version or alias 'champion'"):
            service.find_version(session, "support-bot@champion")
    with both.database.unit_of_work(readonly=True) as session:
        assert service.find_version(session, "support-bot@1.0.0").scores == {"held out": {"bleu": 12.0}}
        assert [
            (row.requests, row.tokens)
            for row in UsageRepository(session).since(
                [first.id], first.created_at.replace(minute=0, second=0, microsecond=0)
            )
        ] == [(4, 20)]
        folder = resolve_model(both.settings, session, "support-bot@1.0.0").path
    assert sorted(path.name for path in Path(folder).iterdir()) == ["config.json", "model.safetensors"]


def test_the_same_content_is_kept_once_and_the_job_may_change_its_own_files(ground: Ground) -> None:
    first = ground.model(1)
    second = ground.model(1)
    kept = list(Store(ground.settings).contents())
    assert second.digest == first.digest and len(kept) == 2
    weights(ground.settings.home / "made" / "support-bot-1" / "model.safetensors", 9)
    assert (
        service.verified_folder(ground.settings, first)
        and checking.verify(ground.settings, [first], repair=False).damaged == []
    )


def test_one_changed_byte_is_found_named_and_put_right(ground: Ground) -> None:
    row = ground.model(1, name="bot")
    folder = service.verified_folder(ground.settings, row)
    flip(folder / "model.safetensors")  # the same inode as the stored content
    with pytest.raises(Conflict, match=r"bot@1\.0\.0 is damaged: model\.safetensors"):
        service.verified_folder(ground.settings, row)
    with pytest.raises(Conflict, match="damaged"), ground.database.unit_of_work() as session:
        resolve_model(ground.settings, session, "bot@1.0.0")
    found = checking.verify(ground.settings, [row], repair=True)
    assert found.damaged[0].files == ["model.safetensors"], "nothing has the same content any more"
    ground.model(1, name="bot")  # the same content comes again
    assert checking.verify(ground.settings, [row], repair=True).damaged[0].repaired == ["model.safetensors"]
    assert checking.verify(ground.settings, [row], repair=False).damaged == []
    (service.verified_folder(ground.settings, row) / "planted.py").write_text("x")
    with pytest.raises(Conflict, match=r"planted\.py"):
        service.verified_folder(ground.settings, row)


def test_a_second_load_reads_nothing_again_and_a_change_is_still_seen(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ground.model(1)
    path = service.verified_folder(ground.settings, row) / "model.safetensors"
    monkeypatch.setattr(store, "SETTLED_NS", 0)
    read: list[str] = []
    real = store.hashlib.file_digest

    def digest(file: Any, name: str) -> Any:
        read.append(file.name)
        return real(file, name)

    monkeypatch.setattr(store.hashlib, "file_digest", digest)
    service.verified_folder(ground.settings, row)
    assert len(read) == 2
    service.verified_folder(ground.settings, row)
    assert len(read) == 2
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a forger sets the time back; nobody can set ctime
    with pytest.raises(Conflict):
        service.verified_folder(ground.settings, row)


def test_an_adapter_is_resolved_over_its_base(ground: Ground, tmp_path: Path) -> None:
    base = make_base(ground.settings.models_dir / "base")
    new = NewVersion(name="bot", sources={"adapter": adapter(tmp_path / "a")}, kind="adapter", base_model="base",
                     lineage={"base_path": str(base)})  # fmt: skip
    row = ground.register(new)
    merged = {"adapter": tmp_path / "a", "base_model": make_base(tmp_path / "merged")}
    over_merged = ground.register(NewVersion(name="bot", sources=merged, kind="adapter"))
    assert row.architecture["hidden_size"] == 8 and row.framework == "peft"
    with ground.database.unit_of_work() as session:
        ref = resolve_model(ground.settings, session, "bot@1.0.0")
        bare = resolve_model(ground.settings, session, "bot")
    assert (ref.path, ref.name) == (str(base), "bot@1.0.0")
    assert ref.adapter_path == str(Store(ground.settings).folder(row.id))
    assert bare.path == f"{Store(ground.settings).folder(over_merged.id)}/base_model"


def test_what_can_run_code_is_not_registered(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedFormat, match=r"pytorch_model\.bin"):
        ground.register(NewVersion(name="bot", sources={"model": tmp_path / "m"}, kind="model"))
    folder = adapter(tmp_path / "a")
    left = ["Weights.PT", "handler.py", "inner/state.pkl", "more.joblib", "old.ckpt", "training_args.bin", "w.pth"]
    (folder / "inner").mkdir()
    for name in left:
        (folder / name).write_bytes(b"x")
    (folder / "way-out").symlink_to("/etc/passwd")
    row = ground.register(NewVersion(name="bot", sources={"adapter": folder}, kind="adapter"))
    assert sorted(row.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert listing.read(row).left_out == left


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "some"}, "some"),
    ],
)
def test_an_adapter_that_is_not_understood_is_not_registered(
    ground: Ground, tmp_path: Path, setting: dict[str, Any], named: str
) -> None:
    folder = adapter(tmp_path / "a")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | setting))
    with pytest.raises(UnsupportedFormat, match=named):
        ground.register(NewVersion(name="bot", sources={"adapter": folder}, kind="adapter"))
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"init_lora_weights": "gaussian"} | dict.fromkeys(setting))
    )
    assert ground.register(NewVersion(name="bot", sources={"adapter": folder}, kind="adapter")).version


def test_a_hundred_at_once_get_a_hundred_versions(both: Ground) -> None:
    new = NewVersion(name="bot", sources={"model": make_base(both.settings.home / "m")}, kind="model")
    prepared = service.prepare(both.settings, new)
    gate = threading.Barrier(10)

    def one(number: int) -> str:
        if number < 10:
            gate.wait(30)
        with both.database.unit_of_work() as session:
            return service.register(both.settings, session, new, prepared).version

    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(one, range(100)))
    assert sorted(map(number_of, made)) == [number_of(f"1.{n}.0") for n in range(100)]
    with pytest.raises(Conflict, match=r"version 1\.7\.0 of bot already"), both.database.unit_of_work() as session:
        service.register(both.settings, session, NewVersion(**{**new.__dict__, "version": "1.7.0"}), prepared)


KILLED = """
    import os, signal, sys, threading, time
    from pathlib import Path
    from tests.registry.ground import Ground
    from tunesmith.features.registry.service import NewVersion
    ground = Ground(Path(sys.argv[1]))
    ground.register(NewVersion(name="bot", sources={"model": Path(sys.argv[3])}, kind="model"))  # however busy the machine is
    threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    print("ready", flush=True)
    while True:
        ground.register(NewVersion(name="bot", sources={"model": Path(sys.argv[3])}, kind="model"))
"""


def test_killed_at_any_instant_every_version_is_whole(tmp_path: Path) -> None:
    model = make_base(tmp_path / "m")
    (model / "model.safetensors").unlink()
    weights(model / "model.safetensors")
    home = tmp_path / "home"
    for number in range(4):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(home), str(0.03 + 0.05 * number), str(model)]
        assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
        weights(model / "model.safetensors", number + 1)
    ground = Ground(home)
    with ground.database.unit_of_work() as session:
        rows = VersionRepository(session).all()
    assert rows and checking.verify(ground.settings, rows, repair=False).damaged == []
    for row in rows[-3:]:
        assert service.verified_folder(ground.settings, row).is_dir()
    yesterday = time.time() - 2 * store.FORSAKEN_S
    left = Store(ground.settings).incoming / "left"
    orphan = Store(ground.settings).blobs / "ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    for path in (left, orphan):
        path.write_bytes(b"1234")
    assert checking.sweep(ground.settings, ground.database) == 0, "somebody may be about to name it"
    for path in (left, orphan):
        os.utime(path, (yesterday, yesterday))
    assert checking.sweep(ground.settings, ground.database) == 8
    assert checking.verify(ground.settings, rows, repair=False).damaged == []
    ground.database.close()


@pytest.mark.parametrize(
    "text", ["", "@1.0.0", "a b", "x@", "x@1.0", "x@1.0.0@2", "x@01.0.0", "../x", "x@Latest", "a/b@1.0.0", "x" * 200]
)
def test_what_is_no_name_of_a_version(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_ref(text)


def test_versions_rise() -> None:
    assert [next_version("1.2.3", part) for part in ("major", "minor", "patch")] == ["2.0.0", "1.3.0", "1.2.4"]
    assert number_of("2.0.0") > number_of("1.999999.999999")
    with pytest.raises(InvalidInput):
        next_version("999999.0.0", "major")
