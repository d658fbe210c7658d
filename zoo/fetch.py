"""Get the adapters behind the evidence, which are no part of the repository.

    python -m zoo.fetch ARCHIVE [--output zoo/adapters]
    python -m zoo.fetch --pack zoo/adapters -o zoo-evidence.tar

ARCHIVE is a file or an http(s) address. It is unpacked if it has the size and the SHA-256 of
``EVIDENCE``; a set that is there already stays as it is. --pack writes this archive from a folder
of sets; the same files give the same bytes, so a release can have it attached.
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["EVIDENCE", "PLACE", "Archive", "ArchiveError", "fetch", "pack"]

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "zoo" / "adapters"
_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """An archive is not the one that was asked for, or cannot be made."""


@dataclass(frozen=True)
class Archive:
    """A tar file with a folder for each set of adapters.

    size: bytes of the file.
    """

    sha256: str
    size: int
    sets: tuple[str, ...]


EVIDENCE = Archive(
    sha256="463231a264282e7548aae17f95ed23df8e62adc97bf4a2a1d9a52618b640b9c3",
    size=120_268_800,
    sets=(
        "gemma3-5x8",
        "gemma3-fresh6",
        "qwen25coder-code5",
        "qwen25coder15-mixed5",
        "smollm2-cls4",
        "smollm2-tuners5",
    ),
)
"""The sets that the pages of docs/evidence measure; examples/adapters is one more."""


def pack(place: Path, target: Path, sets: Sequence[str] = EVIDENCE.sets) -> Archive:
    """Write the sets of a folder as one tar file, and return what it is.

    Files are in the order of their names and have no owner, time or mode of their own. Hidden files
    and checkpoints are left out. Raises ArchiveError if a set is missing.
    """
    if missing := [name for name in sets if not (place / name).is_dir()]:
        raise ArchiveError(f"{place} has no {', '.join(missing)}")
    scratch = target.with_name(f"{target.name}.new")
    with tarfile.open(scratch, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(sets):
            for path in sorted((place / name).rglob("*"), key=Path.as_posix):
                inside = path.relative_to(place)
                if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                    about = tarfile.TarInfo(inside.as_posix())
                    about.size = path.stat().st_size
                    with path.open("rb") as file:
                        archive.addfile(about, file)
    scratch.replace(target)
    with target.open("rb") as file:
        return Archive(hashlib.file_digest(file, "sha256").hexdigest(), file.tell(), tuple(sets))


def fetch(source: str, place: Path = PLACE, wanted: Archive = EVIDENCE) -> list[str]:
    """Unpack an archive into a folder, and return the sets that were not there before.

    source: a path or an http(s) address. Raises ArchiveError, before anything is unpacked, if the
    bytes are not those of ``wanted``.
    """
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".fetch.") as folder:
        local = Path(folder) / "archive.tar"
        with _opened(source) as incoming, local.open("wb") as file:
            _copy_verified(source, incoming, file, wanted)
        unpacked = Path(folder) / "sets"
        with tarfile.open(local) as archive:
            archive.extractall(unpacked, filter="data")
        new = [name for name in wanted.sets if not (place / name).exists()]
        for name in new:
            (unpacked / name).rename(place / name)
    return new


def _opened(source: str) -> IO[bytes]:
    if source.startswith(("http://", "https://")):
        response: IO[bytes] = urllib.request.urlopen(source, timeout=60)
        return response
    return Path(source).open("rb")


def _copy_verified(source: str, incoming: IO[bytes], file: IO[bytes], wanted: Archive) -> None:
    digest, size = hashlib.sha256(), 0
    while block := incoming.read(_CHUNK):
        size += len(block)
        if size > wanted.size:
            break
        digest.update(block)
        file.write(block)
    if size != wanted.size:
        more = "more than " if size > wanted.size else f"{size:,} instead of "
        raise ArchiveError(f"{source} has {more}{wanted.size:,} bytes: it is another archive")
    if digest.hexdigest() != wanted.sha256:
        raise ArchiveError(
            f"{source} has the SHA-256 {digest.hexdigest()} instead of {wanted.sha256}: "
            "it is another archive, or damaged"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", nargs="?", help="a file or an http(s) address")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="make the archive instead")
    parser.add_argument("-o", "--output", type=Path, help="where to unpack, or the file to write")
    args = parser.parse_args(arguments)
    if (args.archive is None) == (args.pack is None):
        parser.error("give an archive, or --pack and the folder of the sets")
    try:
        if args.pack is not None:
            made = pack(args.pack, args.output or Path("zoo-evidence.tar"))
            print(f"sha256 {made.sha256}\nsize   {made.size}")
            return
        new = fetch(args.archive, args.output or PLACE)
    except (ArchiveError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"unpacked: {', '.join(new) or 'nothing, all sets were there'}")


if __name__ == "__main__":
    main()
