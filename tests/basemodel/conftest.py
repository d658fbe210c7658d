"""The small trained model and its task, for the tests of this folder."""

from __future__ import annotations

from tests.small_model import sharp, tasks, trained

__all__ = ["sharp", "tasks", "trained"]
