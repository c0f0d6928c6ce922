"""Answers that share passes are those that are given alone, and nobody's end or failure is another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import FAMILIES, make_tiny_model
from tunesmith.core.errors import InvalidInput, TunesmithError, Unavailable
from tunesmith.serving.adapters import Adapters
from tunesmith.serving.generation import Model, Sampling

WORDS = ["the", "question", "and", "the", "answer", "of", "user", "and", "assistant"]


@pytest.fixture(scope="module", autouse=True)
def in_fp32() -> Iterator[None]:
    """In bf16, which some CPUs compute in, a sum comes out otherwise in a batch of another size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.serving.generation.pick_dtype", lambda *_, **__: torch.float32)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(str(make_tiny_model(tmp_path_factory.mktemp("serve") / "m")), parallel=16)


def prompt(number: int) -> str:
    """Another one for each number, of another length."""
    return " ".join(WORDS[(number + place) % len(WORDS)] for place in range(2 + 7 * number % 23))


def answer(model: Model, text: str, sampling: Sampling, adapter: str | None = None) -> str:
    return "".join(piece.text for piece in model.generate(text, adapter, sampling, lambda: False))


def at_once(model: Model, calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gives, or the error it raises; nothing is computed before all of them wait."""
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait(60)

    def one(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except TunesmithError as error:
            return error

    with ThreadPoolExecutor(len(calls) + 1) as threads:
        threads.submit(model.batcher.call, hold)
        held.wait()
        told = [threads.submit(one, call) for call in calls]
        while model.batcher.waiting + sum(call.done() for call in told) < len(calls):
            time.sleep(0.01)
        gate.set()
        return [call.result() for call in told]


def under_way(model: Model) -> int:
    """Answers that hold a row once the turn that is being computed is over."""
    return model.batcher.call(lambda: model.batcher.running)


@pytest.fixture
def sizes(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass had."""
    return watched(model, monkeypatch)


def watched(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    plain = Adapters.switch

    def switch(self: Adapters, paths: Any) -> Any:
        seen.append(len(paths))
        return plain(self, paths)

    monkeypatch.setattr(Adapters, "switch", switch)
    return seen


def make_adapter(base: str, folder: Path, seed: int, **options: Any) -> str:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_given_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(str(make_tiny_model(tmp_path / "m", family)), parallel=6)
    sampling = [Sampling(max_tokens=5 + 4 * number, temperature=0) for number in range(12)]
    alone = [answer(model, prompt(number), sampling[number]) for number in range(12)]
    seen = watched(model, monkeypatch)
    together = at_once(
        model, [lambda number=number: answer(model, prompt(number), sampling[number]) for number in range(12)]
    )
    assert together == alone and max(seen) == 6, "up to the limit, and no more"
    assert under_way(model) == 0


def test_alone_is_what_transformers_generates(model: Model) -> None:
    ids = model.tokenizer(prompt(3), return_tensors="pt")
    out = model.adapters.base.generate(**ids, max_new_tokens=20, do_sample=False)
    expected = model.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer(model, prompt(3), Sampling(max_tokens=20, temperature=0)) == expected


def test_a_long_prompt_in_parts_is_the_same_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy, text = Sampling(max_tokens=20, temperature=0), prompt(3) * 4
    whole = answer(model, text, greedy)
    monkeypatch.setattr("tunesmith.serving.batching.PREFILL_TOKENS", 7)
    assert at_once(model, [lambda: answer(model, text, greedy)] * 3) == [whole] * 3


def test_a_seed_says_the_same_in_company(model: Model, sizes: list[int]) -> None:
    mine = Sampling(max_tokens=40, temperature=1.2, top_p=0.9, top_k=50, repetition_penalty=1.1, seed=11)
    alone = answer(model, prompt(1), mine)
    others = [
        lambda number=number: answer(model, prompt(number), Sampling(max_tokens=4 * number, temperature=1.0))
        for number in range(2, 10)
    ]
    assert at_once(model, [lambda: answer(model, prompt(1), mine), *others])[0] == alone
    assert max(sizes) > 4


def test_each_has_its_own_way_of_sampling(model: Model) -> None:
    def whole(sampling: Sampling) -> tuple[str, Any, int, list[Any]]:
        pieces = list(model.generate(prompt(1), None, sampling, lambda: False))
        told = [entry for piece in pieces for entry in piece.logprobs]
        return "".join(p.text for p in pieces), pieces[-1].finish_reason, pieces[-1].completion_tokens, told

    greedy = whole(Sampling(max_tokens=24, temperature=0))
    stop = greedy[0][5:8]
    ways = [
        Sampling(max_tokens=24, temperature=0),
        Sampling(max_tokens=24, temperature=0, stop=(stop,)),
        Sampling(max_tokens=24, temperature=0, logprobs=2),
        Sampling(max_tokens=1, temperature=0),
        Sampling(max_tokens=24, temperature=0, repetition_penalty=3.0),
    ]
    plain, stopped, logged, short, varied = at_once(model, [lambda way=way: whole(way) for way in ways])
    assert plain == greedy and short[2] == 1 and varied[0] != greedy[0]
    assert stopped[0] == greedy[0].partition(stop)[0] and stopped[1] == "stop"
    assert logged[0] == greedy[0] and len(logged[3]) == logged[2]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in logged[3])
    assert not plain[3]


def test_who_leaves_frees_a_row(model: Model, sizes: list[int]) -> None:
    gone = threading.Event()
    long = Sampling(max_tokens=400, temperature=0)
    leaving = model.generate(prompt(1), None, long, gone.is_set)
    closing = model.generate(prompt(2), None, long, lambda: False)
    staying = model.generate(prompt(4), None, Sampling(max_tokens=60, temperature=0), lambda: False)
    assert next(leaving) and next(closing) and next(staying)
    gone.set()
    assert all(piece.finish_reason is None for piece in leaving), "it ends without a last word"
    assert isinstance(closing, Iterator)
    closing.close()  # type: ignore[attr-defined]
    assert list(staying)[-1].completion_tokens == 60
    assert max(sizes) >= 2 and sizes[-1] == 1 and under_way(model) == 0


def test_who_fails_hurts_no_other(model: Model, tmp_path: Path) -> None:
    greedy = Sampling(max_tokens=30, temperature=0)
    alone = answer(model, prompt(1), greedy)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"none")
    (tmp_path / "broken" / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    good, no_adapter, broken, too_long, again = at_once(model, [
        lambda: answer(model, prompt(1), greedy),
        lambda: answer(model, prompt(1), greedy, str(tmp_path / "empty")),
        lambda: answer(model, prompt(1), greedy, str(tmp_path / "broken")),
        lambda: answer(model, prompt(1) * 500, greedy),
        lambda: answer(model, prompt(1), greedy),
    ])  # fmt: skip
    assert good == again == alone
    assert all(isinstance(error, InvalidInput) for error in (no_adapter, broken, too_long))
    assert answer(model, prompt(1), greedy) == alone


def test_where_memory_does_not_do_one_leaves_and_the_others_go_on(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Sampling(max_tokens=30, temperature=0)
    alone = answer(model, prompt(1), greedy)
    plain = Adapters.switch

    def tight(self: Adapters, paths: Any) -> Any:
        if len(paths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, paths)

    monkeypatch.setattr(Adapters, "switch", tight)
    told = at_once(model, [lambda: answer(model, prompt(1), greedy)] * 4)
    failed = [error for error in told if isinstance(error, Unavailable)]
    assert [text for text in told if text not in failed] == [alone] * (4 - len(failed)) and len(failed) <= 2
    assert all("out of memory" in error.hint for error in failed)


def test_a_defect_ends_who_is_under_way_and_not_the_engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    greedy = Sampling(max_tokens=10, temperature=0)
    with monkeypatch.context() as patch:
        patch.setattr(Adapters, "switch", defect)
        told = at_once(model, [lambda: answer(model, prompt(1), greedy)] * 3)
    assert all(isinstance(error, Unavailable) for error in told)
    assert answer(model, prompt(1), greedy)


def test_adapters_are_mixed_in_one_batch(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    folders = [make_adapter(model.base_path, tmp_path / f"a{seed}", seed) for seed in (1, 2)]
    folders.append(make_adapter(model.base_path, tmp_path / "dora", 3, use_dora=True))
    paths = [None, *folders, None, *folders]
    greedy = Sampling(max_tokens=40, temperature=0)
    alone = [answer(model, prompt(number), greedy, path) for number, path in enumerate(paths)]
    assert len(set(alone[:4])) == 4
    assert max(sizes) == 1
    together = at_once(model, [
        lambda number=number, path=path: answer(model, prompt(number), greedy, path)
        for number, path in enumerate(paths)
    ])  # fmt: skip
    assert together == alone and 4 <= max(sizes) <= 6, "all but the DoRA, whose two rows have a batch of their own"


def test_embeddings_come_between_steps(model: Model) -> None:
    [vector], _tokens = model.embed(["the answer"], None)
    pieces = model.generate(prompt(1), None, Sampling(max_tokens=200, temperature=0), lambda: False)
    next(pieces)
    assert model.embed(["the answer"], None)[0] == [vector] and abs(sum(x * x for x in vector) - 1) < 1e-5
    assert list(pieces)[-1].completion_tokens == 200


def test_a_model_whose_state_cannot_be_padded_answers_row_by_row(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Lfm2Config

    from tests.tiny import SIZES, make_tokenizer

    tokenizer = make_tokenizer()
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    torch.manual_seed(0)
    config = Lfm2Config(
        **sizes, vocab_size=len(tokenizer), layer_types=["conv", "full_attention"], eos_token_id=2, pad_token_id=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = Model(str(tmp_path))
    greedy = Sampling(max_tokens=12, temperature=0)
    alone = [answer(model, prompt(number), greedy) for number in range(4)]
    together = at_once(model, [lambda number=number: answer(model, prompt(number), greedy) for number in range(4)])
    assert together == alone


@pytest.mark.slow
def test_the_real_model_says_in_company_what_it_says_alone(
    starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(str(starter_model), threads=1)
    asked = [f"Tell me about the number {number}" + " and its friends" * number for number in range(6)]
    ways = [Sampling(max_tokens=16, temperature=0)] * 3 + [Sampling(max_tokens=16, seed=n) for n in range(3)]
    alone = [answer(model, text, way) for text, way in zip(asked, ways, strict=True)]
    seen = watched(model, monkeypatch)
    together = at_once(model, [
        lambda text=text, way=way: answer(model, text, way) for text, way in zip(asked, ways, strict=True)
    ])  # fmt: skip
    assert together == alone and max(seen) > 1
