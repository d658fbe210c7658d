"""Base models, tasks, training and scoring of the adapters hydraopt is developed and judged on."""
