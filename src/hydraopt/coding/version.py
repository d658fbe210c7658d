"""Version of the format: of the file, its manifest, its streams and their records alike."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = 2
"""Format version that is written. Readers accept it and all earlier ones, and get its number."""
