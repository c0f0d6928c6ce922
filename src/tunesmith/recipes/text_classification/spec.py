"""Text classification: an encoder, or a causal model, learns to put labels on texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tunesmith.core.acting import Scope
from tunesmith.core.completion import Finished, Result
from tunesmith.core.metrics import MetricSpec
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.classifiers import TEXT_CLASSIFIER
from tunesmith.recipes.hyperparameters import TrainerParams, about
from tunesmith.recipes.text_classification.plan import choose


class TextClassificationParams(TrainerParams):
    """Settings of the `text-classification` recipe."""

    learning_rate: float = Field(1e-4, gt=0, le=1.0, json_schema_extra=about("basic", usual=(1e-5, 5e-4)))
    """Peak learning rate: how big each step is. Small encoders bear more than large ones, a frozen model's head more still."""
    batch_size: int = Field(32, ge=1, le=4096, json_schema_extra=about("batching", "rows", usual=(8, 128)))
    """Rows per micro-batch and device: more are faster and take more memory."""
    weight_decay: float = Field(0.01, ge=0.0, le=1.0, json_schema_extra=about("optimizer", usual=(0, 0.1)))
    """Decoupled weight decay: pulls weights towards zero, against learning by heart."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr", "polynomial"] = (
        Field("linear", title="Learning-rate schedule", json_schema_extra=about("optimizer"))
    )
    """How the learning rate falls after warm-up."""
    sharding: Literal["none"] = Field("none", title="Sharding over devices", json_schema_extra=about("precision"))
    """Classifiers are trained whole on each device."""
    weights: Literal["all", "lora", "frozen"] = Field("all", title="What is trained", json_schema_extra=about("basic"))
    """`all` weights learn the most; `lora` trains small adapters and merges them at the end; `frozen` trains the head only, on
    vectors that are computed once for each row."""
    head_epochs: int = Field(
        10, ge=0, le=1000, title="Passes for the head first", json_schema_extra=about("basic", "passes", usual=(0, 20))
    )
    """With `all` and `lora`: passes in which a new head is trained on vectors of the unchanged model before the rest moves; these
    cost about a third of one pass in all. 0 starts from a random head."""
    max_length: int = Field(
        256, ge=4, le=1_048_576, title="Maximum text length", json_schema_extra=about("data", "tokens", usual=(64, 512))
    )
    """Tokens of a text; longer texts are cut at the end, and counted."""
    packing: bool = Field(True, json_schema_extra=about("batching"))
    """Lay rows end to end without padding; attention never crosses from one row to the next, so results are equal."""
    lora_r: int = Field(16, ge=1, le=1024, title="LoRA rank (r)", json_schema_extra=about("adapter", usual=(4, 128)))
    """With `lora`: rank of the adapters, how much they can learn."""
    lora_alpha: int = Field(32, ge=1, le=4096, title="LoRA alpha", json_schema_extra=about("adapter", usual=(8, 256)))
    """With `lora`: scale; the adapter's output is multiplied by lora_alpha / lora_r."""
    lora_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, title="LoRA dropout", json_schema_extra=about("adapter", usual=(0, 0.1))
    )
    """With `lora`: share of the adapter's input that is dropped at random."""
    class_weights: Literal["none", "balanced"] = Field("none", json_schema_extra=about("data"))
    """`balanced` gives rare labels as much weight as frequent ones; probabilities then say less about how frequent they are."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, json_schema_extra=about("optimizer", "share", usual=(0, 0.2)))
    """Share of each target that is spread over all labels, against overconfidence and wrong labels."""
    multi_label: Literal["auto"] | bool = Field("auto", title="Several labels a text", json_schema_extra=about("data"))
    """Whether a text may have several labels, or none. `auto`: where label cells are lists, or `label_separator` is set."""
    label_separator: str | None = Field(None, min_length=1, max_length=10, json_schema_extra=about("data"))
    """What stands between several labels in one cell, such as `|`; lists need none."""
    unsure_below: Literal["auto"] | float | None = Field("auto", json_schema_extra=about("basic", "probability"))
    """Answers whose best label is less probable than this are marked unsure. `auto` takes the lowest value at which held-out
    answers are right as often as `sure_accuracy` asks; null never marks any."""
    sure_accuracy: float = Field(
        0.95, gt=0.0, le=1.0, title="Accuracy when sure", json_schema_extra=about("basic", "share", usual=(0.9, 0.99))
    )
    """With `unsure_below: auto`: share of right answers wanted among those that are not marked unsure."""
    find_label_errors: bool = Field(True, title="Look for wrong labels", json_schema_extra=about("saving"))
    """List rows whose label is probably wrong in the report. Takes one more pass over the training rows, without learning."""


METRICS = (
    MetricSpec(name="loss", title="Loss", unit="nats a row", better="lower"),
    MetricSpec(name="accuracy", title="Accuracy", unit="share", better="higher", is_primary=True),
    MetricSpec(name="macro_f1", title="Macro F1", unit="share", better="higher"),
    MetricSpec(name="ece", title="Calibration error", unit="share", better="lower"),
)
"""With several labels a text, `accuracy` is the share of rows all of whose labels are right (exact match), and the loss is binary
cross-entropy averaged over the labels. Held-out losses are without class weights and smoothing, so that runs compare."""


def on_completed(finished: Finished) -> Sequence[Result]:
    """Put the model into the registry, with its scores and their intervals."""
    from tunesmith.recipes.text_classification.result import results_of

    return results_of(finished, RECIPE.produces)


RECIPE = Recipe(
    name="text-classification",
    title="Text classification",
    sentence="Teaches an encoder or a language model to put labels on texts: intents, topics, sentiment, spam.",
    params=TextClassificationParams,
    train="tunesmith.recipes.text_classification.train:train",
    permission=Scope.TRAIN,
    tasks=("text-classification",),
    data=DataContract(shapes=("text_label",)),
    metrics=METRICS,
    outputs=(Output(type="model", folder="classifier_model", kinds=(TEXT_CLASSIFIER,)),),
    base_tasks=(),
    plan=choose,
    on_completed=on_completed,
)
