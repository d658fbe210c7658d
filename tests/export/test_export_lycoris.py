"""What LyCORIS adds to kohya files: read, merged, written back; the formulas are the papers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hydraopt.adapters import read_adapter
from hydraopt.bundle import TaskAdapter, open_bundle
from hydraopt.errors import AdapterFormatError, HydraoptError
from hydraopt.export import FORMATS, export_kohya, export_task
from hydraopt.merging import merge
from tests.export.targets import save_base
from tests.marks import slow
from tests.raising import raises

Tensors = dict[str, NDArray[Any]]
PATH = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
ALPHA = np.array(1.0, np.float32)


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, *shape])
    return rng.standard_normal(shape).astype(np.float32)


def loha(seed: int = 0, r: int = 3) -> Tensors:
    shapes = {
        "hada_w1_a": (12, r),
        "hada_w1_b": (r, 20),
        "hada_w2_a": (12, r),
        "hada_w2_b": (r, 20),
    }
    return {k: random(*x, seed=seed + i) for i, (k, x) in enumerate(shapes.items())} | {
        "alpha": ALPHA
    }


def lokr(seed: int = 0, r: int = 2, first: bool = False, second: bool = True) -> Tensors:
    made = {"alpha": ALPHA}
    for i, low, shape in ((1, first, (6, 5)), (2, second, (8, 9))):
        if low:
            made[f"lokr_w{i}_a"] = random(shape[0], r, seed=seed)
            made[f"lokr_w{i}_b"] = random(r, shape[1], seed=seed)
        else:
            made[f"lokr_w{i}"] = random(*shape, seed=seed)
    return made


def loha_core(seed: int = 0) -> Tensors:
    sides = {"w1_a": (3, 12), "w1_b": (3, 20), "w2_a": (3, 12), "w2_b": (3, 20)}
    made = {f"hada_{k}": random(*x, seed=seed + i) for i, (k, x) in enumerate(sides.items())}
    cores = {f"hada_t{i}": random(3, 3, 2, 2, seed=seed + i) for i in (1, 2)}
    return made | cores | {"alpha": ALPHA}


def lokr_core(seed: int = 0) -> Tensors:
    made = lokr(seed, first=True, second=False)
    del made["lokr_w2"]
    core = {"lokr_w2_a": random(2, 8), "lokr_w2_b": random(2, 9), "lokr_t2": random(2, 2, 3, 3)}
    return made | core


def lora_core(seed: int = 0) -> Tensors:
    return {
        "lora_up.weight": random(8, 2, 1, 1, seed=seed),
        "lora_mid.weight": random(2, 2, 3, 3, seed=seed),
        "lora_down.weight": random(2, 6, 1, 1, seed=seed),
        "alpha": ALPHA,
    }


def glora(seed: int = 0) -> Tensors:
    shapes = {"a1": (20, 2), "a2": (2, 20), "b1": (12, 2), "b2": (2, 20)}
    return {f"{k}.weight": random(*x, seed=seed) for k, x in shapes.items()} | {"alpha": ALPHA}


KINDS: dict[str, Tensors] = {
    "loha": loha(),
    "loha core": loha_core(),
    "lokr": lokr(),
    "lokr both": lokr(first=True),
    "lokr first": lokr(first=True, second=False),
    "lokr whole": lokr(second=False),
    "lokr core": lokr_core(),
    "lora core": lora_core(),
    "full": {"diff": random(12, 20), "diff_b": random(12)},
    "norm": {"w_norm": random(12), "b_norm": random(12)},
    "oft": {"oft_blocks": random(3, 4, 4), "rescale": random(12, 1), "alpha": ALPHA},
    "ia3": {"weight": random(12), "on_input": np.array(0)},
    "glora": glora(),
}


def dense(x: Tensors) -> NDArray[Any]:
    """dW, a kernel's axes as they are, by the formulas: LoHa, LoKr (Yeh et al. 2024, 3.1, 3.2)."""
    x = {k: v.astype(np.float64) for k, v in x.items()}

    def factor(name: str, core: str) -> NDArray[Any]:
        if name in x:
            return x[name]
        a, b = x[f"{name}_a"], x[f"{name}_b"]
        if core in x:
            return np.einsum("ijkl,ip,jr->prkl", x[core], a, b)
        return a @ b

    if "hada_w1_a" in x:
        rank = len(x["hada_w1_b"])
        product = factor("hada_w1", "hada_t1") * factor("hada_w2", "hada_t2")
    elif "lokr_w1" in x or "lokr_w1_a" in x:
        pairs = [v for k, v in x.items() if k in ("lokr_w1_b", "lokr_w2_b")]
        rank = len(pairs[0]) if pairs else 0
        w1, w2 = factor("lokr_w1", ""), factor("lokr_w2", "lokr_t2")
        product = np.kron(w1.reshape(*w1.shape, *(1 for _ in w2.shape[2:])), w2)
    elif "lora_mid.weight" in x:
        up, down = x["lora_up.weight"][:, :, 0, 0], x["lora_down.weight"][:, :, 0, 0]
        rank = len(down)
        product = np.einsum("mnkl,im,nj->ijkl", x["lora_mid.weight"], up, down)
    else:
        raise AssertionError(sorted(x))
    alpha = float(x["alpha"]) if "alpha" in x else 0.0
    return product * (alpha / rank if alpha and rank else 1.0)


def save(folder: Path, parts: Tensors, name: str = "style", path: str = PATH) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.safetensors"
    save_file({f"{path}.{k}": np.asarray(x) for k, x in parts.items()}, file)
    return file


def task_of(folder: Path, *files: Path, **limit: Any) -> TaskAdapter:
    bundle = folder / "b.hydra.safetensors"
    bundle.unlink(missing_ok=True)
    merge(list(files), bundle, workers=1, **limit)
    return open_bundle(bundle)["style"]


def back(task: TaskAdapter, folder: Path, **options: Any) -> Tensors:
    export_kohya(task, folder / "out.safetensors", overwrite=True, **options)
    found = load_file(folder / "out.safetensors")
    return {k.removeprefix(f"{PATH}."): x for k, x in found.items()}


def apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("lo")])
@pytest.mark.parametrize("alpha", [1.0, slow(0.0), slow(None)])
def test_products_come_back_as_the_formulas_have_them(
    kind: str, alpha: float | None, tmp_path: Path
) -> None:
    parts = {k: x for k, x in KINDS[kind].items() if k != "alpha"}
    if alpha is not None:
        parts["alpha"] = np.array(alpha, np.float16)
    file = save(tmp_path, parts)
    task = task_of(tmp_path, file, error=0.005)
    found = back(task, tmp_path)
    assert set(found) == set(parts)
    assert apart(dense(found), dense(parts)) < 0.02
    exact = task_of(tmp_path, file, lossless=True)
    assert {k: x.tobytes() for k, x in back(exact, tmp_path).items()} == {
        k: np.asarray(x).tobytes() for k, x in parts.items()
    }
    wide = {k: x.astype(np.float16) for k, x in parts.items() if k != "alpha"}
    half = save(tmp_path, {**wide, **{k: x for k, x in parts.items() if k == "alpha"}})
    found = back(task_of(tmp_path, half, lossless=True), tmp_path, dtype="float32")
    assert apart(dense(found), dense({**parts, **wide})) < 1e-6


def test_factors_are_modules_with_the_scale_in_the_first(tmp_path: Path) -> None:
    file = save(tmp_path, {**loha(), "alpha": np.array(1.5, np.float32)})
    first, second = read_adapter(file).modules.values()
    assert (first.path, second.path) == (f"{PATH}::w1", f"{PATH}::w2")
    assert (first.scale, second.scale) == (0.5, 1.0)
    assert (first.layout, first.group, second.group, first.groups) == ("factor", 0, 1, 2)
    product = np.matmul(*first.factors()) * np.matmul(*second.factors())
    assert apart(product, dense({**loha(), "alpha": np.array(1.5)})) < 1e-6
    (only,) = read_adapter(save(tmp_path, lokr())).modules.values()
    assert (only.path, only.scale, only.group) == (f"{PATH}::w2.8x9", 0.5, 1)


@pytest.mark.parametrize("kind", ["loha", "lokr both", "lokr core"])
def test_a_factor_of_less_rank_is_padded(kind: str, tmp_path: Path) -> None:
    """Both factors have the one rank that alpha is divided by, and that a core has."""
    parts = dict(KINDS[kind])
    name = next(k for k in parts if k.endswith("w1_a"))
    parts[name] = parts[name] * np.eye(parts[name].shape[1])[0].astype(np.float32)
    found = back(task_of(tmp_path, save(tmp_path, parts), error=0.005), tmp_path)
    assert found["alpha"] == found[name].shape[1]
    other = "lokr_t2" if kind == "lokr core" else name.replace("w1_a", "w2_b")
    assert len(found[other]) == found[name].shape[1]
    assert apart(dense(found), dense(parts)) < 0.02


def test_adapters_may_split_a_layer_differently(tmp_path: Path) -> None:
    other = {"lokr_w1": random(2, 3), "lokr_w2_a": random(24, 2), "lokr_w2_b": random(2, 15)}
    files = save(tmp_path, lokr()), save(tmp_path, other, "other")
    assert apart(dense(back(task_of(tmp_path, *files, error=0.01), tmp_path)), dense(lokr())) < 0.05


@pytest.mark.parametrize("kind", ["full", "norm", "oft", "ia3", "glora", "lora core"])
def test_other_kinds_are_kept_beside_pairs_or_alone(kind: str, tmp_path: Path) -> None:
    pair = {
        "lora_unet_x.lora_up.weight": random(8, 2),
        "lora_unet_x.lora_down.weight": random(2, 6),
    }
    for beside in ({}, pair):
        file = tmp_path / "style.safetensors"
        save_file({f"{PATH}.{k}": x for k, x in KINDS[kind].items()} | beside, file)
        adapter = read_adapter(file)
        assert adapter.format == "kohya"
        assert "saved" not in adapter.extra_kinds.values()
        found = back(task_of(tmp_path, file, error=0.01), tmp_path)
        for key, x in KINDS[kind].items():
            np.testing.assert_allclose(found[key], x, rtol=0.1, atol=0.1)
        assert len(found) == len(KINDS[kind]) + (3 if beside else 0)


def test_what_an_error_of_each_tensor_means(tmp_path: Path) -> None:
    def kinds(parts: str | Tensors) -> dict[str, str]:
        adapter = read_adapter(save(tmp_path, KINDS[parts] if isinstance(parts, str) else parts))
        return {k.removeprefix(f"{PATH}."): x for k, x in adapter.extra_kinds.items()}

    assert kinds("oft") == {"oft_blocks": "tuner", "rescale": "tuner_ones", "alpha": "exact"}
    assert kinds("ia3") == {"weight": "tuner", "on_input": "exact"}
    assert kinds("full") == {"diff": "tuner", "diff_b": "tuner"}
    assert kinds("lokr") == {"lokr_w1": "tuner"}
    assert set(kinds("loha core").values()) == {"tuner", "exact"}
    tlora = {"q_layer.weight": random(2, 6), "p_layer.weight": random(8, 2)}
    tlora |= {"lambda_layer": random(1, 2), "alpha": ALPHA}
    assert set(kinds(tlora).values()) == {"exact"}


def test_one_file_of_everything(tmp_path: Path) -> None:
    """Both text encoders of SDXL and the U-Net, each of another kind, and a DoRA magnitude."""
    stems = {"lora_te1_a": "loha", "lora_te2_b": "lokr both", "lora_unet_c": "full"}
    made = {f"{p}.{k}": x for p, kind in stems.items() for k, x in KINDS[kind].items()}
    made |= {"lora_unet_d.lora_up.weight": random(8, 2), "lora_te1_a.dora_scale": random(12, 1),
             "lora_unet_d.lora_down.weight": random(2, 6), "lora_unet_d.alpha": ALPHA}  # fmt: skip
    save_file(made, tmp_path / "style.safetensors")
    task = task_of(tmp_path, tmp_path / "style.safetensors", error=0.01)
    assert set(back(task, tmp_path)) == set(made)
    assert task.extra_kinds["lora_te1_a.dora_scale"] == "dora_magnitude"


def test_an_alpha_from_the_caller(tmp_path: Path) -> None:
    """It is in the factors, or refused where none of them can hold it."""
    parts = {k: x for k, x in loha().items() if k != "alpha"}
    file = save(tmp_path, parts)
    for limit in ({"lossless": True}, {"error": 0.005}):
        found = back(task_of(tmp_path, file, alpha=6, **limit), tmp_path)
        assert "alpha" not in found
        assert apart(dense(found), 2 * dense(parts)) < 0.02
    core = {k: x for k, x in loha_core().items() if k != "alpha"}
    with raises(
        AdapterFormatError,
        module="lora_te2_text_model_encoder_layers_0_mlp_fc1",
        file="style.safetensors",
        got="a scale of 2",
    ):
        read_adapter(save(tmp_path, core), alpha=6)
    read_adapter(save(tmp_path, core))


@pytest.mark.parametrize("form", [x for x in FORMATS if x != "kohya"])
@pytest.mark.parametrize("kind", ["loha", "full"])
def test_no_other_format_has_a_match(form: str, kind: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, save(tmp_path, KINDS[kind]), error=0.01)
    options = {"base": save_base(tmp_path / "base")} if FORMATS[form].needs_base else {}
    with raises(HydraoptError, adapter="style"):
        export_task(task, tmp_path / "out", format=form, **options)
    if form in ("vllm", "diffusers"):
        with raises(HydraoptError, adapter="style"):
            export_task(task, tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


def changed(kind: str, **parts: NDArray[Any] | None) -> Tensors:
    made = {**KINDS[kind], **{k.replace("__", "."): x for k, x in parts.items()}}
    return {k: x for k, x in made.items() if x is not None}


@pytest.mark.parametrize(
    "parts",
    [
        changed("loha", hada_w2_b=None),
        changed("loha", hada_w1_a=None),
        changed("loha core", hada_t2=None),
        changed("loha", **loha(r=2) | {"hada_w1_a": random(12, 3), "hada_w1_b": random(3, 20)}),
        changed("loha", hada_w1_b=random(4, 20)),
        changed("loha", hada_w1_b=random(3, 0)),
        changed("loha", hada_w1_b=random(3, 4, 5)),
        changed("loha", hada_w1_b=random(3, 20).astype(int)),
        changed("loha", hada_w3_a=random(3, 3)),
        changed("loha", lokr_w1=random(3, 3)),
        changed("loha", lora_up__weight=random(12, 3)),
        changed("loha", alpha=np.array(np.nan, np.float32)),
        changed("loha", alpha=random(2)),
        changed("loha core", alpha=np.array(np.inf, np.float32)),
        changed("loha core", hada_t1=random(3, 3)),
        changed("loha core", hada_t1=random(4, 4, 2, 2), hada_t2=random(4, 4, 2, 2)),
        changed("loha core", hada_t2=random(3, 3, 1, 4)),
        changed("lokr", lokr_w1=None),
        changed("lokr", lokr_w2_a=None),
        changed("lokr", lokr_w2=random(8, 9)),
        changed("lokr", lokr_w1=random(6, 5, 1)),
        changed("lokr", lokr_w1=random(0, 5)),
        changed("lokr", lokr_w1=random(6, 5).astype(int)),
        changed("lokr both", lokr_w1_a=random(6, 3), lokr_w1_b=random(3, 5)),
        changed("lokr core", lokr_t2=random(3, 3, 3, 3)),
        changed("lokr core", lokr_t1=random(3, 3, 3, 3)),
        changed("lora core", lora_mid__weight=random(3, 2, 3, 3)),
        changed("lora core", lora_down__weight=None),
        changed("full", diff=random(0, 4)),
        changed("full", diff=random(3, 4).astype(int)),
        changed("glora", b1__weight=None),
        changed("ia3", weight=None),
        changed("oft", oft_blocks=random(4)),
        changed("oft", oft_other=random(4)),
    ],
)  # fmt: skip
def test_refusals_name_file_and_module(parts: Tensors, tmp_path: Path) -> None:
    file = save(tmp_path, parts)
    with raises(AdapterFormatError, file="style.safetensors") as caught:
        read_adapter(file)
    assert str(caught.value.file) == str(file)
    assert PATH in str(caught.value)


def test_more_refusals(tmp_path: Path) -> None:
    with raises(AdapterFormatError, module="lora_unet_a::w1", file="style.safetensors"):
        read_adapter(save(tmp_path, loha(), path="lora_unet_a::w1"))
    pair = {f"unet.up.attn1.to_q.lora_{x}.weight": random(4, 4) for x in "AB"}
    mixed = {f"unet.up.a.{k}": x for k, x in loha().items()}
    folder = tmp_path / "pytorch_lora_weights.safetensors"
    settings = {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 4}'}
    save_file(pair | mixed, folder, metadata=settings)
    with raises(AdapterFormatError, file="pytorch_lora_weights.safetensors"):
        read_adapter(folder)
