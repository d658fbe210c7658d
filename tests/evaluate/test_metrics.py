"""Metrics: known values, what counts as equal, and which one META.json means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hydraopt.errors import UsageError
from hydraopt.evaluate.scores import paired_difference
from hydraopt.evaluate.tasks import METRICS, TaskExample, metrics_of


def score(name: str, pairs: list[tuple[str, str]], language: str = "en") -> float:
    """Score of (answer, expected) pairs."""
    metric = METRICS[name]
    rows = [metric.of_row(got, TaskExample("", want, (want,)), language) for got, want in pairs]
    return metric.total(np.array(rows, float))


def test_every_metric_gives_a_perfect_answer_everything() -> None:
    text = "SearchWork(type: game; name: x) a b c d #### 12"
    for name in METRICS:
        assert score(name, [(text, text)] * 3) == pytest.approx(100), name


def test_every_metric_gives_an_empty_answer_nothing() -> None:
    for name in METRICS:
        assert score(name, [("", "a: b; c: d e f g #### 3")] * 3) == pytest.approx(0), name


@pytest.mark.parametrize(
    ("name", "pairs", "wanted"),
    [
        ("exact match", [("a ", "a"), ("b", "a")], 50),
        ("accuracy", [("a", "a"), ("b", "a"), ("a", "a"), ("", "a")], 50),
        ("token accuracy", [("N V", "N V D"), ("N", "V")], 50),
        ("exact match of the number after ####", [("so\n#### 1,200", "#### 1200")], 100),
        ("exact match of the number after ####", [("1200", "#### 1200")], 0),
        ("intent accuracy", [("Play(a: b)", "Play(a: c)"), ("Stop()", "Play()")], 50),
        # 2 right of 3 answered and 3 expected.
        ("slot F1", [("a: 1; b: 2; c: 9", "a: 1; b: 2; c: 3")], 200 / 3),
        # Right, answered, expected words: 1 of 2 and 1 of 1.
        ("token-F1", [("the cat", "Cat.")], 200 / 3),
        # Classes a: P 1/2 R 1, b: P - R 0; the class that nobody expects is none.
        ("macro-F1", [("a", "a"), ("a", "b"), ("z", "b")], 100 * (2 / 3) / 2),
        ("ROUGE-L", [("a c", "a b c")], 80),
    ],
)
def test_known_values(name, pairs, wanted) -> None:
    assert score(name, pairs) == pytest.approx(wanted)


def test_characters_where_words_have_no_spaces() -> None:
    assert score("token-F1", [("東京都", "東京")], "ja") == pytest.approx(80)
    assert 0 < score("GLEU", [("東京都だ", "東京都です")], "ja") < 100
    assert 0 < score("BLEU", [("我今天去学校上课", "我今天去学校上学")], "zh") < 100


def test_bleu_is_the_corpus_score_of_its_library() -> None:
    from sacrebleu import corpus_bleu

    pairs = [("the cat sat on the mat", "the cat is on the mat"), ("it rains today", "it rains")]
    wanted = corpus_bleu([g for g, _ in pairs], [[w for _, w in pairs]]).score
    assert score("BLEU", pairs) == pytest.approx(wanted)


def test_more_references_can_only_help() -> None:
    row = TaskExample("", "a b c d", ("a b c d", "w x y z"))
    for name in ("chrF", "BLEU", "GLEU", "ROUGE-L", "token-F1"):
        metric = METRICS[name]
        assert metric.total(np.array([metric.of_row("w x y z", row, "en")])) == pytest.approx(100)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("accuracy (chance 20 %)", ["accuracy"]),
        ("token accuracy (position-wise)", ["token accuracy"]),
        ("exact match of the number after ####", ["exact match of the number after ####"]),
        ("GLEU / chrF / exact match; report also the copy", ["GLEU", "chrF", "exact match"]),
        ("accuracy / macro-F1", ["accuracy", "macro-F1"]),
        ('exact match; intent accuracy = text before "("', ["exact match", "intent accuracy"]),
        ("BLEU / chrF / ROUGE-L, several references", ["BLEU", "chrF", "ROUGE-L"]),
        ("chrF++ / BLEU", ["BLEU"]),
        ("token-level accuracy, chrF (sentence-level)", ["chrF"]),
        ("inexact match / macro-F1", ["macro-F1"]),
        ("GLEU/accuracy,chrF", ["GLEU", "accuracy", "chrF"]),
    ],
)
def test_what_meta_means(said, names) -> None:
    assert [metric.name for metric in metrics_of(said)] == names


def test_an_unknown_metric_is_refused() -> None:
    for said in ("vibes", "chrF++", "token-level accuracy", "inexact match", "BLEU4"):
        with pytest.raises(UsageError):
            metrics_of(said)


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 50, 333])
def test_the_interval_is_that_of_scipy(rows: int) -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(rows)
    old, new = rng.random((rows, 2)), rng.random((rows, 2))

    def ratio(numbers: np.ndarray) -> float:
        return 100 * float(numbers[:, 0].sum() / (1 + numbers[:, 1].sum()))

    found = paired_difference(old, new, ratio, draws=300, seed=7)
    known = bootstrap(
        (np.arange(rows),),
        lambda pick: ratio(new[pick]) - ratio(old[pick]),
        n_resamples=300,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(7),
    )
    low, high = known.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(known.standard_error)
    assert found.difference == ratio(new) - ratio(old)


# --- metrics of text in other scripts than latin, and macro-f1 ag --------------------------------


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
