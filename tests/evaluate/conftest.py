"""The small trained model and its task, for the tests of this folder."""

from __future__ import annotations

from tests.few_draws import few_draws
from tests.small_model import sharp, tasks, trained

__all__ = ["few_draws", "sharp", "tasks", "trained"]
