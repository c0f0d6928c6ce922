"""Text columns as numbers: skrub's StringEncoder (tf-idf of character n-grams, truncated SVD), kept as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_NGRAMS = 20_000
"""Of the vocabulary, the most frequent."""
NUM_COMPONENTS = 30
NGRAMS, ANALYZER = (3, 4), "char_wb"
"""skrub's own."""
FIT_ROWS = 100_000
"""Rows that the vocabulary and the components are found on; the first of the order that the seed gives."""


class TextEncoder:
    """Turns texts into at most `NUM_COMPONENTS` numbers each. What it has learned are a vocabulary and arrays, nothing else."""

    def __init__(
        self, vocabulary: Sequence[str], idf: np.ndarray, components: np.ndarray | None, scale: float, width: int
    ) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vocabulary, self.idf, self.components = list(vocabulary), idf, components
        self.scale, self.width = scale, width
        self._vectorizer = TfidfVectorizer(
            ngram_range=NGRAMS,
            analyzer=ANALYZER,
            vocabulary={word: place for place, word in enumerate(self.vocabulary)},
        )
        self._vectorizer.idf_ = idf

    @classmethod
    def fit(cls, texts: np.ndarray, seed: int) -> TextEncoder | None:
        """Learn from texts (None: missing). None when they hold nothing to learn from."""
        import pandas as pd
        from skrub import StringEncoder

        if len(texts) > FIT_ROWS:
            texts = texts[np.random.default_rng(seed).permutation(len(texts))[:FIT_ROWS]]
        vocabulary = _vocabulary(texts)
        if not vocabulary:
            return None
        encoder = StringEncoder(
            NUM_COMPONENTS, ngram_range=NGRAMS, analyzer=ANALYZER, random_state=seed, vocabulary=vocabulary
        )
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few texts give few components
            encoder.fit_transform(pd.Series([text or "" for text in texts], name="text", dtype="str"))
        svd = getattr(encoder, "tsvd_", None)
        return cls(
            vocabulary, np.asarray(encoder.vectorizer_.idf_, dtype=np.float64), None if svd is None else np.asarray(svd.components_),
            float(encoder.scaling_factor_), int(encoder.n_components_),
        )  # fmt: skip

    def transform(self, texts: np.ndarray) -> np.ndarray:
        """(rows, width) float32. A missing text is an empty one."""
        counted = self._vectorizer.transform([text or "" for text in texts]).astype("float32")
        found = counted[:, : self.width].toarray() if self.components is None else counted @ self.components.T
        return np.asarray(found / np.asarray(self.scale, dtype=found.dtype), dtype=np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes into safetensors."""
        return {"idf": self.idf} | (
            {} if self.components is None else {"components": np.ascontiguousarray(self.components)}
        )

    def as_json(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "scale": self.scale, "width": self.width}

    @classmethod
    def of(cls, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> TextEncoder:
        """Raises `KeyError` or `ValueError` for what does not fit together."""
        idf, components = arrays["idf"], arrays.get("components")
        size = len(told["vocabulary"])
        if idf.shape != (size,) or (components is not None and components.shape != (told["width"], size)):
            raise ValueError("the arrays of a text column do not fit its vocabulary")
        return cls(told["vocabulary"], idf, components, float(told["scale"]), int(told["width"]))


def _vocabulary(texts: np.ndarray) -> list[str]:
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=NGRAMS, analyzer=ANALYZER, max_features=MAX_NGRAMS)
    try:
        counter.fit([text or "" for text in texts])
    except ValueError:  # nothing but blanks
        return []
    return sorted(counter.vocabulary_)
