"""Row shapes that causal language models learn from; the names are those of `tunesmith.dataprep.shapes`."""

from __future__ import annotations

CAUSAL_LM_SHAPES = (
    "input_output",
    "alpaca",
    "prompt_completion",
    "question_answer",
    "messages",
    "conversations",
    "text",
    "preference",
    "kto",
)
RATED_SHAPES = ("preference", "kto")
"""Those that rate answers: methods that learn from examples alone take them only when asked to."""
