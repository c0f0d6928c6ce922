"""Decoding: stop strings, whole characters, seeds; and many adapters over one base."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.tiny import make_tiny_model, make_tokenizer
from tunesmith.core.errors import InvalidInput, TooMany, Unavailable
from tunesmith.recipes.blocks.tokenizer import load_tokenizer
from tunesmith.recipes.blocks.tool_text import with_tools
from tunesmith.serving import batching
from tunesmith.serving.generation import Model, Sampling
from tunesmith.serving.sampling import choose
from tunesmith.serving.text import Text

SAY = [{"role": "user", "content": "the question"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(str(make_tiny_model(tmp_path_factory.mktemp("serve") / "m")))


def answer(model: Model, sampling: Sampling, adapter: str | None = None) -> str:
    return "".join(piece.text for piece in model.generate(SAY, adapter, sampling, lambda: False))


def test_a_stop_string_ends_it_wherever_tokens_part_it() -> None:
    tokenizer = make_tokenizer()
    for whole in ("one STOP two", "S T ST STO STOP", "no end", "the answer " * 60 + "STOP and more"):
        text, told = Text(tokenizer, ("STOP",)), ""
        for token in tokenizer.encode(whole, add_special_tokens=False):
            told += text.add(token)
            if text.stopped:
                break
        assert told + text.rest() == whole.partition("STOP")[0]


def test_no_half_characters_are_told() -> None:
    tokenizer = make_tokenizer()
    for whole in ("grün 鶴 🎵!", "grün 鶴 🎵! " * 20):
        text = Text(tokenizer, ())
        pieces = [text.add(token) for token in tokenizer.encode(whole, add_special_tokens=False)]
        assert "".join(pieces) + text.rest() == whole and not any("\ufffd" in piece for piece in pieces)


def test_the_same_seed_says_the_same_and_greedy_needs_none(model: Model) -> None:
    warm = Sampling(max_tokens=12, temperature=1.5, seed=7)
    assert answer(model, warm) == answer(model, warm)
    assert len({answer(model, Sampling(max_tokens=12, temperature=1.5, seed=n)) for n in range(4)}) > 1
    assert answer(model, Sampling(max_tokens=8, temperature=0)) == answer(model, Sampling(max_tokens=8, temperature=0))


def test_sampling_keeps_to_its_bounds() -> None:
    logits = torch.tensor([5.0, 4.9, 4.8, 0.0])
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([0])
    assert {choose(logits, seen, Sampling(temperature=1.0, top_k=2, top_p=1.0), generator) for _ in range(60)} == {0, 1}
    assert {choose(logits, seen, Sampling(temperature=1.0, top_p=0.3), generator) for _ in range(30)} == {0}
    assert choose(logits, seen, Sampling(temperature=0, repetition_penalty=2.0), generator) == 1
    assert logits.tolist() == torch.tensor([5.0, 4.9, 4.8, 0.0]).tolist(), "what it is given stays as it is"


@pytest.mark.parametrize(("top_p", "sharpness"), [(1.0, 1.0), (0.9, 1.0), (0.9, 0.01), (0.5, 3.0)])
def test_tokens_are_drawn_as_often_as_they_are_probable(top_p: float, sharpness: float) -> None:
    """Whether the nucleus lies in the likeliest few or spreads over the vocabulary."""
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * sharpness
    probabilities, order = logits.softmax(-1).sort(descending=True)
    inside = int((probabilities.cumsum(-1) - probabilities < top_p).sum()) if top_p < 1 else 1000
    expected = torch.zeros(1000).index_copy(0, order[:inside], probabilities[:inside] / probabilities[:inside].sum())
    generator, draws = torch.Generator().manual_seed(2), 4000
    sampling = Sampling(temperature=1.0, top_p=top_p)
    drawn = torch.tensor([choose(logits, logits, sampling, generator) for _ in range(draws)]).bincount(minlength=1000)
    assert not drawn[expected == 0].any()
    off = (drawn / draws - expected).abs()
    assert (off <= 5 * (expected / draws).sqrt() + 1 / draws).all()


def test_extreme_sampling_is_no_defect() -> None:
    logits, seen, generator = torch.tensor([20.0, 19.0, 1.0]), torch.tensor([0]), torch.Generator().manual_seed(0)
    for temperature in (1e-45, 1e-38, 1e-4):
        assert choose(logits, seen, Sampling(temperature=temperature), generator) == 0
    assert choose(logits, seen, Sampling(repetition_penalty=1e-40), generator) == 0
    assert choose(logits, seen, Sampling(temperature=5.0, repetition_penalty=5.0), generator) in (0, 1, 2)
    assert choose(torch.full((3,), float("nan")), seen, Sampling(), generator) in (0, 1, 2)


def test_every_token_may_be_asked_for_by_another_thread(model: Model) -> None:
    threads = [ThreadPoolExecutor(1) for _ in range(2)]
    pieces = model.generate(SAY, None, Sampling(max_tokens=4, temperature=0), lambda: False)
    told, turn = "", 0
    while (piece := threads[turn % 2].submit(next, pieces, None).result()) is not None:
        told, turn = told + piece.text, turn + 1
    assert told == answer(model, Sampling(max_tokens=4, temperature=0))
    assert not any(thread.submit(torch.is_inference_mode_enabled).result() for thread in threads), (
        "none is left changed"
    )


def test_what_torch_cannot_compute_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> int:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batching, "choose", out_of_memory)
        with pytest.raises(Unavailable, match="could not compute") as caught:
            answer(model, Sampling())
    assert "out of memory" in caught.value.hint
    assert model.batcher.call(lambda: model.batcher.running) == 0 and answer(
        model, Sampling(max_tokens=3, temperature=0)
    ), "the next is answered"


def test_what_does_not_fit_and_who_comes_too_late_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="over the model's 512"):
        model.generate([{"role": "user", "content": "x " * 1000}], None, Sampling(), lambda: False)
    monkeypatch.setattr(Model, "most_waiting", 0)
    with pytest.raises(TooMany):
        model.generate(SAY, None, Sampling(), lambda: False)


def test_adapters_share_one_base_and_answer_as_plain_peft_does(model: Model, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    greedy = Sampling(max_tokens=6, temperature=0)
    base_says, base_means = answer(model, greedy), model.embed(["the answer"], None)
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model.base_path),
            LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
        )
        folders.append(tmp_path / f"a{seed}")
        made.save_pretrained(folders[-1])
    before = sum(p.numel() for p in model.adapters.model.parameters())
    told = [answer(model, greedy, str(folder)) for folder in folders]
    grown = sum(p.numel() for p in model.adapters.model.parameters()) - before
    assert told[0] != told[1] and grown < before, "two adapters weigh less than a second base"
    for folder, said in zip(folders, told, strict=True):
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model.base_path), folder)
        ids = model.tokenizer.apply_chat_template(
            SAY, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = plain.generate(**ids, max_new_tokens=6, do_sample=False)
        assert model.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True) == said
    assert answer(model, greedy) == base_says, "the base alone answers as before"
    assert model.embed(["the answer"], None) == base_means != model.embed(["the answer"], str(folders[0]))


def test_an_adapter_is_asked_with_the_template_that_it_was_trained_with(model: Model, tmp_path: Path) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "find_row", "arguments": '{"n": 1}'}}
    talk = [*SAY, {"role": "assistant", "content": "", "tool_calls": [called]}, {"role": "tool", "content": "found"}]
    own = model.tokenizer.chat_template.replace("{% for", "READY{% for", 1)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "chat_template.jinja").write_text(own)
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "chat_template.jinja").write_text(model.tokenizer.chat_template)
    assert model._rendered(SAY, str(tmp_path / "tuned")).startswith("READY")
    for adapter in (None, str(tmp_path / "same"), str(tmp_path / "nothing")):
        assert not model._rendered(SAY, adapter).startswith("READY")
        with pytest.raises(InvalidInput, match="no place for tools"):
            model._rendered(talk, adapter)
    (tmp_path / "tuned" / "chat_template.jinja").write_text(with_tools(model.tokenizer.chat_template))
    assert "<tool_call>" in model._rendered(talk, str(tmp_path / "tuned"))
    tokenizer = load_tokenizer(model.base_path, offline=True, adapter=str(tmp_path / "tuned"))
    assert "<tool_response>" in tokenizer.chat_template
