"""Scores agree with the libraries that define them, their intervals hold, and differences are called by their name."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import f1_score, precision_score, recall_score

from tunesmith.features.evaluations import elo
from tunesmith.recipes.blocks import scoring
from tunesmith.recipes.blocks import scoring_text as text
from tunesmith.recipes.evaluate import counting, judge

WORDS = ["the", "cat", "sat", "on", "a", "mat,", "and", "it's", "fine.", "Really?", "yes", "no", "12", "km"]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def sentences(seed: int, count: int = 40) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(0, 14))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_text_scores_are_those_of_sacrebleu(seed: int) -> None:
    made, wanted = sentences(seed), [s or "yes" for s in sentences(seed + 100)]
    pairs = list(zip(made, wanted, strict=True))
    bleu = scoring.score("bleu", [text.bleu(*pair) for pair in pairs])
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(made, [wanted]).score)
    chrf = scoring.score("chrf", [text.chrf(*pair) for pair in pairs])
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(made, [wanted]).score)
    same = [text.bleu(one, one) for one in wanted if len(one.split()) > 4]
    assert scoring.score("bleu", same).value == pytest.approx(100)


def test_a_share_has_a_width_even_where_all_are_alike() -> None:
    assert scoring.wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)  # as Wilson's formula gives it
    assert scoring.wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert scoring.wilson(1, 1) == pytest.approx((0.20654, 1), abs=1e-5)


def test_labels_are_scored_as_scikit_learn_does() -> None:
    chance = random.Random(5)
    labels = ["billing", "card lost", "other"]
    right = chance.choices(labels, k=60)
    said = [one if chance.random() < 0.6 else chance.choice(labels) for one in right]
    rows = [scoring.one_hot(a, b, labels) for a, b in zip(right, said, strict=True)]
    for name, theirs in (("macro_f1", f1_score), ("macro_precision", precision_score), ("macro_recall", recall_score)):
        assert scoring.score(name, rows).value == pytest.approx(theirs(right, said, average="macro"))
    nothing = scoring.score("macro_f1", [scoring.one_hot("billing", None, labels)] * 3)
    assert nothing.value == 0 and nothing.num_samples == 3


def test_entities_of_tags_are_scored_as_seqeval_does() -> None:
    chance = random.Random(2)
    right = [chance.choices(TAGS, k=8) for _ in range(30)]
    said = [[tag if chance.random() < 0.7 else chance.choice(TAGS) for tag in tags] for tags in right]
    counts = [text.entity_counts(" ".join(a), " ".join(b), "tags") for a, b in zip(said, right, strict=True)]
    assert scoring.score("entity_f1", counts).value == pytest.approx(seqeval_f1(right, said))
    as_json = text.entity_counts('{"person": ["Ada", "Bob"]}', '[{"label": "person", "text": "ada"}]', "list")
    assert as_json == [1, 2, 1]
    assert text.entity_counts("no idea", "PERSON: Ada\nPLACE: Rome; Paris", "list") == [0, 0, 3]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """A coin of 0.3, thrown 60 times, again and again."""
    rng = np.random.default_rng(0)
    held = 0
    for turn in range(200):
        found = scoring.score("exact_match", rng.random((60, 1)) < 0.3, seed=turn)
        held += found.low <= 0.3 <= found.high
    assert 0.88 <= held / 200 <= 0.99
    again = [scoring.score("token_f1", rng.random((20, 1)), seed=1) for _ in range(1)]
    assert again[0].low < again[0].value < again[0].high


def test_a_difference_is_found_where_there_is_one_and_nowhere_else() -> None:
    assert scoring.mcnemar(10, 2) == pytest.approx(0.0385742, abs=1e-6)  # exact binomial, both tails
    assert scoring.mcnemar(0, 0) == 1.0 and scoring.mcnemar(5, 5) == 1.0
    assert scoring.mcnemar(3000, 2900) == pytest.approx(scoring.mcnemar(2500, 2400), abs=0.1)
    rng = np.random.default_rng(3)
    losses = np.column_stack([rng.gamma(3, 10, 80), np.full(80, 20.0), np.zeros(80)])
    better = losses * [0.9, 1, 1]
    found = scoring.difference("perplexity", losses, better)
    assert found.is_significant and found.high < 0 and found.test == "paired bootstrap"
    noise = losses * np.column_stack([rng.choice([0.9, 1.1], 80), np.ones(80), np.ones(80)])
    assert not scoring.difference("perplexity", losses, noise).is_significant
    right = (rng.random((100, 1)) < 0.5).astype(float)
    assert scoring.difference("accuracy", right, np.ones((100, 1))).p_value < 1e-6


@pytest.mark.parametrize(("answers", "metric", "labels"), [
    (["yes", "no"] * 6, "classification", ["no", "yes"]),
    (["So 2+2 is 4.\n#### 4", "#### 1,250", "Then it is 7\n#### 7"], "numeric_match", []),
    (["B-PER O O", "O O B-LOC I-LOC", "O O"], "entities", []),
    (['{"person": ["Ada"]}', "[]", '{"place": ["Rome"]}'], "entities", []),
    ([f"A long answer number {n} that stands for itself." for n in range(5)], "rouge", []),
    (["Paris", "Rome", "Oslo", "Bern"], "token_f1", []),
    ([], "perplexity", []),
])  # fmt: skip
def test_metrics_fit_the_answers(answers: list[str], metric: str, labels: list[str]) -> None:
    found = counting.plan([], answers)
    assert metric in found.metrics and found.labels == labels and found.reason.endswith(".")
    assert counting.plan(["bleu"], answers).metrics == ("bleu",)


@pytest.mark.parametrize(("answer", "said"), [
    ("Card lost.", "card lost"), ("billing\nbecause it is", "billing"), ("It is about billing", "billing"),
    ("billing or card lost", "billing"), ("either billing or card lost", None), ("", None),
])  # fmt: skip
def test_a_label_is_read_out_of_an_answer(answer: str, said: str | None) -> None:
    assert text.label_said(answer, ["billing", "card lost"]) == said


@pytest.mark.parametrize(("answer", "expected", "hit"), [
    ("#### 18", "9 + 9 = <<9+9=18>>18\n#### 18", 1.0), ("The answer is $1,250.00.", "#### 1250", 1.0),
    ("18.5", "#### 18", 0.0), ("none", "#### 18", 0.0), ("-3", "#### -3.0", 1.0), ("1e3", "1000", 1.0),
])  # fmt: skip
def test_numbers_are_compared_as_numbers(answer: str, expected: str, hit: float) -> None:
    assert text.numeric_match(answer, expected) == hit


@pytest.mark.parametrize(("told", "score"), [
    ("Good.\nScore: 4", 4), ("**Score:** 3.5", 3.5), ("I'd say 2/5", 2), ("Of 7 points I like 6.\n5", 5),
    ("Score: 9", None), ("no idea", None), ("Rating is 1.", 1), ("Between 2 and 4", None),
])  # fmt: skip
def test_a_judges_number_is_read(told: str, score: float | None) -> None:
    assert judge.read_score(told) == score


def test_ratings_follow_the_votes() -> None:
    chance = random.Random(1)
    strength = {"strong": 400, "middle": 200, "weak": 0}
    battles = []
    for _ in range(300):
        a, b = chance.sample(sorted(strength), 2)
        wins = chance.random() < 1 / (1 + 10 ** ((strength[b] - strength[a]) / 400))
        battles.append((a, b, "a" if wins else "b"))
    found = elo.ratings([*battles, ("weak", "middle", "both_bad")])
    assert [row.model for row in found] == ["strong", "middle", "weak"]
    assert found[0].rating - found[2].rating == pytest.approx(400, abs=120)
    for row in found:
        assert row.low is not None and row.high is not None and row.low < row.rating < row.high
        assert row.wins + row.losses + row.ties == row.battles
    assert elo.ratings([]) == [] and elo.ratings(battles[:2])[0].low is None
