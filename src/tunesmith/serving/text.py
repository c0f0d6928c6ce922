"""From tokens to text that is certain."""

from __future__ import annotations

from typing import Any

SETTLE_EVERY = 32
"""Tokens after which the text so far is settled, so that a long answer is not decoded from its start for each token."""
CONTEXT = 8
"""Settled tokens that are decoded again with new ones: a token's text may depend on the one before."""


class Text:
    """Tokens → text that is certain: whole characters, and nothing that may turn out to begin a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._context: list[int] = []
        self._new: list[int] = []
        self._settled = ""
        self._told = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """What has become certain with it."""
        self._new.append(token)
        text = self._whole()
        ends = [place for stop in self._stop if (place := text.find(stop, max(0, self._told - len(stop)))) >= 0]
        if ends:
            self.stopped = True
            return self._tell(text, min(ends))
        if text.endswith("\ufffd"):
            return ""  # the bytes of a character that is not whole yet
        if len(self._new) >= SETTLE_EVERY:
            self._settled, self._context, self._new = text, (self._context + self._new)[-CONTEXT:], []
        held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return self._tell(text, len(text) - held)

    def rest(self) -> str:
        """What was held back and is certain now that no more comes."""
        return "" if self.stopped else self._tell(self._whole(), None)

    def _whole(self) -> str:
        if not self._context:
            return self._decode(self._new)
        return self._settled + self._decode(self._context + self._new)[len(self._decode(self._context)) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _tell(self, text: str, end: int | None) -> str:
        new = text[self._told : end]
        self._told += len(new)
        return new
