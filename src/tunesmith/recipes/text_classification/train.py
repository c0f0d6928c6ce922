"""Text classification, told from the top."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine.classifier import Classifier
from tunesmith.engine.precision import keep_freed_memory, pick_device, pick_dtype, set_threads
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.sft import final_metrics, make_ready
from tunesmith.recipes.blocks.text_classifier import context_of
from tunesmith.recipes.blocks.tracking import tracked
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.text_classification import finish
from tunesmith.recipes.text_classification.data import Data, read_data
from tunesmith.recipes.text_classification.head import Interrupted, features_of, train_first
from tunesmith.recipes.text_classification.model import Labelled, add_adapters, labels_for, load_model, plain_model
from tunesmith.recipes.text_classification.rows import tokenize
from tunesmith.recipes.text_classification.spec import TextClassificationParams
from tunesmith.recipes.text_classification.task import ClassificationTask, Examples, Goal, balanced_weights, truth_of


class Setting(NamedTuple):
    """What a run works with."""

    base: ModelRef
    tokenizer: Any
    labelled: Labelled
    device: torch.device


def train(params: TextClassificationParams, run: RunContext) -> str:
    """Teach a model to put labels on texts. Returns an `Outcome`."""
    # 1) Where and in which number format
    set_threads(run.spec.resources.cpu_threads)
    keep_freed_memory()
    device, ranks = pick_device(), Ranks()
    dtype = pick_dtype(device, params.bf16, params.fp16)
    dtype = torch.float32 if params.weights == "frozen" else dtype  # what is kept as it is, is not rounded either
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    # 2) Which rows, which labels, which model
    tokenizer = load_tokenizer(run, base)
    data = read_data(run, params)
    setting = Setting(base, tokenizer, labels_for(run, base, data.names, data.is_multi), device)
    run.phase("loading", base.name)
    model = load_model(run, base, setting.labelled, tokenizer, dtype, params.seed).to(device)
    params = within_context(run, params, model, tokenizer)
    train_rows, held_out = examples(run, params, data, setting)
    classifier = Classifier(model, packing=params.packing)
    tell_packing(run, params, classifier)
    # 3) What we train: everything, adapters and the head, or the head alone
    head = what_is_trained(params, classifier)
    weights = balanced_weights(train_rows.truth, is_multi=data.is_multi) if params.class_weights == "balanced" else None
    task = ClassificationTask(classifier, train_rows, held_out, Goal(data.is_multi, weights, params.label_smoothing))
    try:
        learned = begin(run, params, task, head, setting)
    except Interrupted as asked:
        return asked.outcome
    # 4) Train
    trainer = Trainer(run, within_means(params), learned, device, ranks)
    make_ready(run, trainer)
    with tracked(run, params.report_to, params.model_dump(mode="json")):
        outcome = trainer.fit()
    if outcome != Outcome.COMPLETED:
        return outcome
    if not run.is_main:
        return outcome
    # 5) Measure the model as it will be used, and leave it
    run.phase("evaluating")
    task.classifier = whole_model(run, params, trainer, task.classifier, setting)
    task.model = task.classifier.model
    measured = finish.measure(task, params, device)
    skipped = {"rows_skipped": float(len(data.rows.bad))} if params.skip_bad_rows else {}
    metrics = final_metrics(trainer) | skipped | finish.final_scores(measured)
    run.metrics(metrics)
    found = finish.findings(task, params, data, setting.labelled.names, measured, device)
    finish.leave(run, params, task, tokenizer, data, measured, found, metrics)
    return outcome


def load_tokenizer(run: RunContext, base: ModelRef) -> Any:
    """The model's tokenizer with a padding token. Raises `JobFailure` where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.path, revision=base.revision, trust_remote_code=False, local_files_only=run.spec.offline
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise JobFailure(
            FailureCode.MODEL_NOT_FOUND,
            f"The tokenizer of {base.name} cannot be read: {str(error).partition(chr(10))[0][:200]}",
            hint="Put tokenizer.json and tokenizer_config.json of the model into its folder.",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            "The tokenizer has no padding token.",
            hint="Add pad_token to tokenizer_config.json.",
        )
    return tokenizer


def within_context(
    run: RunContext, params: TextClassificationParams, model: Any, tokenizer: Any
) -> TextClassificationParams:
    """`params` with `max_length` no longer than what the model can read."""
    context = context_of(model, tokenizer)
    if params.max_length <= context:
        return params
    if "max_length" in run.spec.params and run.attempt == 1:
        run.notice(
            f"The model reads at most {context} tokens, so texts are cut there and not at max_length={params.max_length}.",
            level="warning", code="max_length_lowered",
        )  # fmt: skip
    return params.model_copy(update={"max_length": context})


def examples(
    run: RunContext, params: TextClassificationParams, data: Data, setting: Setting
) -> tuple[Examples, Examples]:
    """`(training rows, held-out rows)` as tokens and truth."""
    name = run.spec.dataset.name if run.spec.dataset else ""
    found = []
    for held_out in (False, True):
        rows, numbers = (data.held_out_rows, data.held_out) if held_out else (data.rows, data.train)
        whose = data.held_out_name if held_out else name
        ids = tokenize(run, whose, rows.texts, numbers, setting.tokenizer, params.max_length)
        found.append(Examples(ids, truth_of(data.labels(held_out=held_out), setting.labelled.names)))
    return found[0], found[1]


def tell_packing(run: RunContext, params: TextClassificationParams, classifier: Classifier) -> None:
    if params.packing and not classifier.packed and run.attempt == 1:
        run.notice(
            f"Rows are padded instead of laid end to end: {classifier.why}. The result is the same, the training slower.",
            code="packing_fallback",
        )


def what_is_trained(params: TextClassificationParams, classifier: Classifier) -> list[torch.nn.Parameter]:
    """Set which weights ask for gradients; returns those of the head."""
    head = classifier.head_parameters()
    if params.weights == "all":
        classifier.model.requires_grad_(True)
    elif params.weights == "lora":
        add_adapters(
            classifier.model, head, params.lora_r, params.lora_alpha, params.lora_dropout, params.seed
        )  # fmt: skip
    else:
        if not classifier.has_features:
            raise JobFailure(
                FailureCode.UNSUPPORTED,
                f"The head cannot be trained alone: {classifier.why}.",
                hint="Use weights: lora.",
            )
        classifier.model.requires_grad_(False)
        for param in head:
            param.requires_grad_(True)
    return head


def begin(
    run: RunContext, params: TextClassificationParams, task: ClassificationTask, head: list[torch.nn.Parameter], setting: Setting
) -> ClassificationTask:  # fmt: skip
    """What the trainer learns: for a frozen model the same rows as vectors. A new head of a model that moves is trained first,
    unless a checkpoint has one. Raises `Interrupted`."""
    classifier, device = task.classifier, setting.device
    if params.weights == "frozen":
        rows = []
        for part in (task.train, task.held_out):
            run.phase("loading", "vectors of the frozen model")
            features = features_of(run, classifier, part.ids, device, params.batch_size)
            rows.append(Examples(part.ids, part.truth, features))
        return ClassificationTask(classifier, rows[0], rows[1], task.goal)
    is_first = setting.labelled.is_head_new and params.head_epochs > 0 and classifier.has_features
    if is_first and run.latest_checkpoint() is None:
        train_first(run, task, head, params.head_epochs, params.seed, device)
    torch.manual_seed(params.seed)
    return task


def within_means(params: TextClassificationParams) -> TextClassificationParams:
    """Layers are compiled only when asked for, and nothing is recomputed of a frozen model."""
    changes: dict[str, Any] = {"torch_compile": bool(params.torch_compile)}
    if params.weights == "frozen":
        changes = {"torch_compile": False, "gradient_checkpointing": False}
    return params.model_copy(update=changes)


def whole_model(
    run: RunContext, params: TextClassificationParams, trainer: Trainer, classifier: Classifier, setting: Setting
) -> Classifier:
    """The trained model in fp32 and in one piece: masters instead of their rounded copies, adapters merged."""
    model, masters = classifier.model, trainer.masters
    model.float()
    with torch.no_grad():
        for param, master in zip(masters.params, masters.masters, strict=True):
            param.copy_(master)
    if params.weights != "lora":
        if model.is_activation_checkpointing:
            model.gradient_checkpointing_disable()
        model.requires_grad_(False).eval()
        return classifier
    whole = load_model(run, setting.base, setting.labelled, setting.tokenizer, torch.float32, params.seed)
    merged = plain_model(model, whole.to(setting.device))
    return Classifier(merged.requires_grad_(False).eval(), packing=params.packing)
