"""The command hydra: the same bytes as hydraopt's, and what it says where it cannot."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hydraopt.adapters import RawTensor, open_safetensors
from hydraopt.bundle import (
    Manifest,
    ModuleEntry,
    TaskEntry,
    open_bundle,
    pack_bundle,
    pack_carried,
    split,
)
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.cli.main import cli
from hydraopt.codec import ChunkWriter, write_record
from tests.bundle.bundles import tiny
from tests.marks import slow
from tests.native.conftest import GOLDEN, LAYOUTS, Run
from tests.native.mutants import Pieces

SECOND = GOLDEN / "second.hydra.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of an adapter, without the card that Python writes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


@pytest.mark.parametrize("dtype", ["same", slow("float32"), slow("bfloat16")])
def test_the_bytes_are_those_of_python(run: Run, dtype: str, tmp_path: Path) -> None:
    for bundle in (SECOND, *(x / "bundle.hydra.safetensors" for x in LAYOUTS)):
        for i, task in enumerate(open_bundle(bundle).one_by_one()):
            ours, theirs = (tmp_path / f"{side}-{bundle.parent.name}-{i}" for side in "ab")
            export_peft(task, ours, dtype=dtype)
            done = run("extract", bundle, task.name, "--dtype", dtype, "-o", theirs)
            assert done.returncode == 0, (bundle, done.stderr)
            assert files(theirs) == files(ours), bundle


def test_a_core_and_its_tasks_are_the_bundle(run: Run, tmp_path: Path) -> None:
    split(SECOND, tmp_path / "apart")
    assert run("verify", tmp_path / "apart").returncode == 0
    run("extract", SECOND, "fr", "-o", tmp_path / "whole")
    for place in (tmp_path / "apart", next((tmp_path / "apart").glob("*.core.safetensors"))):
        out = tmp_path / f"from-{place.suffix}"
        assert run("extract", place, "fr", "-o", out).returncode == 0
        assert files(out) == files(tmp_path / "whole")
    (tmp_path / "apart" / "de.task.safetensors").unlink()
    assert "de" not in run("list", tmp_path / "apart").stdout.split()
    alone = run("list", tmp_path / "apart" / "fr.task.safetensors")
    assert alone.returncode == 2
    assert "core" in alone.stderr


def test_tasks_of_another_core_are_refused(run: Run, tmp_path: Path) -> None:
    for source in (SECOND, LAYOUTS[0] / "bundle.hydra.safetensors"):
        split(source, tmp_path / source.parent.name)
    stranger = next((tmp_path / LAYOUTS[0].name).glob("*.task.safetensors"))
    folder = tmp_path / SECOND.parent.name
    stranger.rename(folder / "zz.task.safetensors")
    done = run("list", folder)
    assert done.returncode == 1
    assert "zz.task" in done.stderr


def test_list_says_names_sizes_and_errors(run: Run) -> None:
    lines = run("list", SECOND).stdout.splitlines()
    assert lines[0] == "3 tasks of org/tiny"
    assert [line.split()[-1] for line in lines[2:]] == ["de", "fr", "same"]
    assert lines[3].split()[1:3] == ["15.00", "4.71"]


def test_list_counts_what_is_carried(run: Run) -> None:
    lines = run("list", SECOND).stdout.splitlines()[2:]
    rows = open_bundle(SECOND).rows
    assert any(x.carried_bytes for x in rows)
    expected = [x.own_bytes + x.carried_bytes for x in rows]
    assert [int(line.split()[0]) for line in lines] == expected


def test_a_cut_bundle_is_said_to_be_cut(run: Run, tmp_path: Path) -> None:
    data = SECOND.read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    done = run("list", tmp_path / "x")
    assert done.returncode == 1
    assert all(str(x) in done.stderr for x in (len(data) - 1, len(data)))


def test_raw_holds_what_the_task_is(run: Run, tmp_path: Path) -> None:
    task, made = open_bundle(SECOND)["fr"], tmp_path / "x"
    words = ("extract", SECOND, "fr", "--to", "raw", "--dtype", "f64", "-o", made)
    assert run(*words).returncode == 0
    tensors = open_safetensors(made, made.stat().st_size)
    for path, factors in task.factors().items():
        product = tensors[f"{path}.B"].float64() @ tensors[f"{path}.A"].float64()
        assert abs(product - factors.B @ factors.A).max() <= 1e-12 * abs(product).max()
    for key, tensor in task.extras.items():
        assert tensors[key].raw() == tensor.raw()


@pytest.mark.parametrize("name", ["--all", "-o", "--", "-", "--help"])
def test_a_task_may_be_called_as_an_option_is(run: Run, name: str, tmp_path: Path) -> None:
    path = tmp_path / "b.hydra.safetensors"
    pieces = Pieces.of((GOLDEN / "layouts" / "linear" / "bundle.hydra.safetensors").read_bytes())
    whole = json.loads(pieces.text)
    whole["tasks"]["name"] = [name]
    pieces.text = json.dumps(whole, sort_keys=True).encode()
    path.write_bytes(pieces.pack())
    export_peft(open_bundle(path)[name], tmp_path / "ours")
    done = run("extract", path, "-o", tmp_path / "theirs", "--", name)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "theirs") == files(tmp_path / "ours")
    python = CliRunner().invoke(cli, ["export", str(path), "-o", str(tmp_path / "x"), "--", name])
    assert python.exit_code == 0, python.output
    assert files(tmp_path / "x") == files(tmp_path / "ours")


def test_what_is_there_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    done = run("extract", SECOND, "fr", "-o", tmp_path / "x")
    assert done.returncode == 2
    assert str(tmp_path / "x") in done.stderr
    assert files(tmp_path / "x") == {"mine": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failure_leaves_nothing(run: Run, tmp_path: Path) -> None:
    data = bytearray(SECOND.read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad").write_bytes(data)
    done = run("extract", tmp_path / "bad", "fr", "-o", tmp_path / "x")
    assert done.returncode == 1
    assert "checksum" in done.stderr
    assert "carried/0" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "Examples:"),
        (("--help",), 0, "Examples:"),
        (("look", "x"), 2, "verbs are"),
        (("list",), 2, "bundle is missing"),
        (("list", "no-such-file"), 1, "No such file"),
        (("list", GOLDEN), 1, "without a core"),
        (("extract", SECOND, "xx", "-o", "y"), 1, "no such task"),
        (("extract", SECOND, "fr"), 2, "needs TASK and -o"),
        (("extract", SECOND, "fr", "-o", "y", "--dtype", "int"), 2, "--dtype is"),
        (("extract", SECOND, "fr", "-o", "y", "--to", "zip"), 2, "--to is"),
        (("extract", SECOND, "fr", "-o", "y", "--to", "gguf"), 2, "needs --base"),
        (("extract", SECOND, "fr", "-o"), 2, "an option lacks its value; got -o"),
        (("extract", SECOND, "fr", "de", "-o", "y"), 2, "too many arguments; got de"),
        (("list", SECOND, "fr"), 2, "list takes a bundle and nothing else; got fr. Usage: hydra"),
        (("verify", SECOND, "--to", "raw"), 2, "verify takes a bundle and nothing else; got --to."),
    ],
)
def test_the_command_line(run: Run, words: tuple[object, ...], code: int, says: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert says in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [("list", SECOND), ("verify", SECOND), ("--version",)], ids=str)
def test_output_that_is_lost_is_said(hydra: str, words: tuple[object, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        line = [hydra, *map(str, words)]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "hydra: the standard output cannot be written; got " + (
        "No space left on device\n"
    )


def test_a_task_that_is_not_there_gets_names_of_others(run: Run, tmp_path: Path) -> None:
    done = run("extract", SECOND, "xx", "-o", "y")
    assert all(x in done.stderr for x in ("'xx'", "de", "fr", "same"))
    names = [f"{task}-{x}" for task in ("dates", "numbers") for x in ("de", "en", "es", "fr")]
    tiny(names).write(tmp_path / "b")
    done = run("extract", tmp_path / "b", "xx", "-o", "y")
    says = 'expected one of 8: dates-de, dates-en, dates-es and 5 more. "hydra list" names all\n'
    assert says in done.stderr


def test_an_older_version_is_refused(run: Run, tmp_path: Path) -> None:
    data = SECOND.read_bytes()
    (tmp_path / "x").write_bytes(data.replace(b'"format_version":"2"', b'"format_version":"1"', 1))
    done = run("list", tmp_path / "x")
    assert done.returncode == 1
    assert re.search(r"\b1\b.*\b2\b", done.stderr)


def test_raw_takes_no_others_place(run: Run, tmp_path: Path) -> None:
    (name, *_) = open_bundle(SECOND)
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"mine")
    done = run("extract", SECOND, name, "-o", target, "--to", "raw")
    assert done.returncode == 2
    assert "already" in done.stderr
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["peft", "raw", "gguf"])
def test_a_folder_that_is_not_there_is_named(run: Run, kind: str, tmp_path: Path) -> None:
    base = tmp_path / "config.json"
    base.write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, '
        '"num_attention_heads": 4, "num_key_value_heads": 2}'
    )
    target = tmp_path / "no" / "x"
    done = run("extract", SECOND, "fr", "-o", target, "--to", kind, "--base", base)
    assert done.returncode == 1
    says = f"hydra: {target}: its folder is not there. Make the folder {target.parent}/ first\n"
    assert done.stderr == says
    assert list(tmp_path.iterdir()) == [base]


@pytest.mark.parametrize(
    ("key", "shown"),
    [("\x1b[31m\x7f\x9b1m\n", "?[31m??1m?"), (79 * "a" + "\xe9", 79 * "a" + "?")],
    ids=["controls", "cut"],
)
def test_messages_hold_nothing_that_a_terminal_obeys(
    run: Run, key: str, shown: str, tmp_path: Path
) -> None:
    pieces = Pieces.of(SECOND.read_bytes())
    pieces.text = json.dumps({**json.loads(pieces.text), key: 1}, ensure_ascii=False).encode()
    (tmp_path / "x").write_bytes(pieces.pack())
    done = run("list", tmp_path / "x")
    assert done.returncode == 1
    assert f"'{shown}'" in done.stderr
    assert done.stderr[:-1].isprintable()


def carrying(path: Path, keys: list[str]) -> None:
    """A bundle of a task "a" with a module h.q, and tensors of these keys."""
    tensors = {key: RawTensor.from_numpy(key, np.ones(1, np.float32)) for key in keys}
    carried, stream = pack_carried({"a": tensors}), ChunkWriter()
    write_record(stream, None, False)
    stream.end_record(0)
    task = TaskEntry("a", 0, 0, modules=(0,), errors=(0.0,), carried=carried.tasks["a"])
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"]}
    modules = (ModuleEntry("h.q", "linear", 1, 1),)
    manifest = Manifest(modules, (task,), blobs=tuple(carried.blobs), configs=(config,))
    pack_bundle(manifest, b"", [stream.finish()], list(carried.data)).write(path)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["x\0a", "x\0b"], "zero byte"),
        (["h.q.B"], 'one name; got "h.q.B"'),
        (["h.q.b", "h.r.B"], ""),
    ],
    ids=["zero", "twice", "fine"],
)
def test_raw_refuses_names_that_it_cannot_write(
    run: Run, keys: list[str], says: str, tmp_path: Path
) -> None:
    bundle, made = tmp_path / "b.hydra.safetensors", tmp_path / "x"
    carrying(bundle, keys)
    done = run("extract", bundle, "a", "--to", "raw", "-o", made)
    if not says:
        assert done.returncode == 0, done.stderr
        assert {*open_safetensors(made, made.stat().st_size)} == {*keys, "h.q.A", "h.q.B"}
        return
    assert done.returncode == 1
    assert says in done.stderr
    assert [*tmp_path.iterdir()] == [bundle]


def test_a_folder_may_have_more_files_than_a_process(hydra: str, tmp_path: Path) -> None:
    pieces = Pieces.of((LAYOUTS[0].parent / "linear" / "bundle.hydra.safetensors").read_bytes())
    whole = json.loads(pieces.text)
    names = [f"t{i:02}" for i in range(40)]
    codes = whole["tasks"]["errors"]
    same = codes if isinstance(codes, dict) else {"=": codes[0]}
    whole["tasks"] = {"name": names, "content": {"=": 0}, "errors": same}
    pieces.text = json.dumps(whole, sort_keys=True).encode()
    (tmp_path / "b.hydra.safetensors").write_bytes(pieces.pack())
    split(tmp_path / "b.hydra.safetensors", tmp_path / "apart")
    few = ["sh", "-c", 'ulimit -n 16; exec "$@"', "sh", hydra]
    for words in (["verify", "apart"], ["extract", "apart", "t20", "-o", "out"]):
        done = subprocess.run([*few, *words], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "adapter_config.json").exists()
