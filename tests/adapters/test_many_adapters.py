"""Several adapters: names, patterns, one base, one shape for each module."""

from __future__ import annotations

import os

import numpy as np
import pytest
from adapter_files import lora, peft_config

from hydraopt.adapters import base_key, check_same_base, read_adapter, read_adapters
from hydraopt.errors import AdapterFormatError, AlignmentError, BaseMismatchError, UsageError
from tests.raising import raises


def names(adapters):
    return [adapter.name for adapter in adapters]


def base(name, **settings):
    return peft_config(base_model_name_or_path=name, **settings)


def test_patterns_paths_and_given_names(save, tmp_path):
    for folder in ("zoo/fr", "zoo/de", "zoo/en"):
        save(folder, lora(), peft_config())
    (tmp_path / "zoo" / "README.md").write_text("not an adapter")
    (tmp_path / "zoo" / "plots").mkdir()
    zoo = f"{tmp_path}/zoo"
    assert names(read_adapters(f"{zoo}/*")) == ["de", "en", "fr"]
    assert names(read_adapters([f"{zoo}/[df]*", f"dutch={zoo}/en"])) == ["de", "dutch", "fr"]
    assert names(read_adapters(tmp_path / "zoo" / "fr")) == ["fr"]
    assert names(read_adapters([f"{zoo}/fr", f"{zoo}/*", f"{zoo}/fr/"])) == ["de", "en", "fr"]
    assert names(read_adapters([f"a={zoo}/fr", f"b={zoo}/fr"])) == ["a", "b"]


@pytest.fixture
def zoo(save, tmp_path):
    """Two adapters, and beside them what published sets hold as well."""
    for folder in ("zoo/de", "zoo/fr"):
        save(folder, lora(), peft_config())
    (tmp_path / "zoo" / "SHA256SUMS").write_text("0" * 64)
    (tmp_path / "zoo" / "README.md").write_text("not an adapter")
    return tmp_path / "zoo"


def test_a_shells_pattern_leaves_other_files_out_and_says_so(zoo):
    found = read_adapters(sorted(zoo.iterdir()))
    assert names(found) == ["de", "fr"]
    (note,) = found.notes
    assert (note.code, note.where) == ("no_adapter", f"{zoo}/README.md, {zoo}/SHA256SUMS")
    # No adapter was read as another one because of what lies beside it.
    assert all(adapter.notes == () for adapter in found)
    assert read_adapters([zoo / "de", zoo / "fr"]).notes == ()


def test_our_own_pattern_says_so_too(zoo):
    (zoo / "plots").mkdir()
    (note,) = read_adapters(f"{zoo}/*").notes
    assert note.where == f"{zoo}/README.md, {zoo}/SHA256SUMS, {zoo}/plots"


def test_adapters_of_one_name_are_told_what_their_tasks_are_called(save, tmp_path):
    for i in range(2):
        save(f"run{i}/last", lora(), peft_config())
    save("run0/first", lora(), peft_config())
    found = read_adapters([tmp_path / "run0" / "first", tmp_path / "run0" / "last"])
    assert (names(found), found.notes) == (["first", "last"], ())
    found = read_adapters(f"{tmp_path}/run[01]/*")
    assert names(found) == ["first", "run0-last", "run1-last"]
    (note,) = found.notes
    assert (note.code, note.where) == ("same_name", "run0-last, run1-last")
    # One that was given a name has no other.
    named = read_adapters([f"x={tmp_path}/run0/last", tmp_path / "run1" / "last"])
    assert (names(named), named.notes) == (["last", "x"], ())


def test_weight_files_of_a_folder_are_adapters_to_lie_beside(save, tmp_path):
    for name in ("de", "fr"):
        save("all", lora(), peft_config(), file=f"{name}.safetensors")
    (tmp_path / "all" / "notes.txt").touch()
    found = read_adapters(sorted(tmp_path.joinpath("all").glob("*.[st]*")))
    assert names(found) == ["de", "fr"]
    (note,) = found.notes
    assert (note.code, note.where) == ("no_adapter", f"{tmp_path}/all/notes.txt")


@pytest.mark.parametrize(
    "items",
    [
        ["{}/SHA256SUMS"],
        ["{}/SHA256SUMS", "{}/README.md"],
        ["{}/de", "x={}/SHA256SUMS"],
        ["{}/de", "{}/../elsewhere.txt"],
        ["{}/de", "{}/broken.safetensors"],
        ["{}/de", "{}/empty"],
        ["{}/de", "{}/missing"],
    ],
)
def test_a_name_given_outright_still_fails(zoo, items):
    (zoo.parent / "elsewhere.txt").touch()
    (zoo / "broken.safetensors").write_text("no tensors")
    (zoo / "empty").mkdir()
    with pytest.raises(AdapterFormatError):
        read_adapters([item.format(zoo) for item in items])


def test_a_path_with_an_equals_sign_is_a_path(save):
    folder = save("lr=1", lora(), peft_config())
    assert names(read_adapters(str(folder))) == ["lr=1"]


def test_equal_folder_names_are_told_apart_by_their_parents(save, tmp_path):
    for folder in ("a/checkpoint", "b/checkpoint", "a/last/best", "b/last/best", "c"):
        save(folder, lora(), peft_config())
    paths = [
        tmp_path / x for x in ("a/checkpoint", "b/checkpoint", "a/last/best", "b/last/best", "c")
    ]
    expected = ["a-checkpoint", "a-last-best", "b-checkpoint", "b-last-best", "c"]
    assert names(read_adapters(paths)) == expected
    assert names(read_adapters(reversed(paths))) == expected


@pytest.mark.parametrize(
    ("items", "facts"),
    [
        ([], {}),
        (["{}/nothing*"], {}),
        (["x={}/*"], {}),
        (["x={}/fr", "x={}/de"], {"got": "x"}),
        (["fr={}/de", "{}/fr"], {"got": "fr"}),
        (["={}/fr"], {"got": "''"}),
        (["x="], {"got": "'x='"}),
    ],
)
def test_requests_that_make_no_sense(save, tmp_path, items, facts):
    for folder in ("fr", "de"):
        save(folder, lora(), peft_config())
    with raises(UsageError, **facts):
        read_adapters([item.replace("{}", str(tmp_path)) for item in items])


@pytest.mark.parametrize("folder", [" lead", "a:b", "x" * 210])
def test_a_folder_that_cannot_name_a_task_wants_a_name(save, tmp_path, folder):
    save(f"odd/{folder}", lora(), peft_config())
    with pytest.raises(UsageError) as caught:
        read_adapters(f"{tmp_path}/odd/*")
    assert f"[file {tmp_path}/odd/{folder}]; got {folder[:60]!r}, expected" in str(caught.value)
    assert str(caught.value).count("got") == 1
    assert names(read_adapters(f"lead={tmp_path}/odd/{folder}")) == ["lead"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("google/gemma-3-270m", "/models/Gemma-3-270m/"),
        ("gemma-3-270m", "C:\\models\\gemma-3-270m\\"),
        ("google/gemma-3-270m", "/c/hub/models--google--gemma-3-270m/snapshots/0a1b2c"),
    ],
)
def test_one_base_under_two_names(save, first, second):
    folders = [save("fr", lora(), base(first)), save("de", lora(), base(second))]
    adapters = read_adapters(folders)
    assert base_key(first) == base_key(second)
    assert check_same_base(adapters, False) == second  # "de" sorts first


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (base("org/a"), base("org/b")),
        (base("org/a"), base(None)),
        (base("org/a", revision="1"), base("org/a", revision="2")),
    ],
)
def test_two_bases(save, first, second):
    folders = [save("fr", lora(), first), save("de", lora(), second)]
    with pytest.raises(BaseMismatchError):
        read_adapters(folders)
    assert names(read_adapters(folders, same_base=True)) == ["de", "fr"]


def test_a_revision_that_is_not_stated_agrees(save):
    folders = [save("fr", lora(), base("a", revision="1")), save("de", lora(), base("a"))]
    assert len(read_adapters(folders)) == 2


def test_no_base_stated_anywhere(save):
    folders = [save("fr", lora(), base(None)), save("de", lora(), base(None))]
    assert check_same_base(read_adapters(folders), False) is None
    assert check_same_base(read_adapters(folders, base_model="org/a"), False) == "org/a"


def test_shapes_must_agree_but_ranks_and_modules_may_differ(save):
    fr = save("fr", lora(), peft_config())
    de = save("de", lora(rank=3, paths=("h.0.q", "h.1.q")), peft_config(r=3))
    assert [len(adapter.modules) for adapter in read_adapters([fr, de])] == [2, 1]
    en = save("en", lora(m=6), peft_config())
    with raises(AlignmentError, got="one base: de, fr; one base, shapes 2: en") as caught:
        read_adapters([fr, de, en], same_base=True)
    assert all(fact in str(caught.value) for fact in ("h.0.q", "(6, 7)"))


def test_one_adapter_alone(save):
    (adapter,) = read_adapters(save("fr", lora(), peft_config()))
    again = read_adapter(adapter.source)
    assert again.content_hash() == adapter.content_hash()


def test_many_adapters_hold_no_files_open(save):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = save("fr", lora(), peft_config())
    few = len(os.listdir("/proc/self/fd")) + 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(few, hard), hard))
    try:
        adapters = read_adapters([f"t{i}={folder}" for i in range(200)])
        factors = [adapter.modules["h.0.q"].factors() for adapter in adapters]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(np.array_equal(b, factors[0][0]) for b, _ in factors)
