"""vlora-dev: build the subspace, save, rebuild. Runs inside its own environment."""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.tool import Tool

__all__ = ["tool"]


def floats(adapter: Any) -> Any:
    """Return vlora's LoRAWeights with the tensors in float32."""
    from vlora import LoRAWeights

    lora_a = {key: x.float() for key, x in adapter.lora_a.items()}
    lora_b = {key: x.float() for key, x in adapter.lora_b.items()}
    return LoRAWeights(adapter.layer_names, lora_a, lora_b, adapter.rank, adapter.metadata)


def tool(name: str) -> type[Tool]:
    """Return what is timed: the tensors as they are in the files, which may be refused, or copies.

    name: "vlora fp32" for copies.
    """
    from vlora import SharedSubspace, load_adapter, save_adapter

    copies = name == "vlora fp32"

    class Vlora(Tool):
        def merge(self) -> None:
            adapters = [load_adapter(folder) for folder in self.folders]
            adapters = [floats(adapter) for adapter in adapters] if copies else adapters
            SharedSubspace.from_adapters(adapters, task_ids=self.names).save(self.saved)

        def open(self) -> None:
            self.space = SharedSubspace.load(self.saved)

        def task(self) -> None:
            self.space.reconstruct(self.names[0])

        def export(self) -> None:
            save_adapter(self.space.reconstruct(self.names[0]), self.exported)

    return Vlora
