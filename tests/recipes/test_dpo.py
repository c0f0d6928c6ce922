"""DPO: its losses by hand, what its reference is, and that it learns which answer is better."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.recipes.ground import Ground, events, losses, params_of, train
from tests.tiny import make_tokenizer
from tunesmith.core.errors import BadData, InvalidInput, JobFailure
from tunesmith.core.events import StepEvent
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.dataprep.conversion import convert_pair
from tunesmith.engine.forward import Forward
from tunesmith.engine.lora import adapter_off, lora_layers
from tunesmith.engine.loss import token_losses
from tunesmith.engine.packing import pack
from tunesmith.recipes.blocks.loading import load_tokenizer
from tunesmith.recipes.catalog import get_kind, get_recipe, kind_of
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.dpo import pair_task, reference
from tunesmith.recipes.dpo.losses import pair_scores
from tunesmith.recipes.dpo.pairs import load_pairs
from tunesmith.recipes.dpo.spec import DpoParams
from tunesmith.worker.run import Run

MAPPING = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
PAIRS = [{"prompt": f"what is {i} of {i * 7 % 11}", "chosen": f"the answer of user {i}" + " and so on" * (i % 4),
          "rejected": f"question {i * 3} assistant" * (1 + i % 2)} for i in range(40)]  # fmt: skip
PARAMS: dict[str, Any] = {"max_steps": 6, "batch_size": 4, "lora_r": 4, "learning_rate": 5e-3, "bf16": False, "max_length": 64,
                          "comparison_questions": 0, "eval_steps": 3}  # fmt: skip


def run_of(
    ground: Ground, rows: list[dict[str, Any]] = PAIRS, mapping: dict[str, str] | None = None, **params: Any
) -> Run:
    return ground.run(rows, recipe="dpo", shape="preference", mapping=mapping or MAPPING, **{**PARAMS, **params})


def told(run: Run) -> dict[str, float]:
    return {name: value for event in events(run, "metrics") for name, value in event.values.items()}


# -- losses -----------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, -math.log(sigmoid(0.1 * 5))),
        ({"beta": 0.5}, -math.log(sigmoid(0.5 * 5))),
        ({"label_smoothing": 0.2}, -0.8 * math.log(sigmoid(0.5)) - 0.2 * math.log(sigmoid(-0.5))),
        ({"loss": "hinge"}, 0.5),
        ({"loss": "hinge", "beta": 0.3}, 0.0),
        ({"loss": "ipo", "beta": 0.25}, (2 / 4 - -3 / 6 - 2) ** 2),
        ({"loss": "robust", "label_smoothing": 0.1},
         (-0.9 * math.log(sigmoid(0.5)) + 0.1 * math.log(sigmoid(-0.5))) / 0.8),
        ({"rpo_alpha": 2.0}, -math.log(sigmoid(0.5)) + 2.0 * 10 / 4),
    ],
)  # fmt: skip
def test_losses_are_those_of_the_papers(settings: dict[str, Any], expected: float) -> None:
    log_probs, base = torch.tensor([[-10.0, -20.0]]), torch.tensor([[-12.0, -17.0]])
    params = DpoParams(**settings)
    found = pair_scores(params, log_probs, base, torch.tensor([[4.0, 6.0]]))
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)
    values = {name: float(value) for name, value in found.values.items()}
    beta = params.beta
    assert values == pytest.approx({"rewards_chosen": 2 * beta, "rewards_rejected": -3 * beta, "rewards_margin": 5 * beta,
                                    "rewards_accuracy": 1.0}, rel=1e-5)  # fmt: skip


@pytest.mark.parametrize("settings", [{"loss": "hinge", "label_smoothing": 0.1}, {"label_smoothing": 0.5}, {"beta": 0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check_params(get_recipe("dpo"), settings)


@pytest.mark.parametrize("is_trained", [False, True])
def test_token_losses_and_their_gradients_are_those_of_torch(is_trained: bool) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(700, 16), nn.Linear(16, 50, bias=False)
    head.requires_grad_(is_trained)
    targets, weights = torch.randint(50, (700,)), torch.randn(700)
    grads = []
    for compute in (token_losses, lambda h, w, t: nn.functional.cross_entropy(h @ w.T, t, reduction="none")):
        x = hidden.clone().requires_grad_()
        head.zero_grad()
        found = compute(x, head.weight, targets)
        (found * weights).sum().backward()
        grads.append((found.detach(), x.grad, head.weight.grad.clone() if is_trained else None))
    for ours, theirs in zip(*grads, strict=True):
        if ours is not None:
            assert torch.allclose(ours, theirs, atol=1e-5)


# -- rows -------------------------------------------------------------------------------------------------------------


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)]


def test_the_three_ways_to_write_a_pair_are_one() -> None:
    as_text = {"prompt": "a?", "chosen": "yes", "rejected": "no"}
    as_lists = {"prompt": messages("a?"), "chosen": messages("", "yes")[1:], "rejected": messages("", "no")[1:]}
    whole = {"chosen": messages("a?", "yes"), "rejected": messages("a?", "no")}
    found = [convert_pair(as_text, MAPPING), convert_pair(as_lists, MAPPING)]
    found.append(convert_pair(whole, {name: name for name in whole}))
    assert found[0] == found[1] == found[2]
    assert found[0].rejected.messages == messages("a?", "no") and found[0].rejected.learned == [False, True]


def test_what_both_conversations_share_is_not_learned() -> None:
    row = {"chosen": messages("a", "b", "c", "d"), "rejected": messages("a", "b", "c", "e", "f", "g")}
    pair = convert_pair(row, {name: name for name in row})
    assert pair.chosen.learned == [False, False, False, True]
    assert pair.rejected.learned == [False, False, False, True, False, True]
    row = {"chosen": messages("a", "b", "c", "d"), "rejected": messages("a", "b")}
    pair = convert_pair(row, {name: name for name in row})
    assert pair.chosen.learned == [False, True, False, True], "one is the beginning of the other"
    assert pair.rejected.learned == [False, True]
    with pytest.raises(BadData, match="no prompt"):
        convert_pair({"chosen": "a", "rejected": "b"}, {"chosen": "chosen", "rejected": "rejected"})
    with pytest.raises(BadData, match="worse answer is empty"):
        convert_pair({**PAIRS[0], "rejected": " "}, MAPPING)


def test_both_answers_are_learned_up_to_their_end(ground: Ground) -> None:
    run = run_of(ground)
    tokenizer = load_tokenizer(run.spec.model.path)
    pairs = load_pairs(run, run.spec.dataset, tokenizer, params_of(run))
    assert len(pairs) == 40 and pairs.numbers.tolist() == list(range(40))
    (good, good_labels), (bad, bad_labels) = pairs.rows(np.array([1]))
    prompt = make_tokenizer().apply_chat_template(
        messages(PAIRS[1]["prompt"]), tokenize=False, add_generation_prompt=True
    )
    for ids, labels, text in ((good, good_labels, PAIRS[1]["chosen"]), (bad, bad_labels, PAIRS[1]["rejected"])):
        assert tokenizer.decode(ids[labels == -100]) == prompt
        assert tokenizer.decode(ids[labels != -100]) == f"{text}<|im_end|>"
    assert pairs.answer_tokens[1].tolist() == [(good_labels != -100).sum(), (bad_labels != -100).sum()]
    assert pairs.lengths[1] == len(good) + len(bad)


def test_rows_that_cannot_be_compared_are_named_or_skipped(ground: Ground) -> None:
    rows = [*PAIRS[:6], {**PAIRS[6], "rejected": ""}, {**PAIRS[7], "chosen": "same", "rejected": "same"}, *PAIRS[8:]]
    with pytest.raises(JobFailure, match=r"row 7.*The worse answer is empty") as failure:
        train(run_of(ground, rows))
    assert failure.value.details[0]["row"] == 7
    run = run_of(ground, rows, skip_bad_rows=True)
    assert train(run) == "completed" and told(run)["rows_skipped"] == 1
    notices = [event.message for event in events(run, "notice")]
    assert any("row 7" in text for text in notices) and any("two answers that are the same" in text for text in notices)


def test_other_rows_are_refused(ground: Ground) -> None:
    with pytest.raises(JobFailure, match="dpo needs preference"):
        train(ground.run(recipe="dpo", **PARAMS))


def test_methods_that_learn_one_answer_say_so(ground: Ground) -> None:
    settings = {name: PARAMS[name] for name in ("max_steps", "batch_size", "max_length", "comparison_questions")}
    run = ground.run(PAIRS, shape="preference", mapping=MAPPING, rated_rows="good", **settings)
    assert train(run) == "completed"
    (notice,) = [event for event in events(run, "notice") if event.code == "rejected_not_used"]
    assert "worse ones are not used" in notice.message and "dpo" in notice.hint


# -- training ---------------------------------------------------------------------------------------------------------


def test_it_learns_which_answers_are_better(ground: Ground) -> None:
    run = run_of(ground, max_steps=12)
    assert train(run) == "completed"
    steps = {event.step: event.values for event in events(run, "step")}
    assert steps[1]["loss"] == pytest.approx(math.log(2), abs=1e-5), "model and reference are one before the first step"
    assert steps[1]["rewards_margin"] == pytest.approx(0, abs=1e-5)
    assert steps[12]["rewards_accuracy"] == 1 and steps[12]["rewards_margin"] > 0.1 and steps[12]["loss"] < 0.65
    final = told(run)
    assert final["eval_rewards_accuracy"] == 1 and final["eval_loss"] < 0.65
    assert set(events(run, "evaluation")[-1].values) == {metric.name for metric in get_recipe("dpo").metrics}
    folder = run.dir.artifacts / "dpo_model"
    assert kind_of(folder) is get_kind("adapter") and (folder / "validation.json").is_file()


def test_all_weights_learn_too(ground: Ground) -> None:
    run = run_of(ground, adapter=False, learning_rate=1e-3, loss="ipo")
    assert train(run) == "completed"
    folder = run.dir.artifacts / "dpo_model"
    assert kind_of(folder) is get_kind("model")
    assert losses(run)[0] == pytest.approx(25, rel=1e-4) and losses(run)[-1] < 25, (
        "(1 / 2β)² where nothing is learned yet"
    )


def test_without_a_reference_answers_are_compared_as_they_are(ground: Ground) -> None:
    run = run_of(ground, reference_free=True, max_steps=1)
    assert train(run) == "completed"
    values = events(run, "step")[0].values
    assert values["rewards_chosen"] < -0.1 and not list((ground.folder / "cache").rglob("*.reference.npy"))


def test_the_reference_is_the_base_without_its_adapter(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept numbers, those of the whole model, and those of a trained adapter switched off are the same."""
    seen: dict[str, Any] = {}
    plain = pair_task.PairTask.__init__

    def keep(task: Any, *parts: Any) -> None:
        plain(task, *parts)
        seen["task"] = task

    monkeypatch.setattr(pair_task.PairTask, "__init__", keep)
    found = []
    for adapter in (True, False):
        run = run_of(ground, adapter=adapter, max_steps=3, save_best_model=False)
        assert train(run) == "completed"
        found.append(np.array(seen["task"].train.reference))
        if adapter:
            forward: Forward = seen["task"].forward
            assert any(layer.lora_b.abs().sum() > 0 for _, layer in lora_layers(forward.model))
            rows = pack(seen["task"].train.rows.rows(np.arange(40)))
            trained, _ = forward.score_rows(rows)
            with adapter_off(forward.model):
                off, _ = forward.score_rows(rows)
            assert pytest.approx(found[0], rel=1e-5) == -off.numpy().reshape(2, -1).T
            assert (trained - off).abs().max() > 0.05
        for path in (ground.folder / "cache").rglob("*.reference.npy"):
            path.unlink()
    assert found[0] == pytest.approx(found[1], rel=1e-5) and (found[0] < -1).all()


def test_the_reference_is_computed_once(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(run_of(ground, max_steps=1)) == "completed"

    def never(*_: Any) -> str:
        raise AssertionError("it is kept")

    monkeypatch.setattr(reference, "_compute", never)
    assert train(run_of(ground, max_steps=2, beta=0.3)) == "completed"
    with pytest.raises(AssertionError, match="it is kept"):
        train(run_of(ground, max_steps=2, system_prompt="user"))


def test_a_paused_run_goes_on_to_the_last_digit(ground: Ground) -> None:
    settings = {"lora_dropout": 0.1, "logging_steps": 2, "rpo_alpha": 0.5}
    whole, paused = run_of(ground, **settings), run_of(ground, **settings)
    assert train(whole) == "completed"

    def look(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 2:
            write_atomic(paused.dir.control, Control(pause=True))

    paused.observe(look)
    assert train(paused) == "paused"
    write_atomic(paused.dir.control, Control())
    again = ground.again(paused)
    assert train(again) == "completed"
    steps = [{event.step: event.values for event in events(run, "step")} for run in (whole, again)]
    assert steps[0] == steps[1]
    files = [run.dir.artifacts / "dpo_model" / "adapter_model.safetensors" for run in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_can_be_paused_while_the_reference_is_computed(ground: Ground) -> None:
    run = run_of(ground, max_steps=1)
    write_atomic(run.dir.control, Control(pause=True))
    assert train(run) == "paused" and not list(Path(run.spec.cache_dir).rglob("*.reference.npy"))
