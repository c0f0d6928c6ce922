"""What models do, in the field's own words, and what each is asked and answers. The same for every engine, page and public API.

An input and an answer are JSON. `text-generation` is asked through `core/inference.py`; all others by `predict`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Asked = Literal["chat", "text", "texts", "row", "image", "audio", "video"]
Answered = Literal["text", "labels", "spans", "value", "vector", "scores", "boxes", "image"]


class Task(NamedTuple):
    """One task. See `ANSWERS` for the form of each answer."""

    name: str
    title: str
    asked: Asked
    """`row` is an object of column and value; `texts` a query with the texts to be ranked; media are base64 or addresses."""
    answered: Answered


ANSWERS: dict[Answered, str] = {
    "text": "a text",
    "labels": '[{"label": "spam", "score": 0.98}, …], the likeliest first; scores are probabilities. `unsure` is the label where the '
    "model would rather not say",
    "spans": '[{"label": "PER", "score": 0.99, "start": 0, "end": 5, "text": "Marie"}, …], in characters',
    "value": '{"value": 12.5, "low": 10.1, "high": 15.2}; the bounds only where the model knows them',
    "vector": "[0.1, …]",
    "scores": "[0.9, 0.1, …], one for each text",
    "boxes": '[{"label": "cat", "score": 0.9, "box": {"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}}, …], in pixels',
    "image": "a PNG as base64",
}
"""What an answer to one input looks like."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("text-generation", "Text generation", "chat", "text"),
        Task("text-classification", "Text classification", "text", "labels"),
        Task("token-classification", "Entities in text", "text", "spans"),
        Task("tabular-classification", "Classes from tables", "row", "labels"),
        Task("tabular-regression", "Numbers from tables", "row", "value"),
        Task("feature-extraction", "Embeddings", "text", "vector"),
        Task("text-ranking", "Ranking texts", "texts", "scores"),
        Task("image-classification", "Image classification", "image", "labels"),
        Task("object-detection", "Objects in images", "image", "boxes"),
        Task("audio-classification", "Audio classification", "audio", "labels"),
        Task("automatic-speech-recognition", "Speech to text", "audio", "text"),
        Task("text-to-image", "Images from text", "text", "image"),
    )
}
"""By name. A recipe of somebody else's may name others; they are shown as JSON."""
