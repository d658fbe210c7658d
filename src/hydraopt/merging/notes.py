"""What a user should know of a bundle that a merge made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hydraopt.bundle.spec import Manifest
from hydraopt.merging.budget import Budget, HarmLimit

__all__ = ["notes_of"]

_NEARLY_ALL: Final = 0.9
"""Of the fp16 bytes: where a bundle gets a note that lossless is there too."""


def notes_of(
    manifest: Manifest, budget: Budget | HarmLimit | None, coded: int, fp16_bytes: int
) -> Iterator[str]:
    """Sentences. budget: what it was made for, None if for every bit. coded: bytes of the bundle, 0
    where nothing is coded with a loss. fp16_bytes: of the inputs."""
    yield from _left_out(manifest)
    beyond = sum(task.error > 1 for task in manifest.tasks)
    if beyond:
        yield (
            f"{beyond} of {len(manifest.tasks)} tasks have an error above 1: little of each is "
            "kept, at its full strength; see what they still do before you ship them"
        )
    if coded > _NEARLY_ALL * fp16_bytes:
        more = "; chance alone costs as much with few prompts: give more"
        yield (
            f"{coded:,} bytes are hardly less than fp16; lossless mostly takes less still"
            + (more if isinstance(budget, HarmLimit) else "")
        )


def _left_out(manifest: Manifest) -> Iterator[str]:
    """Of tensors of which nothing is left: too small to be worth their bytes."""
    for task in manifest.tasks:
        errors = zip(task.tensors, task.tensor_errors, strict=True)
        gone = [manifest.tensors[i].key for i, error in errors if error >= 1]
        if gone:
            more = f" and {len(gone) - 1} more tensors" if len(gone) > 1 else ""
            yield (
                f"{task.name}: of {gone[0]}{more} nothing is kept, because it changes too little; "
                "--exact keeps them bit by bit"
            )
