"""Compare the sizes and errors that are estimated for users with those of the commands.

    python -m benchmarks.coding estimates examples/adapters zoo/adapters/qwen25coder-code5

Each folder is a set. It is merged to --size; then every size on the bundle's report is made with
shrink, or with merge where the report is given the originals, and its mean and worst error are
compared. Sizes that inspect estimates for an error are compared with those of a merge, and the
saving that refresh expects of a collection (one merged adapter, the others added) with what it
saves. The last line is the largest deviation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import CODING, provenance, write_result
from hydraopt import merge, open_bundle, shrink
from hydraopt.editing.refresh import expected_saving, refresh
from hydraopt.editing.verbs import add
from hydraopt.errors import AlignmentError
from hydraopt.inspect import inspect_adapters
from hydraopt.report.build import build

__all__ = ["compared"]

DEFAULTS = (
    "examples/adapters",
    *(
        f"zoo/adapters/{x}"
        for x in ("smollm2-cls4", "smollm2-tuners5", "qwen25coder-code5", "gemma3-5x8")
    ),
)
FIRST_ERROR = 0.3
"""Of the adapter that a collection begins with."""


def errors_of(path: Path) -> dict[str, float]:
    """Return the mean and the worst error that a bundle states."""
    errors = [task.error for task in open_bundle(path).manifest.tasks]
    return {"mean error": sum(errors) / len(errors), "worst error": max(errors)}


def row(what: str, at: str, estimate: float, made: float) -> dict[str, Any]:
    """Print and return one estimate and what came out, with the relative deviation."""
    deviation = estimate / made - 1
    print(f"  {what:22} {at:>12} {estimate:12.4f} {made:12.4f} {deviation:+8.2%}", flush=True)
    return {"what": what, "at": at, "estimate": estimate, "made": made, "deviation": deviation}


def of_sizes(
    what: str, bundle: Path, originals: Sequence[Path], out: Path
) -> Iterator[dict[str, Any]]:
    """Yield the errors of every size that the report of a bundle estimates."""
    for size in build(bundle, originals).sizes:
        if size.kind != "estimated":
            continue
        if originals:
            merge(originals, out, size=size.size)
        else:
            shrink(bundle, out, size=size.size)
        made, estimate = errors_of(out), size.values["error"]
        for value, (key, real) in zip(estimate[:2], made.items(), strict=True):
            yield row(f"{what}, {key}", f"{size.size:,} B", value, real)


def of_inspect(adapters: Sequence[Path], out: Path) -> Iterator[dict[str, Any]]:
    """Yield every size that inspect estimates for an error."""
    for guess in inspect_adapters(adapters).guesses:
        sizes = {"bytes": guess.bytes, "private_bytes": guess.private_bytes}
        for (key, size), forms in zip(sizes.items(), (None, ["private"]), strict=True):
            if size is not None:
                made = merge(adapters, out, error=guess.error, forms=forms)
                yield row(f"inspect, {key}", str(guess.error), size, made.size)


def of_refresh(adapters: Sequence[Path], out: Path) -> Iterator[dict[str, Any]]:
    """Yield the size that refresh expects, with originals and without."""
    merge(adapters[:1], out, error=FIRST_ERROR)
    try:
        add(out, adapters[1:])
    except AlignmentError:  # of other kinds, with other modules
        return
    fresh = out.with_name("fresh.hydra.safetensors")
    given: Mapping[str, Sequence[Path]] = {"decoded": (), "originals": adapters}
    for name, originals in given.items():
        expected = expected_saving(out, adapters=originals)
        made = refresh(out, fresh, adapters=originals)
        yield row("refresh, bytes", name, expected.expected_size, made.size)


def compared(adapters: Sequence[Path], size: str) -> Iterator[dict[str, Any]]:
    """Yield all estimates of one set."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, out = Path(folder) / "x.hydra.safetensors", Path(folder) / "y.hydra.safetensors"
        merge(adapters, bundle, size=size)
        yield from of_sizes("shrink", bundle, (), out)
        yield from of_sizes("merge", bundle, adapters, out)
        yield from of_inspect(adapters, out)
        yield from of_refresh(adapters, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("sets", type=Path, nargs="*", default=[Path(x) for x in DEFAULTS])
    parser.add_argument("--size", default="5%", help="Of the bundles.")
    parser.add_argument("--first", type=int, default=8, help="Maximum number of adapters of a set.")
    args = parser.parse_args(arguments)
    head = provenance("estimates against what the commands make")
    rows: list[dict[str, Any]] = []
    for folder in args.sets:
        adapters = sorted(x for x in folder.iterdir() if x.is_dir())[: args.first]
        print(f"{folder.name}, {len(adapters)} adapters, {args.size}", flush=True)
        for one in compared(adapters, args.size):
            rows.append({"set": "/".join(folder.parts[-2:]), "size": args.size, **one})
            write_result(CODING, "estimates", head, rows)
    worst = max(rows, key=lambda x: abs(x["deviation"]))
    at = f"{worst['set']}, {worst['what']} at {worst['at']}"
    print(f"largest deviation: {worst['deviation']:+.2%} ({at})")


if __name__ == "__main__":
    main()
