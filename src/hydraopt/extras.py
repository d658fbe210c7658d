"""Libraries that come with an extra of the package, because few commands need them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from hydraopt.errors import MissingExtraError, explain

__all__ = ["EXTRA_OF", "require"]

EXTRA_OF: Final[Mapping[str, str]] = {
    "torch": "model",
    "transformers": "model",
    "nltk": "eval",
    "rouge_score": "eval",
    "sacrebleu": "eval",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "gguf": "gguf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "matplotlib": "plot",
    "ray": "ray",
    "huggingface_hub": "hub",
}
"""Extra that installs a library, by the name under which the library is imported."""


def require(*libraries: str, file: object = None) -> None:
    """Raise MissingExtraError unless all libraries are installed; none is imported.

    libraries: keys of :data:`EXTRA_OF`.
    file: file that needs them, for the message.
    """
    for library in libraries:
        if find_spec(library) is None:
            extra = EXTRA_OF[library]
            do = f"Run: pip install 'hydraopt[{extra}]'"
            error = MissingExtraError(explain(f"{library} is not installed", file=file, do=do))
            error.extra = extra
            raise error
