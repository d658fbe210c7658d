"""The small trained model and its task, for the tests of this folder."""

from __future__ import annotations

from tests.basemodel.conftest import base
from tests.harm.power_judge import adapters
from tests.small_model import sharp, tasks, trained

__all__ = ["adapters", "base", "sharp", "tasks", "trained"]
