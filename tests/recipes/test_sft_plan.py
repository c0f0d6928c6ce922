"""The settings that are chosen: the rules that the field uses, whatever the model, the rows and the memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import InvalidInput
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import GIB, USABLE, Facts, Lengths, Machine, guessed_flops
from tunesmith.recipes.sft_plan import choose, flop_per_token, memory_parts

LORA, STANDARD, QLORA = get_recipe("lora"), get_recipe("standard"), get_recipe("qlora")


def model(size: float, context: int = 8192) -> ModelInfo:
    layers = 30
    hidden = max(64, int((size / (12 * layers)) ** 0.5))
    return ModelInfo("llama", "LlamaForCausalLM", int(size), int(size * 2), layers, hidden, 16, 49152, context,
                     layers * hidden * 21)  # fmt: skip


def facts(size: float = 135e6, rows: int = 150, memory: int = 16 * GIB, **more: object) -> Facts:
    given = {
        "machine": Machine("cpu", memory),
        "model": model(size),
        "num_rows": rows,
        "lengths": Lengths(60, 200, 240),
    }
    return Facts(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "low", "high"), [(70e9, 1e-5, 5e-5), (7e9, 1e-5, 5e-5), (6.9e9, 5e-5, 2e-4), (1e9, 5e-5, 2e-4),
                              (0.99e9, 1e-4, 5e-4), (135e6, 1e-4, 5e-4), (1e6, 1e-4, 5e-4)],
)  # fmt: skip
def test_learning_rate_depends_on_the_model(size: float, low: float, high: float) -> None:
    adapter = choose(LORA, {}, facts(size)).params["learning_rate"]
    whole = choose(STANDARD, {}, facts(size)).params["learning_rate"]
    assert low <= adapter <= high
    assert low * 0.0999 <= whole <= high * 0.1001 and whole == pytest.approx(adapter / 10, rel=0.06)


@pytest.mark.parametrize(
    ("rows", "low", "high"),
    [(1, 5, 10), (150, 5, 10), (999, 5, 10), (1000, 3, 5), (10_000, 3, 5), (10_001, 1, 3), (10**7, 1, 3)],
)
def test_epochs_depend_on_the_rows(rows: int, low: int, high: int) -> None:
    assert low <= choose(LORA, {}, facts(rows=rows)).params["epochs"] <= high


def test_every_choice_has_a_reason_and_nothing_given_is_touched() -> None:
    given = {"learning_rate": 3e-4, "batch_size": 3, "epochs": 2}
    choice = choose(LORA, given, facts())
    assert {name: choice.params[name] for name in given} == given
    assert not set(given) & set(choice.reasons)
    changed = {name for name, value in choice.params.items() if value != LORA.params().model_dump(mode="json")[name]}
    assert changed - set(given) <= set(choice.reasons)
    assert (
        "135M weights" not in choice.reasons.get("learning_rate", "")
        and "rows" in choice.reasons["eval_steps"] + "rows"
    )
    assert all(sentence.endswith(".") for sentence in choice.reasons.values())


def test_switched_off_it_leaves_the_defaults_and_still_estimates() -> None:
    choice = choose(LORA, {"epochs": 1}, facts(), auto=False)
    assert choice.reasons == {} and choice.params["learning_rate"] == 2e-4 and choice.params["epochs"] == 1
    assert choice.estimate["memory_bytes"] == sum(choice.estimate["memory_parts_bytes"].values())


@pytest.mark.parametrize("auto", [True, False])
def test_what_the_data_itself_holds_out_is_held_out(auto: bool) -> None:
    own = choose(LORA, {"validation_split": 0.3}, facts(rows=200, num_held_out=50), auto=auto)
    assert own.params["validation_split"] == 0.25
    assert own.reasons["validation_split"].startswith("The data itself holds out 50 of 200 rows")
    drawn = choose(LORA, {"validation_split": 0.3, "split_by": "content"}, facts(rows=200, num_held_out=50), auto=auto)
    assert drawn.params["validation_split"] == 0.3
    other = choose(LORA, {}, facts(rows=200, num_held_out=50, has_eval_dataset=True))
    assert other.params["validation_split"] == 0.0


@settings(max_examples=200)
@given(
    st.floats(1e6, 80e9),
    st.integers(1, 10**7),
    st.integers(1, 640),
    st.integers(8, 30_000),
    st.sampled_from([LORA, STANDARD, QLORA]),
)
def test_any_situation_gives_settings_that_can_run(
    size: float, rows: int, memory_gib: int, longest: int, recipe: object
) -> None:
    situation = facts(size, rows, memory_gib * GIB, lengths=Lengths(max(1, longest // 2), longest, longest))
    choice = choose(recipe, {}, situation)  # type: ignore[arg-type]
    params = choice.params
    assert params["max_length"] <= 8192 and params["max_length"] >= min(longest, 8192)
    effective = params["batch_size"] * params["gradient_accumulation_steps"]
    assert effective in (8, 16, 32)
    assert params["validation_split"] * rows <= max(2001, rows * 0.1 + 1)
    if params["batch_size"] > 1:
        assert memory_parts(recipe, params, situation)["total"] <= memory_gib * GIB * USABLE  # type: ignore[arg-type]
    assert (
        1
        <= params["eval_steps" if params["validation_split"] else "save_steps"]
        <= max(1, choice.estimate["total_steps"])
    )


def test_less_memory_means_smaller_batches_then_recomputed_activations() -> None:
    long = {"lengths": Lengths(4000, 8000, 8000)}
    kept = [
        choose(LORA, {"gradient_checkpointing": False}, facts(1e9, 5000, gib * GIB, **long)) for gib in (900, 200, 40)
    ]
    sizes = [choice.params["batch_size"] for choice in kept]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert [c.params["batch_size"] * c.params["gradient_accumulation_steps"] for c in kept] == [16, 16, 16]
    free = [choose(LORA, {}, facts(1e9, 5000, gib * GIB, **long)).params for gib in (900, 16)]
    assert [p["gradient_checkpointing"] for p in free] == [None, True]
    assert choose(LORA, {}, facts(7e9, memory=4 * GIB)).estimate["fits"] is False
    assert (
        choose(QLORA, {}, facts(7e9, memory=8 * GIB)).estimate["memory_bytes"]
        < choose(LORA, {}, facts(7e9, memory=8 * GIB)).estimate["memory_bytes"]
    )


def test_one_very_long_row_does_not_set_the_length_for_all() -> None:
    counted = Lengths(50, 200, 8000, is_counted=True)
    chosen = choose(LORA, {}, facts(lengths=counted))
    assert chosen.params["max_length"] == 256 and "estimate" not in chosen.reasons["max_length"]
    guessed = choose(LORA, {}, facts(lengths=counted._replace(is_counted=False)))
    assert guessed.params["max_length"] == 448 and "an estimate from characters" in guessed.reasons["max_length"]


def test_a_model_that_is_not_here_yet_is_no_obstacle() -> None:
    choice = choose(LORA, {}, facts(model=None))
    assert choice.params["learning_rate"] == 2e-4 and choice.estimate["fits"] is None


def test_every_problem_is_named_at_once_with_what_was_meant() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_params(LORA, {"lr": 1, "learning_rate": 0, "epoch": 1, "zzz": 1, "early_stopping": {"patience": 0}})
    details = {d["loc"]: d["message"] for d in caught.value.details}
    assert "did you mean learning_rate?" in details["hyperparameters.lr"]
    assert "did you mean epochs?" in details["hyperparameters.epoch"]
    assert details["hyperparameters.zzz"] == "there is no such setting"
    assert {"hyperparameters.learning_rate", "hyperparameters.early_stopping.patience"} <= set(details)
    with pytest.raises(InvalidInput, match="bf16"):
        try:
            check_params(LORA, {"bf16": True, "fp16": True})
        except InvalidInput as error:
            raise InvalidInput(error.details[0]["message"]) from error


@settings(max_examples=300)
@given(
    st.floats(1e5, 80e9),
    st.integers(1, 10**7),
    st.integers(8, 4000),
    st.sampled_from([LORA, STANDARD]),
    st.sampled_from([None, 1, 2, 7, 40, 5000]),
    st.integers(0, 50_000),
    st.booleans(),
)
def test_evaluations_and_checkpoints_take_at_most_a_tenth(
    size: float, rows: int, length: int, recipe: Any, max_steps: int | None, eval_rows: int, keeps_best: bool
) -> None:
    given = {"save_best_model": keeps_best} | ({"max_steps": max_steps} if max_steps else {})
    situation = facts(
        size, rows, 640 * GIB, lengths=Lengths(length, length, length), has_eval_dataset=eval_rows > 0, num_eval_rows=eval_rows
    )  # fmt: skip
    choice = choose(recipe, given, situation)
    params, total = choice.params, choice.estimate["total_steps"]
    evaluate, save = params["eval_steps"] or total, params["save_steps"]
    assert 1 <= evaluate <= total and min(total, 10) <= save <= total
    held_out = eval_rows or round(rows * params["validation_split"])
    batches = math.ceil(held_out / params["batch_size"])
    forward = 1 / 2 if recipe is LORA else 1 / 3
    evaluation = batches / params["gradient_accumulation_steps"] * forward
    state_bytes = choice.estimate["trained_weights"] * 12
    step_s = params["batch_size"] * params["gradient_accumulation_steps"] * min(length, params["max_length"])
    step_s *= flop_per_token(recipe, params, situation.model) / guessed_flops("cpu")  # type: ignore[arg-type]
    step_s = max(step_s, 30 * 0.002 * params["gradient_accumulation_steps"])
    checkpoint = (0.05 + state_bytes / 300e6) / step_s
    before_the_end = (math.ceil(total / evaluate) - 1) * (evaluation + checkpoint * keeps_best)
    before_the_end += (math.ceil(total / save) - 1) * checkpoint
    assert before_the_end <= 0.1 * total + 1e-6
    assert evaluate >= total / 10 and save >= total / 10


def test_a_tiny_run_saves_and_says_why() -> None:
    choice = choose(LORA, {"max_steps": 8}, facts(size=3e6, rows=40))
    assert choice.params["save_steps"] == 8 and choice.params["eval_steps"] == 8
    assert choice.reasons["save_steps"] == "Once, at the end: a run of 8 steps needs no more."
    some = choose(LORA, {"max_steps": 80}, facts(size=1e9, rows=4000)).reasons["eval_steps"]
    assert some.startswith("Every ") and "at most a tenth of the time goes to evaluations and checkpoints" in some
    long = choose(LORA, {"epochs": 3}, facts(size=1e9, rows=200_000))
    assert "About ten checkpoints in" in long.reasons["save_steps"]


@pytest.mark.parametrize(
    ("rows", "given", "held_out"),
    [(10**6, {"max_steps": 10}, 32), (10**6, {"max_steps": 1}, 20), (10**6, {"max_steps": 10, "batch_size": 100}, 100),
     (5 * 10**7, {"max_steps": 5}, 20), (10**6, {"max_steps": 10**6}, 2000), (150, {"max_steps": 5}, 15), (10**6, {}, 2000)],
)  # fmt: skip
def test_few_steps_hold_few_rows_out(rows: int, given: dict[str, Any], held_out: int) -> None:
    choice = choose(LORA, given, facts(rows=rows))
    assert round(choice.params["validation_split"] * rows) == held_out
    assert choice.reasons["validation_split"].endswith(".")


def test_what_a_file_holds_out_is_a_share_whatever_is_skipped() -> None:
    """Of 100 rows, 90 of them for testing, 85 cannot be used; of three million rows one is for testing."""
    few = choose(LORA, {}, facts(rows=15, num_held_out=90, num_file_rows=100))
    assert few.params["validation_split"] == 0.9 and "90 of 100 rows" in few.reasons["validation_split"]
    one = choose(LORA, {}, facts(rows=3_000_000, num_held_out=1))
    assert 0 < one.params["validation_split"] < 1e-6
    beside = choose(LORA, {}, facts(rows=100, num_held_out=20, has_eval_dataset=True))
    assert beside.params["validation_split"] == 0.0 and "are left out" in beside.reasons["validation_split"]
    assert beside.estimate == choose(LORA, {}, facts(rows=80, has_eval_dataset=True)).estimate
