"""Write the page or the model card of a bundle to a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from hydraopt.files.apart import check_apart
from hydraopt.files.outputs import check_replaceable, destination
from hydraopt.files.writing import write_atomically
from hydraopt.progress import Progress
from hydraopt.report.build import Collected, build, collect
from hydraopt.report.card import bundle_card
from hydraopt.report.model import Page
from hydraopt.report.page import render

__all__ = ["write_card", "write_report"]

StrPath = str | os.PathLike[str]


def write_report(
    bundle: StrPath,
    output: StrPath,
    originals: Iterable[StrPath] = (),
    results: Iterable[StrPath] = (),
    *,
    same_base: bool = False,
    alpha: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Page:
    """Write an HTML page about the size of a bundle and its effect on each task; return its data.

    Every task on the page is decoded once. The page needs no network.

    bundle: path or address, as for :func:`hydraopt.open_bundle`.
    output: file to write. A page that hydraopt wrote before is replaced.
    originals: adapters of the tasks, whose likeness the page shows instead of that of the coded
        tasks.
    results: files written by ``hydraopt eval -o``.
    same_base, alpha: as for :func:`hydraopt.merge`.
    overwrite: replace a file that hydraopt did not write.

    Raises UsageError if ``output`` cannot be written or no task is among the originals, and the
    errors of opening a bundle.
    """
    adapters, files = list(originals), list(results)
    check_replaceable(output, overwrite, lambda text: b": hydraopt report</title>" in text)
    check_apart(output, [bundle, *adapters, *files])
    page = build(bundle, adapters, files, same_base=same_base, alpha=alpha, progress=progress)
    write_atomically(destination(output), [render(page).encode()])
    return page


def write_card(
    bundle: StrPath,
    output: StrPath | None,
    results: Sequence[StrPath] = (),
    *,
    overwrite: bool = False,
) -> tuple[str, Collected]:
    """Write the model card of a bundle, and return its text and the data; nothing is decoded.

    output: file to write, or None. A card that hydraopt wrote before is replaced.
    results, overwrite: as for :func:`write_report`. Raises as :func:`write_report`.
    """
    if output is not None:
        check_replaceable(output, overwrite, lambda text: b"\nlibrary_name: hydraopt\n" in text)
        check_apart(output, [bundle, *results])
    known = collect(bundle, results)
    text = bundle_card(known)
    if output is not None:
        write_atomically(destination(output), [text.encode()])
    return text, known
