"""DPO (arXiv:2305.18290): learns from pairs of a better and a worse answer to the same prompt."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, MetricSpec, Output, Recipe
from tunesmith.recipes.dpo.plan import choose
from tunesmith.recipes.hyperparameters import AdapterFields, LanguageParams, about
from tunesmith.recipes.language_models import ADAPTER, LANGUAGE_MODEL

METRICS = (
    MetricSpec(name="loss", title="Loss", better="lower", is_primary=True),
    MetricSpec(name="rewards_accuracy", title="Pairs told apart", unit="share", better="higher"),
    MetricSpec(name="rewards_margin", title="Reward margin", unit="nats", better="higher"),
    MetricSpec(name="rewards_chosen", title="Reward of chosen answers", unit="nats", better="higher"),
    MetricSpec(name="rewards_rejected", title="Reward of rejected answers", unit="nats", better="lower"),
)


class DpoParams(LanguageParams, AdapterFields):
    """Settings of the `dpo` recipe."""

    beta: float = Field(0.1, gt=0.0, le=100.0, json_schema_extra=about("basic", usual=(0.01, 0.5)))
    """How closely the model stays to the reference; higher is closer. With `ipo` it is that paper's tau."""
    adapter: bool = Field(True, title="Train an adapter", json_schema_extra=about("adapter"))
    """Train a LoRA adapter, and the base without it is the reference; otherwise all weights are trained."""
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = Field("sigmoid", json_schema_extra=about("basic"))
    """`sigmoid` is DPO itself; `ipo` overfits sure pairs less (arXiv:2310.12036), `hinge` leaves pairs alone that are told apart
    (arXiv:2305.10425), `robust` is for labels of which some are wrong (arXiv:2403.00409)."""
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=0.5, title="Share of wrong labels", json_schema_extra=about("basic", "share", usual=(0, 0.2))
    )
    """How many pairs are probably the wrong way round; for `sigmoid` (conservative DPO) and `robust`."""
    reference_free: bool = Field(False, title="No reference", json_schema_extra=about("basic"))
    """Compare the answers by the model alone, as if all were equally likely under the reference."""
    rpo_alpha: float | None = Field(
        None, gt=0.0, le=100.0, title="Weight of the chosen answer", json_schema_extra=about("basic", usual=(0.1, 1))
    )
    """Learn the better answer as in supervised fine-tuning too, with this weight and per token (RPO, arXiv:2404.19733)."""
    learning_rate: float = Field(1e-5, gt=0, le=1.0, json_schema_extra=about("basic", usual=(5e-7, 5e-5)))
    """Peak learning rate: how big each step is. Far lower than in supervised fine-tuning: pairs push the model away from what it
    says, and large steps break it. All weights take about a tenth of an adapter's."""
    epochs: float = Field(1.0, gt=0, le=1000, json_schema_extra=about("basic", "passes", usual=(1, 3)))
    """Passes over the training rows. Pairs are learned by heart sooner than answers."""
    warmup_ratio: float = Field(
        0.1, ge=0.0, le=1.0, title="Warm-up share", json_schema_extra=about("optimizer", "share", usual=(0, 0.1))
    )
    """Share of all steps used for warm-up."""

    @model_validator(mode="after")
    def _labels_are_smoothed(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing is for loss sigmoid and robust; with {self.loss} set it to 0.")
        return self


RECIPE = Recipe(
    name="dpo",
    title="DPO (preferences)",
    sentence="Learns which of two answers is better, from pairs of a chosen and a rejected answer. After LoRA or Standard.",
    params=DpoParams,
    train="tunesmith.recipes.dpo.train:train",
    permission=Scope.TRAIN,
    tasks=("text-generation",),
    data=DataContract(shapes=("preference",)),
    metrics=METRICS,
    outputs=(Output(type="model", folder="dpo_model", kinds=(ADAPTER, LANGUAGE_MODEL)),),
    plan=choose,
)
