"""Run tasks of a bundle on a model in memory, and serve them over HTTP."""

from typing import Any, Final

import lazy_loader

from hydraopt.errors import require

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_WITHOUT_HTTP: Final = {"Attached", "attach"}


def __getattr__(name: str) -> Any:
    require(*(() if name in _WITHOUT_HTTP else ("uvicorn", "fastapi", "prometheus_client")))
    require("torch")
    return _load(name)
