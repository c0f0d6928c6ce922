"""What is told of a setting: everything that a form needs, from the parameter class alone; and how long a run will take."""

from __future__ import annotations

import pytest

from tests.parameters import PAGE, page
from tests.recipes.test_sft_plan import LORA, QLORA, STANDARD, facts
from tunesmith.core.errors import InvalidInput
from tunesmith.core.recipe import Recipe
from tunesmith.recipes.catalog import RECIPES
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.describing import GROUPS, Setting, describe
from tunesmith.recipes.duration import Pace, duration, guessed_pace
from tunesmith.recipes.plans import Lengths
from tunesmith.recipes.sft_plan import choose


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.parameters and look at the difference"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_each_setting_has_all_that_a_form_needs(recipe: Recipe) -> None:
    settings = describe(recipe.params)
    assert {setting.name.partition(".")[0] for setting in settings} == set(recipe.params.model_fields)
    for setting in settings:
        assert setting.group in GROUPS and setting.title and setting.doc.endswith("."), setting.name
        assert setting.title[0].islower() is False or setting.name in ("bf16", "fp16"), setting.title
        if setting.kind == "choice":
            assert setting.choices


@pytest.mark.parametrize(
    "setting", [s for s in describe(LORA.params) if s.kind in ("number", "integer")], ids=lambda s: s.name
)
def test_what_is_told_of_a_range_is_what_is_checked(setting: Setting) -> None:
    """A value at the edge is taken, one beyond it is refused at that very place."""

    def given(value: float) -> dict[str, object]:
        first, dot, rest = setting.name.partition(".")
        exact = int(value) if setting.kind == "integer" else value
        return {first: {rest: exact} if dot else exact}

    edges = [
        (setting.minimum, -1, True),
        (setting.maximum, 1, True),
        (setting.above, -1, False),
        (setting.below, 1, False),
    ]
    for edge, way, taken in edges:
        if edge is None:
            continue
        if taken:
            check_params(LORA, given(edge))
        with pytest.raises(InvalidInput) as caught:
            check_params(LORA, given(edge + (way if taken else 0)))
        assert caught.value.details[0]["loc"] == f"hyperparameters.{setting.name}"
    if setting.usual:
        for value in setting.usual:
            check_params(LORA, given(value))


def test_standard_has_its_own_learning_rate() -> None:
    lora, standard = (next(s for s in describe(r.params) if s.name == "learning_rate") for r in (LORA, STANDARD))
    assert lora.default == pytest.approx(10 * standard.default) and lora.usual != standard.usual


def test_time_follows_rows_model_and_pace() -> None:
    pace = Pace(100e9, 1.5, "Measured.")

    def seconds(recipe: Recipe, situation: object, **given: object) -> float:
        choice = choose(recipe, {"max_length": 512, "gradient_checkpointing": False, **given}, situation)  # type: ignore[arg-type]
        told = duration(recipe, choice.params, situation, choice.estimate["total_steps"], pace)  # type: ignore[arg-type]
        low, high = told["duration_range_s"]
        assert low < told["duration_s"] < high and told["duration_from"] == "Measured."
        return float(told["duration_s"])

    lengths = Lengths(100, 200, 240, mean=120.0)
    small, large = facts(135e6, 1000, lengths=lengths), facts(1.35e9, 1000, lengths=lengths)
    base = seconds(LORA, small, epochs=1)
    # 900 rows of 120 tokens, four operations a weight and token
    assert base == pytest.approx(900 * 120 * 4 * 135e6 / 100e9, rel=0.1)
    assert seconds(LORA, small, epochs=4) == pytest.approx(4 * base, rel=0.02)
    assert seconds(LORA, large, epochs=1) == pytest.approx(10 * base, rel=0.1)
    assert seconds(STANDARD, small, epochs=1) == pytest.approx(1.5 * base, rel=0.1)
    assert seconds(LORA, small, epochs=1, gradient_checkpointing=True) == pytest.approx(base * 4 / 3, rel=0.01)
    assert seconds(LORA, small, epochs=1, max_length=60) == pytest.approx(base / 2, rel=0.02)
    assert seconds(LORA, small, max_steps=10, batch_size=4, gradient_accumulation_steps=1) < base


def test_what_is_not_known_is_not_guessed() -> None:
    for situation, what in ((facts(model=None), "model"), (facts(lengths=None), "rows' lengths")):
        choice = choose(QLORA, {}, situation)
        told = duration(QLORA, choice.params, situation, choice.estimate["total_steps"], guessed_pace("cpu"))
        assert told["duration_s"] is None and what in told["duration_from"]
    assert guessed_pace("cuda").flops > guessed_pace("cpu").flops
