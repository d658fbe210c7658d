"""Make common mistakes at the command line and check whether each refusal names a remedy.

    python -m benchmarks.hostile mistakes --json FILE

Types each mistake in a folder with two small adapters, a bundle of them, and files wrong in one way
each. A mistake passes if the command refuses it (exit code 2; 1 for verify), in words that
hold the remedy named here, and leaves every file as it was. Exit code 1 if one does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.commands import parser_of
from benchmarks.common import provenance, write_result
from hydraopt.cli.main import cli
from hydraopt.doctor.sample import two_adapters

__all__ = ["MISTAKES", "Mistake", "made_folder", "tried"]

BUNDLE = "b.hydra.safetensors"


@dataclass(frozen=True)
class Mistake:
    """words: what is typed after ``hydraopt``. says: the remedy, or part of it. code: the exit
    code."""

    what: str
    words: str
    says: str
    code: int = 2


MISTAKES = (
    Mistake("a command mistyped", "mrege adapters/*", "Did you mean 'merge'?"),
    Mistake("an option mistyped", "merge adapters/* --sise 5% -o x", "'--size'"),
    Mistake("no output", "merge adapters/* --size 5%", "-o"),
    Mistake("no adapters", "merge -o x", "ADAPTERS"),
    Mistake("a pattern without a match", "merge adaptors/* -o x", "Check it"),
    Mistake("a folder that is not there", "merge adapters/fr -o x", "Check the path"),
    Mistake(
        "a folder without an adapter", "merge empty -o x", "expected adapter_model.safetensors"
    ),
    Mistake("a file that is no adapter", "merge notes.txt -o x", "expected .safetensors"),
    Mistake("an adapter without its config", "merge noconfig -o x", "Put the adapter's config"),
    Mistake("half a download", "merge cut -o x", "download or save it again"),
    Mistake("an adapter of another base", "merge adapters/* other -o x", "--same-base"),
    Mistake("a bundle for an adapter", f"merge {BUNDLE} -o x", "hydraopt add"),
    Mistake("two limits", "merge adapters/* --size 5% --error 0.1 -o x", "expected one"),
    Mistake("a percentage without its sign", "merge adapters/* --size 5 -o x", "5%"),
    Mistake("a size that nothing fits", "merge adapters/* --size 300 -o x", "Ask for more"),
    Mistake("a size in words", "merge adapters/* --size small -o x", "expected 5%"),
    Mistake("an error above one", "merge adapters/* --error 5 -o x", "between 0 and 1"),
    Mistake("an error of nothing", "merge adapters/* --error 0 -o x", "between 0 and 1"),
    Mistake("harm without a base", "merge adapters/* --harm 1% -o x", "--base"),
    Mistake("harm without prompts", "merge adapters/* --base empty --harm 1% -o x", "--prompts"),
    Mistake("prompts without a base", "merge adapters/* --prompts empty -o x", "--base"),
    Mistake("a base that is not there", "merge adapters/* --base nowhere -o x", "OWNER/NAME"),
    Mistake("a plan without a limit", "plan adapters/* --base b --prompts p", "--size"),
    Mistake("a plan without prompts", "plan adapters/* --base b --size 5%", "--prompts"),
    Mistake("a weight of no task", "merge adapters/* --weight fr=2 -o x", "expected one, two"),
    Mistake("a weight without a number", "merge adapters/* --weight one -o x", "'='"),
    Mistake("an output that is a file of ours", "merge adapters/* -o notes.txt", "--force"),
    Mistake("an output in no folder", "merge adapters/* -o no/such/x", "Create it first"),
    Mistake(
        "an adapter's folder as output", "merge adapters/* -o adapters/one", "expected a file name"
    ),
    Mistake("an output folder in use", "merge adapters/* -o coll/", "Empty it, or name another"),
    Mistake("export of no task", f"export {BUNDLE}", "-o"),
    Mistake("a task mistyped", f"export {BUNDLE} onne -o o", "expected one"),
    Mistake("export over an adapter", f"export {BUNDLE} one -o adapters/two", "--force"),
    Mistake("an unknown format", f"export {BUNDLE} one -o o --format ggml", "gguf"),
    Mistake("GGUF without its base", f"export {BUNDLE} one -o o --format gguf", "--base"),
    Mistake("a bundle that is not there", "export c.hydra.safetensors one -o o", "Check the path"),
    Mistake("an adapter for a bundle", "export adapters/one one -o o", "core"),
    Mistake("a bundle that is cut", "verify bad.hydra.safetensors", "again", 1),
    Mistake("other originals", f"verify {BUNDLE} other", "missing in the originals", 1),
    Mistake("nothing to inspect", "inspect", "ADAPTERS"),
    Mistake("a picture of no kind", f"inspect {BUNDLE} --plot x.doc", "expected .png"),
    Mistake("a shrink that grows", f"shrink {BUNDLE} --size 99% -o y", "smaller size"),
    Mistake("a name that is taken", f"add {BUNDLE} adapters/one", "replace"),
    Mistake("remove of no task", f"remove {BUNDLE} onne", "expected one"),
    Mistake("replace of no task", f"add {BUNDLE} NEW=adapters/one --replace", "expected"),
    Mistake("a refresh by size without an output", f"refresh {BUNDLE} --size 5%", "--force"),
    Mistake("split into a file", f"split {BUNDLE} -o notes.txt", "Give a folder"),
    Mistake("split into a folder in use", f"split {BUNDLE} -o adapters", "Empty it"),
    Mistake("join of no core", "join empty -o z", "core"),
    Mistake("a bundle and an adapter", f"inspect {BUNDLE} adapters/one", "two bundles"),
    Mistake("eval without tasks", f"eval {BUNDLE} --base nowhere", "--tasks"),
    Mistake("serve without a bundle", "serve base", "BUNDLE"),
    Mistake("a list of nothing", "inspect nothing --list", "Check the path"),
    Mistake("a report without a file", f"report {BUNDLE}", "-o"),
    Mistake("a page and a card", f"report {BUNDLE} --card --serve", "cannot be combined"),
)


def made_folder(folder: Path) -> None:
    """Fill a folder with what the mistakes are about."""
    (folder / "adapters").mkdir()
    one, _ = two_adapters(folder / "adapters")
    for name in ("noconfig", "other", "cut"):
        shutil.copytree(one, folder / name)
    (folder / "noconfig" / "adapter_config.json").unlink()
    config = folder / "other" / "adapter_config.json"
    told = {**json.loads(config.read_text()), "base_model_name_or_path": "org/other"}
    config.write_text(json.dumps(told))
    weights = folder / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes")
    with chdir(folder):
        run = CliRunner().invoke(cli, ["merge", "adapters/*", "--size", "20%", "-o", BUNDLE])
        assert run.exit_code == 0, run.output
        assert CliRunner().invoke(cli, ["split", BUNDLE, "-o", "coll"]).exit_code == 0
    (folder / "bad.hydra.safetensors").write_bytes((folder / BUNDLE).read_bytes()[:-100])


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(x for x in folder.rglob("*") if x.is_file())
    return {str(x): hashlib.sha256(x.read_bytes()).hexdigest() for x in files}


def tried(mistake: Mistake, folder: Path) -> dict[str, Any]:
    """Type a mistake in the folder; return the answer's code and words, and whether it is right."""
    before = _hashes(folder)
    words = [*_globbed(mistake.words.split(), folder)]
    with chdir(folder):
        run = CliRunner().invoke(cli, words, prog_name="hydraopt")
    said = run.stderr if run.exit_code == 2 else run.output
    text = " ".join(said.replace(os.fspath(folder), ".").split())
    fine = run.exit_code == mistake.code and mistake.says in text
    return {
        "mistake": mistake.what,
        "typed": f"hydraopt {mistake.words}",
        "code": run.exit_code,
        "said": text[-600:],
        "says_what_to_do": fine,
        "untouched": _hashes(folder) == before,
    }


def _globbed(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the words as a shell gives them."""
    for word in words:
        there = sorted(folder.glob(word)) if "*" in word else []
        yield from (os.fspath(x.relative_to(folder)) for x in there)
        if not there:
            yield word


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made_folder(folder)
        rows = [tried(mistake, folder) for mistake in MISTAKES]
    bad = [row for row in rows if not (row["says_what_to_do"] and row["untouched"])]
    for row in bad:
        print(f"{row['mistake']}: {row['typed']}\n  {row['code']}: {row['said']}")
    print(f"{len(rows) - len(bad)} of {len(rows)} refusals say what to do and touch nothing")
    if args.json is not None:
        head = {"schema": "hydraopt.mistakes/1", **provenance("mistakes at the command line")}
        write_result(args.json.parent, args.json.stem, head, rows)
    sys.exit(1 if bad else 0)
