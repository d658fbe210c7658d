"""Adapter files for onnxruntime: run in it, on small models with LoRA inputs, against W + dW."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hydraopt.bundle import TaskAdapter
from hydraopt.errors import ExportError, MissingExtraError, UsageError
from hydraopt.export import export_onnx
from tests.conftest import write_adapter
from tests.export.targets import RANKS, bundled, of_onnx, pairs, products, small_task
from tests.raising import raises

CODES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
Namer = Callable[[str, str], str]


def olive(path: str, half: str) -> str:
    return f"{path}.{half}.weight"


def torch_exporter(path: str, half: str) -> str:
    return f"base_model.model.{path}.{half}.default.weight"


def builder(path: str, half: str) -> str:
    return f"{path.replace('self_attn', 'attn')}.{half}.MatMul.weight"


NAMERS = pytest.mark.parametrize("namer", [olive, torch_exporter, builder])


def weights(seed: int = 5) -> dict[str, NDArray[Any]]:
    """A weight (m, n) for every layer that the tasks change, by path."""
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal((len(b), a.shape[1])) / 4 for path, (b, a) in pairs().items()}


def lora_model(
    file: Path,
    namer: Namer = olive,
    dtype: str = "float32",
    rank: int | None = None,
    optional: bool = True,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """x W' + (x A) B for each layer, each with an input and an output of its own, A and B inputs.

    rank: of A and B; any, if None.  optional: without an adapter they are of rank 0, as Olive's
    pass makes them.
    """
    code, kind = CODES[dtype], np.dtype(dtype)
    nodes, inputs, outputs, held = [], [], [], []
    for i, (path, w) in enumerate({**weights(), **(more or {})}.items()):
        m, n = w.shape
        a, b = namer(path, "lora_A"), namer(path, "lora_B")
        held.append(numpy_helper.from_array(w.T.astype(kind), f"w{i}"))
        nodes += [
            helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"base{i}"]),
            helper.make_node("MatMul", [f"x{i}", a], [f"down{i}"]),
            helper.make_node("MatMul", [f"down{i}", b], [f"up{i}"]),
            helper.make_node("Add", [f"base{i}", f"up{i}"], [f"y{i}"]),
        ]
        inputs.append(helper.make_tensor_value_info(f"x{i}", code, [None, n]))
        for name, shape in ((a, [n, rank or "lora_r"]), (b, [rank or "lora_r", m])):
            inputs.append(helper.make_tensor_value_info(name, code, shape))
            if optional:
                empty = np.zeros([x if isinstance(x, int) else 0 for x in shape], kind)
                held.append(numpy_helper.from_array(empty, name))
        outputs.append(helper.make_tensor_value_info(f"y{i}", code, [None, m]))
    graph = helper.make_graph(nodes, "lora", inputs, outputs, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    onnx.save(made, file)
    return file


def run(
    model: Path, dtype: str = "float32", adapter: Path | None = None, by_hand: bool = False
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """(inputs, outputs) of all layers in onnxruntime.

    by_hand: feed what the file holds. Python's session wants all required inputs so, before it
    looks at adapters, which in C count.
    """
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of each input that has a value of its own
    session = onnxruntime.InferenceSession(model, quiet, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    names = [x.name for x in session.get_inputs() if x.name.startswith("x")]
    sizes = {x.name: x.shape[1] for x in session.get_inputs()}
    feeds = {name: rng.standard_normal((3, sizes[name])).astype(dtype) for name in names}
    options, own = onnxruntime.RunOptions(), {}
    if adapter is not None and by_hand:
        read = onnxruntime.AdapterFormat.read_adapter(str(adapter)).get_parameters()
        own = {name: x.numpy() for name, x in read.items()}
    elif adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        options.add_active_adapter(loaded)
    outputs = session.run(None, feeds | own, options)
    return list(feeds.values()), [np.asarray(x) for x in outputs]


def assert_merged(
    task: TaskAdapter, inputs: list[NDArray[Any]], outputs: list[NDArray[Any]], rtol: float
) -> None:
    """Outputs are those of the weights with the task's change added to them."""
    changes = products(task)
    for (path, w), x, y in zip(weights().items(), inputs, outputs, strict=True):
        expected = x.astype(np.float64) @ (w + changes[path]).T
        np.testing.assert_allclose(y, expected, atol=rtol * np.abs(expected).max(), err_msg=path)
        without = x.astype(np.float64) @ w.T
        assert np.abs(expected - without).max() > 10 * rtol * np.abs(expected).max()


@NAMERS
def test_onnxruntime_computes_what_the_merged_weights_do(namer: Namer, tmp_path: Path) -> None:
    task = small_task(tmp_path)
    model = lora_model(tmp_path / "model.onnx", namer)
    target = tmp_path / "x.onnx_adapter"
    export_onnx(task, target, base=model)
    assert_merged(task, *run(model, adapter=target), rtol=1e-5)
    inputs, outputs = run(model)  # the same session without it is the base model
    for w, x, y in zip(weights().values(), inputs, outputs, strict=True):
        np.testing.assert_allclose(y, x @ w.T, atol=1e-4)


def test_names_are_olives_where_no_model_is_given(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    target = tmp_path / "x.onnx_adapter"
    export_onnx(task, target)
    assert_merged(task, *run(lora_model(tmp_path / "m.onnx"), adapter=target), rtol=1e-5)
    read = onnxruntime.AdapterFormat.read_adapter(str(target)).get_parameters()
    rank = max(RANKS.values())
    for path, (b, a) in pairs().items():
        assert read[f"{path}.lora_A.weight"].shape() == [a.shape[1], rank]
        assert read[f"{path}.lora_B.weight"].shape() == [rank, b.shape[0]]


def test_half_precision(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    (tmp_path / "model").mkdir()
    model = lora_model(tmp_path / "model" / "model.onnx", dtype="float16")
    target = tmp_path / "x.onnx_adapter"
    export_onnx(task, target, base=model.parent)  # its type is taken
    assert_merged(task, *run(model, "float16", target), rtol=3e-3)
    export_onnx(task, target, dtype="float16", overwrite=True)
    assert_merged(task, *run(model, "float16", target), rtol=3e-3)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", 1), ("float16", 10), ("bfloat16", 16)])
def test_the_type_asked_for_is_written(dtype: str, kind: int, tmp_path: Path) -> None:
    target = tmp_path / "x.onnx_adapter"
    export_onnx(small_task(tmp_path), target, dtype=dtype)
    read = onnxruntime.AdapterFormat.read_adapter(str(target))
    assert {x.element_type() for x in read.get_parameters().values()} == {kind}
    with pytest.raises(UsageError):
        export_onnx(small_task(tmp_path), target, dtype="float64", overwrite=True)


@pytest.mark.parametrize(("stored", "kind"), [(np.float32, 1), (np.float16, 10), (np.float64, 1)])
def test_the_same_type_is_one_that_models_take(stored: Any, kind: int, tmp_path: Path) -> None:
    target = tmp_path / "x.onnx_adapter"
    export_onnx(small_task(tmp_path, dtype=stored), target)
    read = onnxruntime.AdapterFormat.read_adapter(str(target))
    assert {x.element_type() for x in read.get_parameters().values()} == {kind}


def test_a_model_of_fixed_rank_gets_that_rank(tmp_path: Path) -> None:
    task, target = small_task(tmp_path), tmp_path / "x.onnx_adapter"
    for optional in (True, False):
        model = lora_model(tmp_path / f"{optional}.onnx", rank=16, optional=optional)
        export_onnx(task, target, base=model, overwrite=True)
        assert_merged(task, *run(model, adapter=target, by_hand=not optional), rtol=1e-5)
    with raises(ExportError, adapter="numbers", module="model.layers.0.mlp.down_proj"):
        export_onnx(task, target, base=lora_model(tmp_path / "8.onnx", rank=8), overwrite=True)
    assert set(of_onnx(target, model)) == set(pairs())  # what was there stays


def test_inputs_that_the_model_needs_and_the_task_lacks_are_zeros(tmp_path: Path) -> None:
    task, target = small_task(tmp_path), tmp_path / "x.onnx_adapter"
    more = {"model.layers.2.mlp.up_proj": np.ones((4, 6))}
    model = lora_model(tmp_path / "model.onnx", optional=False, more=more)
    export_onnx(task, target, base=model)
    inputs, outputs = run(model, adapter=target, by_hand=True)
    assert_merged(task, inputs[:-1], outputs[:-1], rtol=1e-5)
    np.testing.assert_allclose(outputs[-1], inputs[-1] @ np.ones((6, 4)), atol=1e-5)
    export_onnx(task, target, overwrite=True)
    with pytest.raises(ValueError, match="up_proj"):  # without them onnxruntime refuses
        run(model, adapter=target, by_hand=True)


def test_what_the_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "x.onnx_adapter"
    model = lora_model(tmp_path / "model.onnx")
    for path, facts in (
        (
            "model.layers.7.self_attn.q_proj",
            {
                "adapter": "model.layers.7.self_attn.q_proj",
                "module": "model.layers.7.self_attn.q_proj",
                "got": "none for lora_A",
                "expected": "(40, 1)",
            },
        ),
        (
            "model.layers.0.mlp.down_proj",
            {
                "adapter": "model.layers.0.mlp.down_proj",
                "module": "model.layers.0.mlp.down_proj",
                "expected": "(40, 1)",
            },
        ),
    ):
        made = write_adapter(tmp_path / path, {path: (np.ones((32, 2)), np.ones((2, 40)))})
        (tmp_path / path / "b").mkdir()
        task = bundled(tmp_path / path / "b", made)[path]
        with raises(ExportError, **facts) as caught:
            export_onnx(task, target, base=model)
        assert path in str(caught.value)
    assert not target.exists()


def test_bases_that_are_none_are_refused(tmp_path: Path) -> None:
    task, target = small_task(tmp_path), tmp_path / "x.onnx_adapter"
    (tmp_path / "junk.onnx").write_bytes(b"\xff" * 50)
    plain = lora_model(tmp_path / "plain.onnx", lambda path, half: f"{path}.{half[-1]}")
    for base in (tmp_path / "nowhere.onnx", tmp_path / "junk.onnx", plain):
        with pytest.raises(UsageError):
            export_onnx(task, target, base=base)
    half = lora_model(tmp_path / "half.onnx", dtype="float16")
    with pytest.raises(UsageError):
        export_onnx(task, target, base=half, dtype="float32")
    with pytest.raises(UsageError):
        export_onnx(task, half, base=half, overwrite=True)  # onto the model itself
    assert not target.exists()


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_missing_packages_are_said(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = small_task(tmp_path), lora_model(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError):
        export_onnx(task, tmp_path / "x.onnx_adapter", base=model)
