"""What a user may set of a training, under the names the field uses. Light: imports no torch.

`LoraParams`, `QloraParams`, … in each recipe's `spec.py` pick from these groups.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd", "lion"]
Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
Sharding = Literal["none", "shard_grad_op", "full_shard"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr", "polynomial"]
SHARDED_OPTIMIZERS = ("adamw", "sgd")
"""Those that can hold a part of a weight: bitsandbytes' know whole ones only, Adafactor needs whole rows and columns."""


def about(group: str, unit: str = "", *, usual: tuple[float, float] | None = None) -> dict[str, Any]:
    """What a form has to know besides the schema: the group (`describing.GROUPS`), the unit, and what is usually tried."""
    return {"group": group, **({"unit": unit} if unit else {}), **({"usual": list(usual)} if usual else {})}


class Stopping(BaseModel):
    """Stop when the score on the held-out split that stands for the run no longer gets better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(False, title="Stop early")
    """Stop before the last step when the score on the held-out rows no longer gets better."""
    patience: int = Field(3, ge=1, le=1000, json_schema_extra=about("saving", "evaluations", usual=(2, 10)))
    """Evaluations without improvement before stopping."""
    min_delta: float = Field(0.0, ge=0.0, title="Smallest gain", json_schema_extra=about("saving"))
    """Smallest change that counts as an improvement, in the metric's unit."""


class EarlyStopping(Stopping):
    """Of language models: the loss or the perplexity is watched."""

    metric: Literal["eval_loss", "perplexity"] = Field("eval_loss", title="Score to watch")
    """The score to watch; both are better when lower."""


class TrainerParams(BaseModel):
    """What every method that is trained by gradient steps can be set to (`blocks/trainer.py`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    learning_rate: float = Field(2e-4, gt=0, le=1.0, json_schema_extra=about("basic", usual=(1e-5, 5e-4)))
    """Peak learning rate: how big each step is. Too high and the loss jumps about, too low and little is learned."""
    batch_size: int = Field(4, ge=1, le=4096, json_schema_extra=about("batching", "rows", usual=(1, 64)))
    """Rows per micro-batch and device: more are faster and take more memory."""
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=4096,
        title="Gradient accumulation",
        json_schema_extra=about("batching", "micro-batches", usual=(1, 32)),
    )
    """Micro-batches per optimizer step; the effective batch is batch_size times this."""
    epochs: float = Field(3.0, gt=0, le=1000, json_schema_extra=about("basic", "passes", usual=(1, 10)))
    """Passes over the training rows. More learn the rows better, too many learn them by heart."""
    max_steps: int | None = Field(
        None, ge=1, le=10_000_000, title="Maximum steps", json_schema_extra=about("basic", "steps")
    )
    """Optimizer steps; overrides `epochs` when set. A few make a quick trial."""
    warmup_steps: int | None = Field(None, ge=0, title="Warm-up steps", json_schema_extra=about("optimizer", "steps"))
    """Optimizer steps of linear warm-up; overrides `warmup_ratio` when set."""
    warmup_ratio: float = Field(
        0.03, ge=0.0, le=1.0, title="Warm-up share", json_schema_extra=about("optimizer", "share", usual=(0, 0.1))
    )
    """Share of all steps used for warm-up."""
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, json_schema_extra=about("optimizer", usual=(0, 0.1)))
    """Decoupled weight decay: pulls weights towards zero, against learning by heart."""
    max_grad_norm: float = Field(
        1.0, ge=0.0, title="Largest gradient norm", json_schema_extra=about("optimizer", usual=(0.3, 1))
    )
    """Gradients are scaled down to this global norm; 0 switches clipping off."""
    optimizer: Optimizer = Field("adamw", json_schema_extra=about("optimizer"))
    """`adamw` is torch's fused AdamW; the 8-bit ones are bitsandbytes'."""
    scheduler: Scheduler = Field("cosine", title="Learning-rate schedule", json_schema_extra=about("optimizer"))
    """How the learning rate falls after warm-up."""
    seed: int = Field(42, ge=0, le=2**32 - 1, json_schema_extra=about("data"))
    """Seeds initialisation, data order and dropout."""
    bf16: bool | None = Field(None, title="bfloat16", json_schema_extra=about("precision"))
    """bfloat16 compute; absent means where the hardware multiplies it fast."""
    fp16: bool = Field(False, title="float16", json_schema_extra=about("precision"))
    """float16 compute with loss scaling; NVIDIA GPUs only."""
    gradient_checkpointing: bool | None = Field(None, json_schema_extra=about("precision"))
    """Recompute activations in the backward pass to save memory; absent means only when memory needs it."""
    torch_compile: bool | None = Field(None, title="Compile the layers", json_schema_extra=about("precision"))
    """Compile the layers, which takes about half a minute and makes every step faster; absent means for long runs on a GPU."""
    sharding: Sharding = Field("none", title="Sharding over devices", json_schema_extra=about("precision"))
    """Over several devices, share out gradients and optimizer (`shard_grad_op`, ZeRO-2) or the weights too (`full_shard`, ZeRO-3)."""
    sharding_offload: bool = Field(False, title="Offload to CPU memory", json_schema_extra=about("precision"))
    """With sharding on NVIDIA GPUs: keep what is shared out in CPU memory. Much slower; the last resort."""
    validation_split: float = Field(
        0.1, ge=0.0, lt=1.0, title="Held-out share", json_schema_extra=about("data", "share", usual=(0, 0.2))
    )
    """Share of rows held out, chosen by `seed`; 0 holds none out."""
    eval_steps: int | None = Field(None, ge=1, title="Evaluate every", json_schema_extra=about("saving", "steps"))
    """Optimizer steps between evaluations; absent means about ten times a run."""
    save_steps: int | None = Field(
        None, ge=1, title="Save a checkpoint every", json_schema_extra=about("saving", "steps")
    )
    """Optimizer steps between checkpoints; absent means about ten times a run."""
    save_total_limit: int = Field(
        2, ge=1, le=1000, title="Checkpoints kept", json_schema_extra=about("saving", "checkpoints", usual=(1, 5))
    )
    """Checkpoints kept, besides the best."""
    early_stopping: Stopping = Field(Stopping(), json_schema_extra=about("saving"))
    """When to stop before the last step."""
    save_best_model: bool = Field(True, title="Keep the best weights", json_schema_extra=about("saving"))
    """Leave the weights with the best held-out score rather than the last ones, when there is a held-out split."""
    logging_steps: int = Field(1, ge=1, title="Log every", json_schema_extra=about("tracking", "steps", usual=(1, 10)))
    """Optimizer steps between two points of the curve."""
    report_to: list[Tracker] = Field([], title="Other trackers", json_schema_extra=about("tracking"))
    """Other trackers that get the curve too: `tensorboard`, `mlflow`, `wandb`, `trackio`; each has to be installed."""
    split_by: Literal["file", "content", "rows"] = Field("file", title="Hold out by", json_schema_extra=about("data"))
    """`file` holds out what the data itself calls validation or test, else as `content`, which keeps equal rows on one side,
    so that no held-out row is learned too; `rows` draws each row by itself."""
    skip_bad_rows: bool = Field(False, title="Skip bad rows", json_schema_extra=about("data"))
    """Train without the rows that cannot be used, and name them in the job; otherwise a job on data with errors is refused."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_others(cls, given: Any) -> Any:
        for name in ("deepspeed", "fsdp"):
            if isinstance(given, dict) and name in given:
                raise ValueError(
                    f"{name} is called sharding here: none for ZeRO-0, shard_grad_op for ZeRO-1 and ZeRO-2, "
                    "full_shard for ZeRO-3; sharding_offload: true offloads."
                )
        return given

    @field_validator("report_to")
    @classmethod
    def _trackers_are_here(cls, names: list[Tracker]) -> list[Tracker]:
        for name in names:
            if find_spec(name) is None:
                raise ValueError(f"{name} is not installed; install it with: pip install {name}")
        return list(dict.fromkeys(names))

    @model_validator(mode="after")
    def _one_half_precision(self) -> Self:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 cannot both be on; switch one off.")
        return self

    @model_validator(mode="after")
    def _shared_out(self) -> Self:
        if self.sharding == "none":
            if self.sharding_offload:
                raise ValueError("sharding_offload needs sharding: full_shard or shard_grad_op.")
        elif self.optimizer not in SHARDED_OPTIMIZERS:
            raise ValueError(
                f"{self.optimizer} cannot be shared out over devices; with sharding: {self.sharding} use "
                f"{' or '.join(SHARDED_OPTIMIZERS)}."
            )
        return self


class TextFields(BaseModel):
    """How rows become what a language model reads."""

    max_length: int = Field(
        1024,
        ge=16,
        le=1_048_576,
        title="Maximum sequence length",
        json_schema_extra=about("data", "tokens", usual=(128, 8192)),
    )
    """Tokens of a row; longer rows are cut at the end."""
    system_prompt: str | None = Field(None, max_length=20_000, json_schema_extra=about("data"))
    """Put before every conversation that has no system message."""
    allow_truncation: bool = Field(False, title="Allow rows to lose something", json_schema_extra=about("data"))
    """Train even when more than 3 % of the rows lose their end of turn or an answer; without it such a job is refused."""
    tool_calls: Literal["template", "ready", "text"] = Field(
        "template", title="Calls of functions", json_schema_extra=about("data")
    )
    """Where the model's chat template has no place for functions: refuse such rows (`template`), give it a `ready` part that has, or write them as `text`."""


class LanguageParams(TrainerParams, TextFields):
    """Training a language model."""

    comparison_questions: int = Field(
        3, ge=0, le=10, title="Questions before and after", json_schema_extra=about("saving", "questions", usual=(0, 3))
    )
    """Held-out questions that the base and the tuned model answer at the end, in a tenth of the training time or 10 seconds; 0 asks none."""


class SftParams(LanguageParams):
    """Supervised fine-tuning of all weights; the LoRA family adds `lora_*` and `target_modules`."""

    early_stopping: EarlyStopping = Field(EarlyStopping(), json_schema_extra=about("saving"))
    """When to stop before the last step."""
    save_best_model: bool = Field(True, title="Keep the best weights", json_schema_extra=about("saving"))
    """Leave the weights with the best held-out loss rather than the last ones, when there is a held-out split."""
    cuda_graphs: bool = Field(False, title="CUDA graphs", json_schema_extra=about("precision"))
    """For small models on one NVIDIA GPU: layers are compiled and their kernels replayed; batches are filled up to 1024 tokens."""
    packing: bool = Field(True, json_schema_extra=about("batching"))
    """Lay rows end to end without padding; attention never crosses from one row to the next, so results are equal."""
    neftune_noise_alpha: float | None = Field(
        None, ge=0.0, le=100.0, title="NEFTune noise", json_schema_extra=about("data", usual=(5, 15))
    )
    """Noise on the input embeddings while training (NEFTune, arXiv:2310.05914); 5 to 15 is usual."""
    train_on: Literal["completions", "all"] = Field("completions", title="Learn from", json_schema_extra=about("data"))
    """Learn from the answers only, or from every token."""
    rewritten_turns: Literal["split", "skip"] = Field(
        "split", title="Turns that a template rewrites", json_schema_extra=about("data")
    )
    """Answers that the chat template writes in another way later on, such as thoughts: learn each in a row of its own, or skip it."""
    rated_rows: Literal["refuse", "good"] = Field(
        "refuse", title="Rows that rate answers", json_schema_extra=about("data")
    )
    """Preference pairs and rows with a good-or-bad label: refuse them, or learn the good answers and leave the bad ones out."""

    @model_validator(mode="after")
    def _replayed(self) -> Self:
        if self.cuda_graphs and (self.sharding != "none" or not self.packing or self.torch_compile is False):
            raise ValueError(
                "cuda_graphs needs packing and compiled layers, and no sharding; change these or leave it off."
            )
        return self


class AdapterFields(BaseModel):
    """The adapter's own settings."""

    lora_r: int = Field(16, ge=1, le=1024, title="LoRA rank (r)", json_schema_extra=about("adapter", usual=(4, 128)))
    """Rank of the adapter: how much it can learn. Its size and memory grow with it."""
    lora_alpha: int = Field(32, ge=1, le=4096, title="LoRA alpha", json_schema_extra=about("adapter", usual=(8, 256)))
    """Scale: the adapter's output is multiplied by lora_alpha / lora_r."""
    lora_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, title="LoRA dropout", json_schema_extra=about("adapter", usual=(0, 0.1))
    )
    """Share of the adapter's input that is dropped at random, against learning by heart."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1, max_length=64)] = Field(
        "all-linear", title="Layers with an adapter", json_schema_extra=about("adapter")
    )
    """Which linear layers get an adapter: `all-linear` (all of the text model but the head), or names such as `q_proj`."""


class LoraFields(SftParams, AdapterFields):
    """Supervised fine-tuning of an adapter."""


def field_docs(params: type[BaseModel]) -> dict[str, str]:
    """Name → the docstring under the field, for forms and docs (read from the source, base classes included)."""
    docs: dict[str, str] = {}
    for cls in reversed([c for c in params.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]):
        docs |= _own_docs(cls)
    return docs


@cache
def _own_docs(cls: type[BaseModel]) -> dict[str, str]:
    import ast
    import inspect

    docs: dict[str, str] = {}
    body: list[Any] = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    for field, doc in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
            docs[field.target.id] = str(doc.value.value)  # type: ignore[union-attr]
    return docs
