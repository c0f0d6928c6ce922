"""Models that would run code, read elsewhere, or never end: seen, planned and trained on, and nothing of it happens."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as to_safetensors

from tests.catalog.ground import make_base
from tests.conftest import ServerProcess
from tests.recipes.ground import Ground, params_of
from tests.security.ground import SECRET, TIMES, serving, share
from tests.tiny import make_tiny_model, make_tokenizer
from tunesmith.core.errors import BadData, JobFailure, NotFound, TunesmithError, UnsupportedFormat
from tunesmith.recipes.blocks.data import load_rows
from tunesmith.recipes.blocks.templates import MAX_TEXT_BYTES, Renderer
from tunesmith.recipes.gguf import check_gguf
from tunesmith.recipes.model_info import read_header, read_model_info, refuse_unsafe_files

ROWS = b'{"question": "why", "answer": "so"}\n' * 30


class Runs:
    """Touches the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def payload(canary: Path) -> bytes:
    return pickle.dumps(Runs(canary))


def code(canary: Path) -> str:
    """A module that touches the canary when it is imported, and has every class that a configuration may name."""
    return f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass C:\n    pass\nclass M(C):\n    pass\n"


def as_zip(canary: Path) -> bytes:
    """As `torch.save` writes it."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", payload(canary))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def forged(**tensor: Any) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **tensor}}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 4


Make = Callable[[Path, Path], None]
"""Spoils a good model folder; the second path is the canary."""


def only(name: str, content: Callable[[Path], bytes]) -> Make:
    """The weights are there in this form alone."""

    def make(folder: Path, canary: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.unlink()
        (folder / name).write_bytes(content(canary))

    return make


def beside(name: str, content: Callable[[Path], bytes | str]) -> Make:
    """Good weights, and this."""

    def make(folder: Path, canary: Path) -> None:
        made = content(canary)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(made if isinstance(made, bytes) else made.encode())

    return make


def configured(file: str = "config.json", **values: Any) -> Make:
    """Good weights, code beside them, and a configuration that asks for it."""

    def make(folder: Path, canary: Path) -> None:
        (folder / "evil.py").write_text(code(canary))
        (folder / "__init__.py").write_text(code(canary))
        path = folder / file
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(known | values))

    return make


def index(**weight_map: str) -> Make:
    def make(folder: Path, canary: Path) -> None:
        for path in folder.glob("model.safetensors"):
            path.rename(folder / "part.safetensors")
        (folder / "evil.bin").write_bytes(payload(canary))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return make


def pipe(name: str) -> Make:
    def make(folder: Path, _canary: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


MAP = {
    "AutoConfig": "evil.C",
    "AutoModelForCausalLM": "evil.M",
    "AutoTokenizer": ["evil.C", "evil.C"],
    "AutoModel": "evil.M",
}
FOLDERS: dict[str, Make] = {
    "bin": only("pytorch_model.bin", payload), "pt": only("model.pt", as_zip), "pth": only("model.pth", as_zip),
    "pkl": only("model.pkl", payload), "pickle": only("model.pickle", payload), "ckpt": only("model.ckpt", as_zip),
    "joblib": only("model.joblib", payload), "h5": only("tf_model.h5", lambda _: b"\x89HDF\r\n\x1a\n" + b"\0" * 64),
    "keras": only("model.keras", as_zip), "msgpack": only("flax_model.msgpack", lambda _: b"\x81\xa1a\xc0"),
    "npy": only("model.npy", lambda c: b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + payload(c)),
    "npz": only("model.npz", as_zip), "gguf": only("model.gguf", lambda _: b"GGUF" + b"\xff" * 60),
    "no weights": only("readme", lambda _: b""), "bin shard": only("pytorch_model-00001-of-00001.bin", payload),
    "bin beside": beside("pytorch_model.bin", payload), "optimizer beside": beside("optimizer.pt", as_zip),
    "training_args": beside("training_args.bin", payload), "rng": beside("rng_state.pth", as_zip),
    "setup.py": beside("setup.py", code), "sitecustomize": beside("sitecustomize.py", code), "pth file": beside("a.pth", lambda c: f"import os; os.system('touch {c}')\n"),
    "torch.py": beside("torch.py", code), "transformers": beside("transformers/__init__.py", code), "json.py": beside("json.py", code),
    "generate": beside("custom_generate/generate.py", code), "kernels": beside("build/torch-ext/__init__.py", code),
    "auto_map": configured(auto_map=MAP), "own type": configured(auto_map=MAP, model_type="own"),
    "nested auto_map": configured(text_config={"auto_map": MAP, "trust_remote_code": True}),
    "trust": configured(auto_map=MAP, trust_remote_code=True, model_type="own"), "remote map": configured(auto_map={"AutoConfig": "org/repo--evil.C"}),
    "tokenizer auto_map": configured("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]}, tokenizer_class="C"),
    "processor": configured("preprocessor_config.json", auto_map={"AutoProcessor": "evil.C"}),
    "modules.json": beside("modules.json", lambda _: json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.M"}])),
    "generation": configured("generation_config.json", custom_generate="./", trust_remote_code=True),
    "quantised": configured(quantization_config={"quant_method": "evil", "modules_to_not_convert": ["evil.M"], "_load_in_4bit": True}),
    "attention": configured(_attn_implementation="org/evil:f", attn_implementation="org/evil:f", use_kernels=True),
    "adapter with bin": beside("adapter_config.json", lambda _: json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/etc"})),
    "other weights": configured(transformers_weights="adapter_model.bin"), "weights elsewhere": configured(transformers_weights="../../outside/w.safetensors"),
    "index of bin": index(w="evil.bin"), "index elsewhere": index(w="../../outside/w.safetensors"), "index absolute": index(w="/etc/w.safetensors"),
    "index of nothing": index(w="absent.safetensors"), "index of numbers": beside("model.safetensors.index.json", lambda _: '{"weight_map": {"w": 1}}'),
    "lying offsets": only("model.safetensors", lambda _: forged(data_offsets=[0, 2**62])), "lying shape": only("model.safetensors", lambda _: forged(shape=[2**60])),
    "huge shape": only("model.safetensors", lambda _: forged(shape=[2**62] * 4000)), "long header": only("model.safetensors", lambda _: struct.pack("<Q", 2**63) + b"{}"),
    "deep header": only("model.safetensors", lambda _: struct.pack("<Q", 10**5) + b"[" * 10**5), "empty weights": only("model.safetensors", lambda _: b""),
    "deep config": beside("config.json", lambda _: "[" * 10**5), "config of numbers": configured(num_hidden_layers=10**300, hidden_size=10**300, vocab_size=-(10**40)),
    "config of lists": configured(architectures=[["x" * 10**6]], model_type=["x"] * 1000), "config not text": beside("config.json", lambda _: b"\xff\xfe{}"),
    "weights a pipe": pipe("model.safetensors"), "more weights a pipe": pipe("b.safetensors"), "tokenizer elsewhere": configured("tokenizer_config.json", vocab_file="/etc/passwd", tokenizer_file="/etc/passwd"),
}  # fmt: skip
REFUSED = ("bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "h5", "keras", "msgpack", "npy", "npz", "gguf", "no weights",
           "bin shard", "adapter with bin", "other weights", "weights elsewhere", "index of bin", "index elsewhere",
           "index absolute", "index of nothing", "index of numbers", "lying offsets", "lying shape", "huge shape", "long header",
           "deep header", "empty weights", "deep config", "config not text", "weights a pipe")  # fmt: skip
"""Those that no library is asked to load at all."""


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_run_code_or_lies_is_refused_before_any_library_reads_it(tmp_path: Path, what: str) -> None:
    folder = make_base(tmp_path / "m")
    FOLDERS[what](folder, tmp_path / "canary")
    with pytest.raises((UnsupportedFormat, BadData, NotFound)) as caught:
        refuse_unsafe_files(folder)
        read_model_info(folder)
    assert caught.value.message and caught.value.hint
    assert not (tmp_path / "canary").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`(home with a folder for each of them, canary)`."""
    home = tmp_path_factory.mktemp("models") / "home"
    canary = home.parent / "canary"
    good = make_tiny_model(home.parent / "good")
    for number, make in enumerate(FOLDERS.values()):
        folder = home / "models" / f"m{number}"
        folder.mkdir(parents=True)
        for path in good.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        make(folder, canary)
    return home, canary


@pytest.fixture(scope="module")
def server(models: tuple[Path, Path]) -> Iterator[ServerProcess]:
    with serving(models[0], HF_HUB_OFFLINE="1") as server:
        server.client.put("/datasets/upload?file_name=a.jsonl", content=ROWS).raise_for_status()
        yield server


def test_all_of_them_are_listed_and_looked_at(server: ServerProcess, models: tuple[Path, Path]) -> None:
    assert len(FOLDERS) >= 40
    server.wait_for("/datasets/1", lambda found: found["status"] == "ready")
    assert server.client.get("/models/?limit=500").status_code == 200
    assert server.client.get(server.url + "/models", headers={"accept": "text/html"}).status_code == 200
    for what in share(list(FOLDERS), always=12):
        name = f"m{list(FOLDERS).index(what)}"
        answers = [
            server.client.get("/models/detail", params={"name": name}),
            server.client.get(f"{server.url}/models/{name}"),
        ]
        for tab in ("files", "card", "use") if TIMES > 1 else ():
            answers.append(server.client.get(f"{server.url}/models/{name}?tab={tab}"))
        body = {"model": name, "dataset_id": 1, "hyperparameters": {"max_steps": 1}}
        plan = server.client.post("/jobs/plan", json=body)
        for answer in (*answers, plan):
            assert answer.status_code < 500, f"{what}: {answer.text[:300]}"
            assert "root:x:0" not in answer.text
        if plan.status_code >= 400:
            assert plan.json()["hint"], f"{what}: {plan.text}"
    assert not models[1].exists()


def test_training_on_them_runs_nothing_of_theirs(server: ServerProcess, models: tuple[Path, Path]) -> None:
    """What can be planned is trained on: it fails with what to do, or the model is plain after all."""
    loaded = [what for what in FOLDERS if what not in REFUSED]
    jobs = {}
    for what in loaded if TIMES > 1 else ["tokenizer auto_map"]:
        body = {
            "model": f"m{list(FOLDERS).index(what)}",
            "dataset_id": 1,
            "method": "lora",
            "hyperparameters": {"max_steps": 1},
        }
        made = server.client.post("/jobs/", json=body)
        assert made.status_code in (201, 422), f"{what}: {made.text}"
        if made.status_code == 201:
            jobs[what] = made.json()["id"]
    for what, job_id in jobs.items():
        ended = server.wait_for(f"/jobs/{job_id}", lambda job: job["status"] in ("completed", "failed"), 240)
        if ended["status"] == "failed":
            assert ended["status_reason"] and ended["hint"], f"{what}: {ended}"
            assert ended["failure_code"] != "lost_worker", f"{what}: {ended}"
    assert not models[1].exists()


@pytest.mark.parametrize(
    "what", ["card a folder", "validation a folder", "card deep", "card of a date", "card of a number"]
)
def test_odd_files_about_a_model_do_not_end_its_page(
    server: ServerProcess, models: tuple[Path, Path], what: str
) -> None:
    folder = make_tiny_model(models[0] / "models" / "odd")
    texts = {"card deep": "---\na: " + "[" * 5000 + "\n---\n", "card of a date": "---\na: 2024-99-99\n---\n",
             "card of a number": "---\nlicense: " + "1" * 5000 + "\n---\n"}  # fmt: skip
    try:
        if what in texts:
            (folder / "README.md").write_text(texts[what])
        else:
            (folder / ("README.md" if "card" in what else "validation.json")).mkdir()
        assert server.client.get("/models/").status_code == 200
        assert server.client.get("/models/detail", params={"name": "odd"}).status_code == 200
        assert server.client.get(f"{server.url}/models/odd").status_code == 200
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


# -- changed files ------------------------------------------------------------------------------------------------------


def gguf() -> bytes:
    """A small whole one: three keys, an array, two tensors."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    keys = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    keys += text(b"general.alignment") + struct.pack("<II", 4, 32)
    keys += text(b"tokens") + struct.pack("<IIQ", 9, 8, 3) + text(b"a") + text(b"bc") + text(b"")
    keys += text(b"scores") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0)
    tensors = text(b"w") + struct.pack("<IQQIQ", 2, 32, 4, 0, 0) + text(b"q") + struct.pack("<IQIQ", 1, 64, 8, 512)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 4) + keys + tensors
    return head + b"\0" * (-len(head) % 32) + bytes(512) + bytes(96)


def mutants(content: bytes, number: int, seed: int) -> Iterator[bytes]:
    """Changed where it hurts: single bytes, whole numbers, lengths, cut off, repeated."""
    chance = random.Random(seed)
    numbers = [0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32, 255, 9, 4097]
    for _ in range(number):
        data = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 4))):
            place = chance.randrange(len(data))
            kind = chance.randrange(5)
            if kind == 0:
                data[place] = chance.randrange(256)
            elif kind == 1:
                data[place : place + 8] = struct.pack("<Q", chance.choice(numbers))
            elif kind == 2:
                data[place : place + 4] = struct.pack("<I", chance.choice(numbers) & 0xFFFFFFFF)
            elif kind == 3 and len(data) > 16:
                del data[max(8, place) :]
            else:
                data[place:place] = data[place : place + chance.randrange(1, 64)]
        yield bytes(data)


def test_changed_safetensors_are_bad_data_or_sound(tmp_path: Path) -> None:
    whole = to_safetensors({"a": np.zeros((4, 4), np.float32), "b": np.zeros(8, np.float16)})
    path = tmp_path / "model.safetensors"
    sound = 0
    for content in mutants(whole, 334 * TIMES, seed=1):
        path.write_bytes(content)
        try:
            header = read_header(path)
        except BadData as error:
            assert error.hint
            continue
        sound += 1
        assert all(0 <= t["data_offsets"][0] <= t["data_offsets"][1] <= len(content) for t in header.values())
    assert sound < 334 * TIMES


def test_a_whole_gguf_passes_and_its_readers_agree(tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = tmp_path / "model.gguf"
    path.write_bytes(gguf())
    check_gguf(path)
    assert [tensor.name for tensor in GGUFReader(path).tensors] == ["w", "q"]


def test_changed_ggufs_that_pass_do_not_crash_the_native_reader(tmp_path: Path) -> None:
    """Sound by our check: then the library must come through; everything else is bad data with what to do."""
    passed = []
    path = tmp_path / "model.gguf"
    for number, content in enumerate(mutants(gguf(), 333 * TIMES, seed=2)):
        path.write_bytes(content)
        try:
            check_gguf(path)
        except BadData as error:
            assert error.hint
            continue
        passed.append(tmp_path / f"{number}.gguf")
        passed[-1].write_bytes(content)
    script = """
        import sys
        from gguf import GGUFReader
        for path in sys.argv[1:]:
            try:
                for tensor in GGUFReader(path).tensors:
                    tensor.data.sum()
            except (ValueError, UnicodeError, KeyError, IndexError) as error:
                print(path, type(error).__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, passed)], capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < len(passed) < 333 * TIMES


GGUF_LIES = {
    "keys": (16, struct.pack("<Q", 2**63)), "tensors": (8, struct.pack("<Q", 2**62)), "version": (4, struct.pack("<I", 1)),
    "magic": (0, b"GGML"), "key length": (24, struct.pack("<Q", 2**64 - 1)),
}  # fmt: skip


@pytest.mark.parametrize("what", GGUF_LIES)
def test_lies_in_a_gguf_are_named(tmp_path: Path, what: str) -> None:
    at, change = GGUF_LIES[what]
    content = gguf()
    (tmp_path / "m.gguf").write_bytes(content[:at] + change + content[at + len(change) :])
    with pytest.raises(BadData, match=r"m\.gguf"):
        check_gguf(tmp_path / "m.gguf")


def test_alignment_has_a_bound(tmp_path: Path) -> None:
    """CVE-2026-33298 and what followed: an alignment without an upper bound."""
    content = gguf()
    at = content.index(b"general.alignment") + len(b"general.alignment") + 4
    for alignment in (0, 1, 3, 8192, 2**31):
        (tmp_path / "m.gguf").write_bytes(content[:at] + struct.pack("<I", alignment) + content[at + 4 :])
        with pytest.raises(BadData, match="alignment"):
            check_gguf(tmp_path / "m.gguf")


def test_changed_parquet_files_are_bad_data_in_the_child(tmp_path: Path) -> None:
    """Read as the child does, in a process of its own: it may not survive every file, the errors must be ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": ["x", "y"] * 20, "b": [1, 2] * 20, "c": [[1], [2]] * 20}), tmp_path / "w.parquet")
    for number, content in enumerate(mutants((tmp_path / "w.parquet").read_bytes(), 333 * TIMES, seed=3)):
        (tmp_path / f"{number}.mutant").write_bytes(content)
    script = """
        import pathlib, resource, sys
        from tunesmith.core.errors import TunesmithError
        from tunesmith.dataprep.readers import read_parquet
        from tunesmith.dataprep.tables import FileReading
        resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
        for number in range(int(sys.argv[1]), int(sys.argv[2])):
            print(number, flush=True)
            try:
                for table in read_parquet(pathlib.Path(f"{number}.mutant"), FileReading()):
                    pass
            except (TunesmithError, MemoryError):
                pass
    """
    start, died = 0, []
    while start < 333 * TIMES:
        command = [sys.executable, "-c", textwrap.dedent(script), str(start), str(333 * TIMES)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode <= 0, done.stderr[-3000:]
        if done.returncode == 0:
            break
        start = int(done.stdout.split()[-1]) + 1
        died.append(start - 1)
    assert len(died) <= 333 * TIMES // 100, f"the native reader died of files {died}"


# -- templates ----------------------------------------------------------------------------------------------------------

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}", "{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__.os.system('touch CANARY') }}", "{{ self.__init__.__globals__.__builtins__.open('CANARY','w') }}",
    "{{ self._TemplateReference__context.environment }}", "{{ raise_exception.__globals__['__builtins__']['open']('CANARY','w') }}",
    "{{ strftime_now.__globals__['datetime'] }}", "{{ (lipsum|attr('__globals__'))['os'].system('touch CANARY') }}",
    "{{ lipsum|attr('\\x5f\\x5fglobals\\x5f\\x5f') }}", "{{ messages|map(attribute='__class__')|list }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}", "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "{{ ('{0.__class__.__init__.__globals__}'|string).format(cycler) }}", "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ ['{0.__class__}']|map('format', messages)|list }}", "{{ dict.__base__.__subclasses__() }}", "{{ dict().__class__.mro() }}",
    "{{ range.__self__ }}", "{{ messages.append(1) }}", "{{ messages.__setitem__(0, 1) }}", "{{ messages.pop() }}",
    "{{ [].__class__.__base__.__subclasses__()[100] }}", "{{ config }}{{ request }}{{ g }}", "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "{% include '/etc/passwd' %}", "{% include 'CANARY' %}", "{% extends '/etc/passwd' %}", "{% from '/etc/passwd' import x %}",
    "{{ url_for.__globals__ }}", "{{ get_flashed_messages.__globals__ }}", "{{ lipsum.__code__.co_consts }}", "{{ lipsum.func_globals }}",
    "{{ ().__reduce_ex__(2) }}", "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
    "{{ messages[0].__class__.__init__ }}", "{{ (1).__class__.__base__ }}", "{{ ''|attr('format')|attr('__self__') }}",
    "{{ messages|tojson|attr('__class__') }}",
]  # fmt: skip
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='aaaaaaaaaaaa') %}{% for a in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'a' * 100000000000 }}", "{{ 'a' * 3000000 }}", "{{ (7 ** 99999999) ** 99 }}", "{{ range(99999999999) }}",
    "{{ 'x'|center(99999999999) }}", "{{ '%9999999999d'|format(1) }}", "{{ '{:9999999999}'.format(1) }}", "{{ lipsum(n=99999) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{{ [[1]] * 999999999 }}", "{{ ('a' * 99999)|list|permutations }}", "{{ 'a'|replace('', 'b' * 9999999) }}", "{{ " + "(" * 5000,
    "{{ " + "-" * 50_000 + "1 }}", "{% if " + "not " * 20_000 + "x %}{% endif %}", "{{ " + "+".join(["x"] * 30_000) + " }}",
    "{{ 'a' }}" * 200_000,
]  # fmt: skip
"""Without end, or with one that is too far."""


def rendered(template: str, tmp_path: Path) -> tuple[str, float]:
    """What came of it, in words, and how long it took."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template.replace("CANARY", str(tmp_path / "canary"))
    began_s = time.monotonic()
    with Renderer(tokenizer) as renderer:
        try:
            said = renderer.render([{"role": "user", "content": "hello"}])
            assert len(said) <= MAX_TEXT_BYTES + 1000
        except (BadData, JobFailure) as error:
            assert "template" in error.message
            said = error.message
    return said, time.monotonic() - began_s


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_stays_in_its_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setenv("CANARY_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    said, _ = rendered(template, tmp_path)
    assert SECRET not in said and "root:x:0" not in said and "subprocess" not in said and "<module" not in said
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize("template", share(ENDLESS, always=6), ids=lambda template: template[:40])
def test_a_template_has_a_budget(tmp_path: Path, template: str) -> None:
    _, took_s = rendered(template, tmp_path)
    assert took_s < 30, "a second of processor time, and what the machine does besides"


def test_after_an_overrun_the_next_conversation_is_rendered(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].content == 'x' %}" + ENDLESS[0] + "{% endif %}{{ messages[0].content }}"
    )
    with Renderer(tokenizer) as renderer:
        assert renderer.render([{"role": "user", "content": "a"}]) == "a"
        with pytest.raises(JobFailure, match="longer than 1 s") as caught:
            renderer.render([{"role": "user", "content": "x"}])
        assert caught.value.failure == "bad_data" and caught.value.hint
        assert renderer.render([{"role": "user", "content": "b"}]) == "b"


def test_a_job_ends_as_bad_data_when_its_template_does_not_end(tmp_path: Path) -> None:
    ground = Ground(tmp_path, make_tiny_model(tmp_path / "m"))
    run = ground.run([{"question": "why", "answer": "so"}])
    tokenizer = make_tokenizer()
    tokenizer.name_or_path, tokenizer.chat_template = "/models/evil-7b", ENDLESS[0]
    with pytest.raises(JobFailure, match="evil-7b") as caught:
        load_rows(run, run.spec.dataset, tokenizer, params_of(run))
    assert caught.value.failure == "bad_data"


def test_serving_refuses_a_template_that_refuses_or_does_not_end(tmp_path: Path) -> None:
    from tunesmith.serving.generation import Model, Sampling

    model = Model(str(make_tiny_model(tmp_path / "m")))
    for template in ("{{ raise_exception('roles must alternate') }}", ENDLESS[0]):
        model.tokenizer.chat_template = template
        model.template.close()
        with pytest.raises(TunesmithError) as caught:
            model.generate([{"role": "user", "content": "x"}], None, Sampling(), lambda: False)
        assert caught.value.status == 422 and caught.value.hint
    model.template.close()
