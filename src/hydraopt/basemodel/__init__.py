"""Run a base model with factors attached to its modules."""

from hydraopt.extras import require

require("torch")
