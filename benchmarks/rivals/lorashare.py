"""lorashare: compress, save, rebuild every adapter. Runs inside its own environment."""

from __future__ import annotations

from benchmarks.rivals.tool import Tool

__all__ = ["tool"]


def tool(name: str) -> type[Tool]:
    """Return what is timed, at its default, k = 32."""
    from lorashare import SHAREModel

    class Lorashare(Tool):
        def merge(self) -> None:
            adapters = dict(zip(self.names, map(str, self.folders), strict=True))
            SHAREModel.from_adapters(adapters, device="cpu").save_pretrained(str(self.saved))

        def open(self) -> None:
            self.model = SHAREModel.from_pretrained(str(self.saved))

        def task(self) -> None:
            self.model.reconstruct(self.names[0])

        def export(self) -> None:
            self.model.reconstruct(self.names[0], str(self.exported))

    return Lorashare
