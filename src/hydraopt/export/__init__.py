"""A bundle's tasks in the formats of other tools."""

from hydraopt.export.peft import export_peft, peft_adapter, torch_state_dict

__all__ = ["export_peft", "peft_adapter", "torch_state_dict"]
