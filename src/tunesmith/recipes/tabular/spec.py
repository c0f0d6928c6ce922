"""Models of tables: gradient-boosted trees and a linear baseline that learn a column from the others."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, MetricSpec, Output, Recipe
from tunesmith.recipes.hyperparameters import about
from tunesmith.recipes.tabular.kind import TABULAR
from tunesmith.recipes.tabular.plan import choose

Model = Literal["linear", "lightgbm", "catboost"]
Metric = Literal["auto", "accuracy", "roc_auc", "log_loss", "f1_macro", "rmse", "mae", "r2"]
ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
NEEDED = ("lightgbm", "catboost", "sklearn", "skrub", "pandas")


class TabularParams(BaseModel):
    """Settings of the `tabular` recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field("", max_length=1000, title="Column to predict", json_schema_extra=about("basic"))
    """The column that the model learns to predict; empty takes the one that the dataset's mapping calls `label`."""
    task: Literal["auto", "classification", "regression"] = Field("auto", json_schema_extra=about("basic"))
    """Predict one of several classes, or a number. `auto` guesses from the values of the target, and says what it took."""
    exclude_columns: list[ColumnName] = Field([], max_length=10_000, json_schema_extra=about("data"))
    """Columns that the model does not see: identifiers, and what is known only after the target is."""
    column_types: dict[str, Literal["number", "category", "text", "date", "ignore"]] = Field(
        {}, title="Types of columns", json_schema_extra=about("data")
    )
    """Types by column, where the guess is wrong. A column named here is used even when it looks like an identifier."""
    text_columns: Literal["auto"] | list[ColumnName] = Field("auto", json_schema_extra=about("data"))
    """Columns whose words matter (tf-idf of character n-grams, reduced by SVD); `auto` guesses by length and variety."""
    models: list[Model] = Field(["linear", "lightgbm", "catboost"], min_length=1, json_schema_extra=about("basic"))
    """Kinds of models to train. What they predict is mixed with the weights that score best on rows they did not learn."""
    metric: Metric = Field("auto", title="Score that counts", json_schema_extra=about("basic"))
    """What the weights of the mixture are chosen by; `auto` takes log loss for classes and RMSE for numbers."""
    folds: int = Field(5, ge=2, le=20, json_schema_extra=about("data", "folds", usual=(3, 10)))
    """Parts of the training rows: each model is trained once per part, on all the others, and scored on that part."""
    split: Literal["random", "group", "time"] = Field("random", json_schema_extra=about("data"))
    """How rows are kept apart: `random` (equal rows stay together), `group` (rows with the same `group_column` stay together),
    `time` (always earlier rows to learn from, later ones to be scored on)."""
    group_column: str = Field("", max_length=1000, json_schema_extra=about("data"))
    """With `split: group`: the customer, patient or machine that rows belong to. The model does not see it."""
    time_column: str = Field("", max_length=1000, json_schema_extra=about("data"))
    """With `split: time`: the column of dates, or of numbers that rise with time."""
    validation_split: float = Field(
        0.15, ge=0.0, lt=0.9, title="Held-out share", json_schema_extra=about("data", "share", usual=(0.1, 0.3))
    )
    """Share of the rows that nothing is learned from or chosen by; final scores are measured on them. 0 holds none out."""
    time_limit_s: float | None = Field(
        600, gt=0, le=30 * 86400, title="Time limit", json_schema_extra=about("basic", "seconds", usual=(30, 3600))
    )
    """Training time over all attempts, shared out over models and folds; one that runs out keeps its best iteration. Absent: no
    limit, and the same result whenever it is run."""
    max_iterations: int = Field(
        2000,
        ge=1,
        le=100_000,
        title="Maximum iterations",
        json_schema_extra=about("basic", "trees", usual=(500, 10_000)),
    )
    """Trees of one model; early stopping usually ends sooner."""
    early_stopping_rounds: int = Field(
        50, ge=1, le=10_000, title="Patience", json_schema_extra=about("saving", "iterations", usual=(20, 200))
    )
    """Iterations without a better score on the fold's own held-out rows before a model stops."""
    learning_rate: float | None = Field(None, gt=0, le=1, json_schema_extra=about("basic", usual=(0.01, 0.3)))
    """How much each tree counts. Absent: 0.05, or more where the time limit leaves few iterations."""
    class_weight: Literal["none", "balanced"] = Field("none", json_schema_extra=about("basic"))
    """`balanced` gives rare classes as much weight as frequent ones; probabilities then say less about how frequent they are."""
    unsure_below: float = Field(0.0, ge=0.0, lt=1.0, title="Unsure below", json_schema_extra=about("basic", "share"))
    """The answer is `unsure` where the likeliest class is less probable than this; 0 always answers."""
    drop_missing_target: bool = Field(False, title="Skip rows without target", json_schema_extra=about("data"))
    """Leave out rows whose target is missing, and count them; otherwise such data is refused."""
    rare_classes: Literal["refuse", "drop"] = Field("refuse", json_schema_extra=about("data"))
    """Classes with fewer rows than folds: refuse them, or leave their rows out and say which."""
    importance: bool = Field(True, title="Measure what columns matter", json_schema_extra=about("saving"))
    """Shuffle each column in turn and measure how much worse the predictions get, with 95 % intervals."""
    seed: int = Field(42, ge=0, le=2**32 - 1, json_schema_extra=about("data"))
    """Chooses the folds and the held-out rows, and seeds the models."""

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[Model]) -> list[Model]:
        return list(dict.fromkeys(models))

    @model_validator(mode="after")
    def _fits_together(self) -> TabularParams:
        if self.split == "group" and not self.group_column:
            raise ValueError("split: group needs group_column.")
        if self.split == "time" and not self.time_column:
            raise ValueError("split: time needs time_column.")
        both = sorted({self.target, self.group_column} & {*self.exclude_columns} - {""})
        if both and self.target in both:
            raise ValueError(f"{self.target} is the target and cannot be excluded.")
        return self


METRICS = (
    MetricSpec(name="loss", title="Loss", unit="nats, or standard deviations of the target", is_primary=True),
    MetricSpec(name="log_loss", title="Log loss", unit="nats"),
    MetricSpec(name="accuracy", title="Accuracy", unit="share", better="higher"),
    MetricSpec(name="roc_auc", title="ROC AUC", better="higher"),
    MetricSpec(name="f1_macro", title="Macro F1", better="higher"),
    MetricSpec(name="calibration_error", title="Calibration error", unit="share"),
    MetricSpec(name="rmse", title="RMSE", unit="units of the target"),
    MetricSpec(name="mae", title="Mean absolute error", unit="units of the target"),
    MetricSpec(name="r2", title="R²", better="higher"),
    MetricSpec(name="interval_coverage", title="Share inside the bounds", unit="share", better=None),
)
"""`loss` is the log loss of classes, and RMSE divided by the target's standard deviation of numbers: 1 is no better than the mean."""


def unavailable_reason() -> str | None:
    """Which packages are missing, with how to get them; None when all are here."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    return f"Needs {', '.join(missing)}; install with: pip install 'tunesmith[tabular]'"


RECIPE = Recipe(
    name="tabular",
    title="Tables",
    sentence="Learns to predict a column of a table from the others: classes or numbers, with LightGBM, CatBoost and a linear model.",
    params=TabularParams,
    train="tunesmith.recipes.tabular.train:train",
    permission=Scope.TRAIN,
    tasks=("tabular-classification", "tabular-regression"),
    data=DataContract(shapes=(), modality="table"),
    metrics=METRICS,
    outputs=(Output(type="model", folder="tabular_model", kinds=(TABULAR,)), Output(type="files", folder="report")),
    needs_model=False,
    has_one_curve=False,
    base_tasks=(),
    plan=choose,
    unavailable_reason=unavailable_reason,
)
