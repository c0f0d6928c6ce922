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
)
