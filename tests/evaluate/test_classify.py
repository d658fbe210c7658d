"""Adapters that classify sequences: scores with their heads, against PEFT's and scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F

from hydraopt import merge, open_bundle
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.evaluate import EvaluationRequest, evaluate, read_compared
from hydraopt.evaluate.classify import Classifier, encode_texts, run_classification
from hydraopt.evaluate.tasks import read_task_file
from hydraopt.model import load_model
from tests.conftest import write_adapter
from tests.raising import raises

Q = "model.layers.0.self_attn.q_proj"
BOTH = [Q, Q.replace("0", "1")]
LABELS = ("bad", "good", "so-so")
TEXTS = [f"text {i} {'x' * (i % 5)}" for i in range(24)]


@pytest.fixture
def base(trained, tmp_path) -> Path:
    trained[0].save_pretrained(tmp_path / "base")
    trained[1].save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def mood(tmp_path) -> Path:
    """A folder with the task "mood" in "en"."""
    folder = tmp_path / "tasks" / "mood"
    (folder / "en").mkdir(parents=True)
    meta = {"instruction": "How?", "metric": "macro-F1", "label_set": ["so-so", "bad", "good"]}
    (folder / "META.json").write_text(json.dumps(meta))
    rows = [{"input": x, "output": LABELS[i % 3]} for i, x in enumerate(TEXTS)]
    (folder / "en" / "test.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    return folder.parent


def adapter(folder: Path, labels: int = 3, seed: int = 0, **config: Any) -> Path:
    rng = np.random.default_rng(seed)
    factors = {x: (0.3 * rng.standard_normal((32, 4)), rng.standard_normal((4, 32))) for x in BOTH}
    head = {"base_model.model.score.weight": rng.standard_normal((labels, 32)).astype(np.float32)}
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    return write_adapter(folder, factors, extras=head, **{**settings, **config})


def meta_with(tasks: Path, **more: Any) -> None:
    file = tasks / "mood" / "META.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def peft_logits(base: Path, folder: Path, labels: int = 3) -> torch.Tensor:
    """Row by row, without padding."""
    from peft import PeftModel

    model, tokenizer = load_model(base, labels=labels)
    model = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        return torch.cat([model(**tokenizer(x, return_tensors="pt")).logits for x in TEXTS])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_scores_are_those_of_peft_and_scikit_learn(base, mood, tmp_path) -> None:
    merge([adapter(tmp_path / "mood-en")], tmp_path / "b", error=0.3, workers=1)
    open_bundle(tmp_path / "b")["mood-en"].save_pretrained(tmp_path / "out", dtype="float32")
    compared = read_compared([str(tmp_path / "mood-en"), str(tmp_path / "b")])
    (task,) = evaluate(compared, EvaluationRequest(str(base), mood)).tasks
    assert (task.metric, task.rows, set(task.results)) == (
        "macro-F1",
        24,
        {"original", "b"},
    )
    old, new = (peft_logits(base, tmp_path / x) for x in ("mood-en", "out"))
    wanted = np.arange(24) % 3
    for name, logits in (("original", old), ("b", new)):
        found, best = task.results[name], logits.argmax(1).numpy()
        f1 = f1_score(wanted, best, average="macro", labels=[0, 1, 2])
        accuracy = 100 * accuracy_score(wanted, best)
        assert found.scores["accuracy"] == pytest.approx(accuracy, abs=1e-3)
        assert found.scores["macro-F1"] == pytest.approx(100 * f1, abs=1e-3)
        loss = F.cross_entropy(logits, torch.tensor(wanted)).item()
        assert found.loss == pytest.approx(loss, abs=2e-5)
        assert found.recovery is None
    flips = int((old.argmax(1) != new.argmax(1)).sum())
    kl = F.kl_div(new.log_softmax(1), old.log_softmax(1), log_target=True, reduction="batchmean")
    assert task.results["b"].changed == flips
    assert task.results["b"].changed_pct == pytest.approx(100 * flips / 24, abs=1e-3)
    assert task.results["b"].kl_answer == task.results["b"].kl
    assert task.results["b"].agreement == pytest.approx(100 - 100 * flips / 24, abs=1e-3)
    assert task.results["b"].kl == pytest.approx(kl.item(), abs=1e-5)
    assert kl > 1e-4
    change = task.results["b"].difference["accuracy"]
    assert change.low <= change.difference <= change.high


def test_the_order_of_labels(base, mood, tmp_path) -> None:
    assert read_task_file(mood, "mood", "en").labels == LABELS
    meta_with(mood, labels=["good", "so-so", "bad"])
    assert read_task_file(mood, "mood", "en").labels == ("good", "so-so", "bad")
    meta_with(mood, labels=None, label_set=None)
    assert read_task_file(mood, "mood", "en").labels == LABELS
    for odd in (["a", "a"], [1], "ab", []):
        meta_with(mood, labels=odd)
        with raises(UsageError, expected="different strings"):
            read_task_file(mood, "mood", "en")


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000])
def test_a_meta_file_that_is_no_object_is_refused(mood, text) -> None:
    (mood / "mood" / "META.json").write_text(text)
    with pytest.raises(UsageError):
        read_task_file(mood, "mood", "en")


def test_noise_on_the_head_flips_labels_and_the_model_stays(base, mood) -> None:
    model, tokenizer = load_model(base, labels=3)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    rows = encode_texts(read_task_file(mood, "mood", "en"), tokenizer, 3)
    rng = np.random.default_rng(0)
    head = rng.standard_normal((3, 32)).astype(np.float32)
    other = rng.standard_normal((3, 32)).astype(np.float32)
    sets = {
        "a": Classifier({}, {"score.weight": head}),
        "b": Classifier({}, {"score.weight": other}),
    }
    found = run_classification(model, rows, sets, "a")
    assert found["a"].agreement_percent == 100
    assert found["a"].divergence_per_token == 0
    assert found["b"].agreement_percent < 100
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def test_long_rows_are_left_out(base, mood, tmp_path) -> None:
    compared = read_compared([str(adapter(tmp_path / "mood-en"))])
    lengths = [len(x) for x in TEXTS]
    (task,) = evaluate(compared, EvaluationRequest(str(base), mood, tokens=max(lengths) - 1)).tasks
    assert (task.rows, task.left_out) == (
        sum(x < max(lengths) for x in lengths),
        lengths.count(max(lengths)),
    )
    with raises(UsageError, got="--max-tokens"):
        evaluate(compared, EvaluationRequest(str(base), mood, tokens=2))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"labels": 4}, {"got": "so-so"}),
        ({"task_type": "TOKEN_CLS"}, {"got": "base_model.model.score.weight"}),
    ],
)
def test_what_does_not_fit_is_refused(change, facts, base, mood, tmp_path) -> None:
    compared = read_compared([str(adapter(tmp_path / "mood-en", **change))])
    with raises(UsageError, **facts):
        evaluate(compared, EvaluationRequest(str(base), mood))


def test_an_adapter_without_its_head_is_refused(base, mood, tmp_path) -> None:
    bare = write_adapter(
        tmp_path / "mood-en", {Q: (np.ones((32, 2)), np.ones((2, 32)))}, task_type="SEQ_CLS"
    )
    with raises(UsageError, got="no saved tensors", expected="score.weight"):
        evaluate(read_compared([str(bare)]), EvaluationRequest(str(base), mood))


def test_a_label_that_is_none_is_refused(base, mood) -> None:
    meta_with(mood, label_set=["bad", "good", "fine"])
    with raises(UsageError, got="'so-so'"):
        encode_texts(read_task_file(mood, "mood", "en"), load_model(base)[1], 3)


def test_a_saved_tensor_without_a_place_is_refused(base, mood) -> None:
    model, tokenizer = load_model(base, labels=3)
    rows = encode_texts(read_task_file(mood, "mood", "en"), tokenizer, 3)
    odd = {"pooler.weight": np.zeros((3, 3), np.float32)}
    with raises(AlignmentError, file="base", got="no such tensor", expected="(3, 3)"):
        run_classification(model, rows, {"a": Classifier({}, odd)})


def test_a_base_that_lacks_a_tensor_of_its_body_is_refused(base) -> None:
    from safetensors.torch import load_file, save_file

    file = base / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"{Q}.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with raises(UsageError, file="base", got="1: model.layers.0.self_attn.q_proj.weight"):
        load_model(base, labels=3)
