"""Adapters in: files that PEFT, kohya, diffusers, loralib or MLX wrote, as one kind of object."""
