"""The kind of models that turn a text into a vector: encoders without a head for labels. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.model_kind import Description, ModelKind
from tunesmith.recipes.model_info import read_json, read_model_info, refuse_unsafe_files

CONFIG_FILE = "config.json"
ENDINGS = ("ForMaskedLM", "ForPreTraining", "ForTokenClassification", "ForQuestionAnswering")
FAMILIES = frozenset(
    ("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet", "nomic_bert",
     "roberta", "xlm", "xlm-roberta")
)  # fmt: skip
"""`model_type` of models that read a text in both directions."""
USE_ENCODER = """from transformers import pipeline

embed = pipeline("feature-extraction", model="{folder}")
print(embed("A text.")[0][0][:5])
"""


def is_encoder(path: Path) -> bool:
    """Whether a model's folder holds one, as its configuration says."""
    try:
        config = read_json(path / CONFIG_FILE)
    except TunesmithError:
        return False
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    return str(config.get("model_type")) in FAMILIES and (name.endswith((*ENDINGS, "Model")) or not name)


def _describe(path: Path, _base: Path | None) -> Description:
    refuse_unsafe_files(path)
    info = read_model_info(path)
    about = {
        "family": info.family, "num_layers": info.num_layers, "hidden_size": info.hidden_size, "num_heads": info.num_heads,
        "vocab_size": info.vocab_size, "context_length": info.context_length,
    }  # fmt: skip
    return Description(about, info.num_parameters)


TEXT_ENCODER = ModelKind(
    name="text-encoder",
    title="Text encoder",
    framework="transformers",
    tasks=("feature-extraction",),
    matches=is_encoder,
    describe=_describe,
    engines=("predict",),
    load="tunesmith.recipes.blocks.text_encoder:load",
    usage=USE_ENCODER,
)
