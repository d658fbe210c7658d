"""Parts of the runs of quality: building rows, running peers, scoring and tuning."""
