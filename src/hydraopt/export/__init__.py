"""Write tasks in the formats of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydraopt.lazy import load

if TYPE_CHECKING:
    from hydraopt.bundle.peft.folder import export_peft, peft_adapter, torch_state_dict
    from hydraopt.export.formats import FORMATS, export_task
    from hydraopt.export.gguf import export_gguf
    from hydraopt.export.image import export_diffusers, export_kohya
    from hydraopt.export.merged import export_merged
    from hydraopt.export.mlx import export_mlx
    from hydraopt.export.onnx import export_onnx
    from hydraopt.export.vllm import export_vllm

__all__ = [
    "FORMATS",
    "export_diffusers",
    "export_gguf",
    "export_kohya",
    "export_merged",
    "export_mlx",
    "export_onnx",
    "export_peft",
    "export_task",
    "export_vllm",
    "peft_adapter",
    "torch_state_dict",
]

_HOMES = {
    "FORMATS": "hydraopt.export.formats",
    "export_diffusers": "hydraopt.export.image",
    "export_gguf": "hydraopt.export.gguf",
    "export_kohya": "hydraopt.export.image",
    "export_merged": "hydraopt.export.merged",
    "export_mlx": "hydraopt.export.mlx",
    "export_onnx": "hydraopt.export.onnx",
    "export_peft": "hydraopt.bundle.peft.folder",
    "export_task": "hydraopt.export.formats",
    "export_vllm": "hydraopt.export.vllm",
    "peft_adapter": "hydraopt.bundle.peft.folder",
    "torch_state_dict": "hydraopt.bundle.peft.folder",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOMES, name)
