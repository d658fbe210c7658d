"""Write a task of a bundle as a PEFT adapter: tensors, config, folder."""
