"""Choice of the workers of a job, and of the inputs written to disk so that workers can read them.

A worker reads ranges of the adapters' files itself. A tensor that is in memory, or in a file that
cannot be read by ranges (a pickle), is written to a temporary folder once. What a bundle decodes
stays in this process: it is decoded once, whole.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Final

from hydraopt.adapters.model import LowRankModule
from hydraopt.adapters.rawtensor import FileSpan, RawTensor, stamp_of
from hydraopt.engines.engine import Engine
from hydraopt.engines.pool import Pool, SerialPool
from hydraopt.merging.align import DecodedModule, MergeSet, ModuleFactors
from hydraopt.merging.dense import TensorMatrices

__all__ = ["WORTH", "Spool", "pool_for", "portable"]

WORTH: Final = 5_000_000
"""Numbers of the inputs that a further process is started for: more work than its start takes. By
hand on two cores: four million take as long either way, eight a tenth less with two."""


class Spool:
    """A temporary folder of tensors that have no file of their own; it goes with :meth:`close`."""

    def __init__(self, place: str | os.PathLike[str] | None = None) -> None:
        if place is not None:
            place = os.path.abspath(place)
            os.makedirs(place, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="hydraopt-", dir=place)
        # With the tensor, so that no other gets its identity.
        self._known: dict[int, tuple[RawTensor, RawTensor]] = {}

    def portable(self, tensor: RawTensor) -> RawTensor:
        """Return the tensor, or one with the same bytes in a file that has an absolute path.

        A worker may have another current folder.
        """
        if getattr(tensor.read, "portable", False):
            if isinstance(tensor.read, FileSpan) and not tensor.read.path.is_absolute():
                read = dataclasses.replace(tensor.read, path=tensor.read.path.absolute())
                return dataclasses.replace(tensor, read=read)
            return tensor
        if id(tensor) not in self._known:
            path = Path(self._folder.name) / f"{len(self._known)}"
            size = path.write_bytes(tensor.raw())
            span = FileSpan(path, 0, size, stamp_of(path.stat()))
            self._known[id(tensor)] = tensor, dataclasses.replace(tensor, read=span)
        return self._known[id(tensor)][1]

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def pool_for(pieces: MergeSet, engine: Engine) -> tuple[Pool, MergeSet]:
    """Return the pool of a job, and its pieces in a form that the pool's workers can read.

    Small jobs of a local engine, and decoded tasks of a bundle, get this process alone. Tensors
    without a file of their own are written below the engine's ``work``, if it has one.
    """
    held = (x for read in pieces.readers for _, x in read.contents)
    if any(isinstance(x, DecodedModule) for x in held):
        return SerialPool(), pieces
    size = max(min(engine.most(), len(pieces.readers) + len(pieces.matrices)), 1)
    if not engine.remote:
        size = min(size, 1 + pieces.numbers // WORTH)
    if size < 2 and not engine.remote:
        return SerialPool(), pieces
    spool = Spool(engine.work)
    # First what can fail, and only then the processes, which nobody has to end yet.
    try:
        sent = portable(pieces, spool)
        return engine.pool(size, spool.close), sent
    except BaseException:
        spool.close()
        raise


def portable(pieces: MergeSet, spool: Spool) -> MergeSet:
    """Return a copy of the pieces in which every piece can be sent to another process."""
    return dataclasses.replace(
        pieces,
        readers=tuple(
            ModuleFactors(tuple((i, _portable_module(x, spool)) for i, x in read.contents))
            for read in pieces.readers
        ),
        matrices=tuple(_portable_matrices(x, spool) for x in pieces.matrices),
    )


def _portable_module(module: LowRankModule | DecodedModule, spool: Spool) -> LowRankModule:
    assert isinstance(module, LowRankModule)
    a, b = spool.portable(module.a), spool.portable(module.b)
    between = None if module.between is None else spool.portable(module.between)
    if a is module.a and b is module.b and between is module.between:
        return module
    return dataclasses.replace(module, a=a, b=b, between=between)


def _portable_matrices(x: TensorMatrices, spool: Spool) -> TensorMatrices:
    own = None if x.own is None else spool.portable(x.own)
    return dataclasses.replace(x, tensors=tuple(map(spool.portable, x.tensors)), own=own)
