"""How strong models are, by the votes of battles: Bradley-Terry (1952), told on the scale of Elo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.schemas.evaluations import ArenaRating

if TYPE_CHECKING:
    import numpy as np

MEAN = 1000.0
SCALE = 400.0
"""Points at which the stronger wins ten times out of eleven."""
RESAMPLES = 200
ROUNDS = 200
"""Most rounds of the fit."""
CLOSE = 1e-6
PRIOR = 0.5
"""Ties with every other model that each begins with: who never lost is not infinitely strong."""
POINTS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5), "both_bad": (0.5, 0.5)}

ENOUGH = 5
"""Battles of a model from which on an interval says something."""

Battle = tuple[str, str, str]
"""Model A, model B, vote."""


def ratings(battles: Sequence[Battle], seed: int = 0) -> list[ArenaRating]:
    """The strongest first, with 95 % intervals by bootstrap over the battles."""
    import numpy as np

    if not battles:
        return []
    names = sorted({name for a, b, _ in battles for name in (a, b)})
    place = {name: number for number, name in enumerate(names)}
    pairs = np.array([(place[a], place[b]) for a, b, _ in battles])
    points = np.array([POINTS[vote] for _, _, vote in battles])
    rng = np.random.default_rng([seed, 0xE10])
    drawn = rng.multinomial(len(battles), np.full(len(battles), 1 / len(battles)), size=RESAMPLES)
    found = fit(_wins(pairs, points, np.vstack([np.ones(len(battles)), drawn]), len(names)))
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    rows = []
    for i, name in enumerate(names):
        counts = _counts(name, battles)
        ends = {"low": min(low[i], found[0, i]), "high": max(high[i], found[0, i])}
        enough = counts["battles"] >= ENOUGH
        shown = {end: float(value) if enough else None for end, value in ends.items()}
        rows.append(ArenaRating(model=name, rating=float(found[0, i]), **shown, **counts))
    return sorted(rows, key=lambda row: (-row.rating, row.model))


def _wins(pairs: np.ndarray, points: np.ndarray, weights: np.ndarray, models: int) -> np.ndarray:
    """(resamples, models, models): points that each has won against each."""
    import numpy as np

    wins = np.zeros((len(weights), models, models))
    for number, ((a, b), (won_a, won_b)) in enumerate(zip(pairs, points, strict=True)):
        wins[:, a, b] += weights[:, number] * won_a
        wins[:, b, a] += weights[:, number] * won_b
    return wins


def fit(wins: np.ndarray) -> np.ndarray:
    """(resamples, models) ratings of (resamples, models, models) points, by Hunter's minorisation (2004)."""
    import numpy as np

    models = wins.shape[1]
    wins = wins + PRIOR * (1 - np.eye(models)) / max(1, models - 1)
    games = wins + wins.transpose(0, 2, 1)
    strength = np.ones(wins.shape[:2])
    for _ in range(ROUNDS):
        new = wins.sum(axis=2) / (games / (strength[:, :, None] + strength[:, None, :])).sum(axis=2)
        new /= np.exp(np.log(new).mean(axis=1, keepdims=True))
        moved = float(np.abs(np.log(new / strength)).max())
        strength = new
        if moved < CLOSE:
            break
    found: np.ndarray = MEAN + SCALE * np.log10(strength)
    return found


def _counts(name: str, battles: Sequence[Battle]) -> dict[str, int]:
    wins = losses = ties = 0
    for a, b, vote in battles:
        if name not in (a, b):
            continue
        if vote in ("tie", "both_bad"):
            ties += 1
        elif (vote == "a") == (name == a):
            wins += 1
        else:
            losses += 1
    return {"battles": wins + losses + ties, "wins": wins, "losses": losses, "ties": ties}
