"""The version of the format: of the file, its manifest, its streams and their records alike."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = 2
"""What is written. Readers take this and every version before it, and are told which it is."""
