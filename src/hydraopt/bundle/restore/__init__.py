"""A task of a bundle back as a PEFT adapter: tensors, config, folder."""
