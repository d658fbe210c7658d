"""Tasks in the formats of other tools, or merged into the base."""

from hydraopt.bundle.restore.peft import export_peft, peft_adapter, torch_state_dict
from hydraopt.export.formats import FORMATS, export_task
from hydraopt.export.gguf import export_gguf
from hydraopt.export.image import export_diffusers, export_kohya
from hydraopt.export.merged import export_merged
from hydraopt.export.mlx import export_mlx
from hydraopt.export.vllm import export_vllm

__all__ = [
    "FORMATS",
    "export_diffusers",
    "export_gguf",
    "export_kohya",
    "export_merged",
    "export_mlx",
    "export_peft",
    "export_task",
    "export_vllm",
    "peft_adapter",
    "torch_state_dict",
]
