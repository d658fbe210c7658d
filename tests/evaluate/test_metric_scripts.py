"""Metrics of text in other scripts than Latin, and macro-F1 against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hydraopt.evaluate.metrics import METRICS
from tests.evaluate.test_metrics import score


@pytest.mark.parametrize(("answer", "right"), [("कि", "का"), ("हिंदी", "हद"), ("น้ำ", "นำ")])
def test_marks_tell_words_apart(answer, right) -> None:
    assert score("token-F1", [(answer, right)], "hi") == 0
    assert score("token-F1", [(answer + "।", answer)], "hi") == 100


def test_punctuation_and_symbols_do_not_count_and_articles_do() -> None:
    assert score("token-F1", [("$5_000!", "5000")]) == 100
    assert score("token-F1", [("the cat", "cat")]) == pytest.approx(200 / 3)


@pytest.mark.parametrize("space", [" ", "\u3000", "\n", "\t"])
def test_spaces_between_characters_do_not_count(space) -> None:
    for name in ("token-F1", "ROUGE-L", "GLEU"):
        assert score(name, [(f"東京{space}都庁", "東京都庁")], "ja") == 100


def test_rouge_is_by_characters_where_words_have_no_spaces() -> None:
    assert score("ROUGE-L", [("東京都", "東京")], "ja") == pytest.approx(80)
    assert score("ROUGE-L", [("我今天去", "我明天去")], "zh") == pytest.approx(75)
    assert score("ROUGE-L", [("東京都", "東京")], "en") == 0


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = int(rng.integers(1, 60)), int(rng.integers(1, 9))
    numbers = rng.choice(rng.integers(0, 2**32, 12), (rows, 2)).astype(float)
    numbers[:, 0] = rng.choice(numbers[:labels, 0], rows)
    wanted = f1_score(
        numbers[:, 0],
        numbers[:, 1],
        labels=np.unique(numbers[:, 0]),
        average="macro",
        zero_division=0,
    )
    assert METRICS["macro-F1"].total(numbers) == pytest.approx(100 * wanted, abs=1e-9)


def test_a_bootstrap_of_macro_f1_calls_no_library(monkeypatch) -> None:
    import sklearn.metrics

    monkeypatch.setattr(sklearn.metrics, "f1_score", None)
    assert score("macro-F1", [("a", "a"), ("b", "a")]) == pytest.approx(200 / 3)
