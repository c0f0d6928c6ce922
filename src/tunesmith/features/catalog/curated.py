"""Open models of small and medium size that are good starts, by purpose. Numbers of weights are as their makers publish them."""

from __future__ import annotations

from typing import NamedTuple

from tunesmith.schemas.models import UseCase


class Curated(NamedTuple):
    """One model that somebody looked at."""

    name: str
    num_parameters: int
    """To the million at least."""
    licence: str
    context_length: int
    use_cases: tuple[UseCase, ...]
    """The first is what it is best at."""
    strength: str
    """What speaks for it, after its name and a colon."""
    gated: bool = False
    is_trainable: bool = True
    """Whether it is a language model, which the methods here tune."""


def _m(millions: float) -> int:
    return round(millions * 1_000_000)


MODELS: tuple[Curated, ...] = (
    Curated("HuggingFaceTB/SmolLM2-135M-Instruct", _m(134.5), "apache-2.0", 8192, ("classification", "chat"),
            "trains within minutes on any laptop, enough for labels and short, fixed answers"),
    Curated("HuggingFaceTB/SmolLM2-360M-Instruct", _m(361.8), "apache-2.0", 8192, ("classification", "extraction", "summarising"),
            "still trains on a laptop's processor and keeps to a format once it is tuned"),
    Curated("HuggingFaceTB/SmolLM2-1.7B-Instruct", _m(1711), "apache-2.0", 8192, ("chat", "summarising", "writing"),
            "plain, well-documented and easy to tune; its data is public"),
    Curated("HuggingFaceTB/SmolLM3-3B", _m(3075), "apache-2.0", 65_536, ("reasoning", "chat", "summarising"),
            "thinks aloud when asked to, in six languages, with data and recipe public"),
    Curated("Qwen/Qwen2.5-0.5B-Instruct", _m(494), "apache-2.0", 32_768, ("extraction", "classification", "chat"),
            "reads 29 languages and writes JSON well for its size"),
    Curated("Qwen/Qwen2.5-1.5B-Instruct", _m(1544), "apache-2.0", 32_768, ("extraction", "chat", "summarising"),
            "dependable at JSON and tables, and small enough to tune on one consumer card"),
    Curated("Qwen/Qwen2.5-7B-Instruct", _m(7616), "apache-2.0", 32_768, ("chat", "extraction", "writing"),
            "the best known all-rounder of its size, with more recipes around it than any other"),
    Curated("Qwen/Qwen3-0.6B", _m(751.6), "apache-2.0", 40_960, ("reasoning", "chat", "classification"),
            "the smallest that thinks before it answers, in over a hundred languages"),
    Curated("Qwen/Qwen3-1.7B", _m(2032), "apache-2.0", 40_960, ("reasoning", "chat", "extraction"),
            "thinks before it answers and calls tools, at a size for small cards"),
    Curated("Qwen/Qwen3-4B-Instruct-2507", _m(4022), "apache-2.0", 262_144, ("chat", "extraction", "summarising", "writing"),
            "answers at once, with the longest context of its size"),
    Curated("Qwen/Qwen3-4B-Thinking-2507", _m(4022), "apache-2.0", 262_144, ("reasoning",),
            "strong at mathematics and plans for its size; its answers take time"),
    Curated("Qwen/Qwen3-8B", _m(8191), "apache-2.0", 40_960, ("reasoning", "chat", "writing"),
            "thinks or answers at once, as you ask; needs a card of 24 GB to tune"),
    Curated("Qwen/Qwen3.5-0.8B", _m(873), "apache-2.0", 262_144, ("multimodal", "chat"),
            "the smallest of its family that looks at pictures too"),
    Curated("Qwen/Qwen3.5-4B", _m(4660), "apache-2.0", 262_144, ("multimodal", "chat", "reasoning"),
            "looks at pictures, thinks and calls tools, at a size for one consumer card"),
    Curated("meta-llama/Llama-3.2-1B-Instruct", _m(1236), "llama3.2", 131_072, ("summarising", "chat"),
            "a long context at a small size", gated=True),
    Curated("meta-llama/Llama-3.2-3B-Instruct", _m(3213), "llama3.2", 131_072, ("summarising", "chat", "writing"),
            "reads long texts and is supported by every tool there is", gated=True),
    Curated("google/gemma-3-270m-it", _m(268), "gemma", 32_768, ("classification", "extraction"),
            "made to be tuned for one narrow task", gated=True),
    Curated("google/gemma-3-1b-it", _m(999.9), "gemma", 32_768, ("chat", "summarising", "writing"),
            "writes naturally in many languages for its size", gated=True),
    Curated("google/gemma-4-E2B-it", _m(5100), "apache-2.0", 131_072, ("multimodal", "chat"),
            "takes pictures and sound, and answers quickly for its size"),
    Curated("google/gemma-4-E4B-it", _m(8000), "apache-2.0", 131_072, ("multimodal", "chat", "writing"),
            "takes pictures and sound, and writes well"),
    Curated("microsoft/Phi-4-mini-instruct", _m(3836), "mit", 131_072, ("reasoning", "chat", "code"),
            "strong at mathematics and logic under the plainest licence"),
    Curated("ibm-granite/granite-3.3-2b-instruct", _m(2534), "apache-2.0", 131_072, ("extraction", "summarising", "classification"),
            "made for business texts, with sources of its data told"),
    Curated("ibm-granite/granite-3.3-8b-instruct", _m(8171), "apache-2.0", 131_072, ("extraction", "summarising", "chat"),
            "made for business texts and tools, with sources of its data told"),
    Curated("allenai/OLMo-2-0425-1B-Instruct", _m(1485), "apache-2.0", 4096, ("chat", "classification"),
            "open to the last row of its training data"),
    Curated("mistralai/Mistral-7B-Instruct-v0.3", _m(7248), "apache-2.0", 32_768, ("chat", "writing", "summarising"),
            "proven in many deployments, and fast", gated=True),
    Curated("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", _m(1777), "mit", 131_072, ("reasoning",),
            "reasons step by step at a size for small cards"),
    Curated("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", _m(7616), "mit", 131_072, ("reasoning", "code"),
            "reasons step by step, strong at mathematics"),
    Curated("Qwen/Qwen2.5-Coder-0.5B-Instruct", _m(494), "apache-2.0", 32_768, ("code",),
            "completes code on a laptop"),
    Curated("Qwen/Qwen2.5-Coder-1.5B-Instruct", _m(1544), "apache-2.0", 32_768, ("code",),
            "knows ninety programming languages and tunes on one consumer card"),
    Curated("Qwen/Qwen2.5-Coder-7B-Instruct", _m(7616), "apache-2.0", 32_768, ("code",),
            "the strongest at code that a card of 16 GB can tune"),
    Curated("sentence-transformers/all-MiniLM-L6-v2", _m(22.7), "apache-2.0", 512, ("embedding",),
            "tiny and fast, for search in English", is_trainable=False),
    Curated("BAAI/bge-small-en-v1.5", _m(33.4), "mit", 512, ("embedding",),
            "better search in English than its size suggests", is_trainable=False),
    Curated("intfloat/multilingual-e5-small", _m(117.7), "mit", 512, ("embedding",),
            "search in a hundred languages on any machine", is_trainable=False),
    Curated("Qwen/Qwen3-Embedding-0.6B", _m(595.8), "apache-2.0", 32_768, ("embedding",),
            "search over long texts in over a hundred languages", is_trainable=False),
)  # fmt: skip
LICENCE_OF = {one.name: one.licence for one in MODELS}
"""For models whose folder has no card."""
