"""Bundles taken apart, changed and put together with checksums that are right."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "bundle" / "golden"


@dataclass
class Pieces:
    """A bundle taken apart. text: the manifest's JSON.  payload: the tensors behind it, by name."""

    metadata: dict[str, str]
    text: bytes
    payload: dict[str, bytes]

    @classmethod
    def of(cls, data: bytes) -> Pieces:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__")
        rest = data[8 + length :]
        payload = {name: rest[slice(*x["data_offsets"])] for name, x in header.items()}
        return cls(metadata, zlib.decompress(payload.pop("manifest")[4:]), payload)

    def pack(self) -> bytes:
        """The file, with checksums that are right and task names as the manifest has them."""
        manifest = len(self.text).to_bytes(4, "little") + zlib.compress(self.text, 9)
        payload = {"manifest": manifest, **self.payload}
        sums = [hashlib.sha256(x).hexdigest()[:16] for x in payload.values()]
        about = {**self.metadata, "checksums": json.dumps(sums, separators=(",", ":"))}
        try:
            names = json.loads(self.text)["tasks"]["name"]
            about["tasks"] = json.dumps(names, ensure_ascii=False, separators=(",", ":"))
        except (ValueError, KeyError, TypeError, UnicodeError):
            pass
        header: dict[str, object] = {"__metadata__": about}
        position = 0
        for name, piece in payload.items():
            offsets = [position, position + len(piece)]
            header[name] = {"dtype": "U8", "shape": [len(piece)], "data_offsets": offsets}
            position += len(piece)
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        head = text.encode("utf-8", "surrogatepass")
        return len(head).to_bytes(8, "little") + head + b"".join(payload.values())


def sources() -> list[bytes]:
    """Sound bundles to damage: golden files of the present version."""
    files = [GOLDEN / "second.hydra.safetensors", *sorted(GOLDEN.glob("layouts/*/*.safetensors"))]
    return [file.read_bytes() for file in files]
