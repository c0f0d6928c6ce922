"""Held-out questions, answered by the base and by the tuned model."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Turn(BaseModel):
    """One message before an answer."""

    role: str
    """`system`, `user`, `assistant`, `tool`; `text` for the beginning of a plain text."""
    content: str


class ScoredAnswer(BaseModel):
    """What one model made of a question."""

    answer: str
    """The likeliest one."""
    tokens: int
    is_cut: bool
    """Whether it would have gone on."""
    loss: float | None
    """Mean cross-entropy over the expected answer, nats a token; null when it is no number."""
    perplexity: float | None
    """Of the expected answer: e to the power of `loss`."""
    chrf: float
    """How much the answer is like the expected one, by its characters: 0 to 100. Of both at most `answer_limit` tokens count."""


class BeforeAfterQuestion(BaseModel):
    """One held-out row."""

    row: int
    """Its number in the dataset, from 1."""
    turns: list[Turn]
    """What comes before the answer."""
    prompt_is_cut: bool
    """Whether the models read only the end of it."""
    expected: str
    """The row's own answer."""
    expected_tokens: int
    base: ScoredAnswer
    tuned: ScoredAnswer


class BeforeAfter(BaseModel):
    """Held-out questions as the base model and the tuned model answer them, asked once when the training was complete."""

    dataset: str = ""
    """Where the rows come from."""
    base_model: str = ""
    answer_limit: int = 0
    """Tokens after which an answer is cut."""
    questions: list[BeforeAfterQuestion] = Field(default_factory=list)
    reason: str = ""
    """Why there are no questions, or less of them than usual; empty when all went well."""
    hint: str = ""
    """What can be done about it."""
