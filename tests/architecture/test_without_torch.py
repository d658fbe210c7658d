"""The core needs no extra, and what does says which one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hydraopt.errors import EXTRA_OF, MissingExtraError, require
from tests.architecture.test_imports import MODULES
from tools.lock import bounds

TORCH = {"evaluate", "model", "serve"}
"""Packages that may import torch when they are imported."""
REFUSE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "scipy"}:
            raise ModuleNotFoundError(f"{name} is refused", name=name)
sys.meta_path.insert(0, Refused())
"""


def test_the_core_imports_without_torch_and_scipy() -> None:
    light = [x for x in MODULES if x.partition(".")[0] not in TORCH]
    names = [
        f"hydraopt.{x}".rstrip(".") for x in light if x not in ("__main__", "merging.rayworkers")
    ]
    code = f"{REFUSE}\nimport importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WAYS = {
    "attach": ("model", "import hydraopt; hydraopt.attach"),
    "base model": ("model", "from hydraopt.model import load_model"),
    "evaluation": ("eval", "from hydraopt.evaluate import compare"),
    "server": ("serve", "from hydraopt.serve import make_server"),
    "torch file": (
        "model",
        "import hydraopt, sys; hydraopt.read_adapter(sys.argv[1])",
    ),
    "gguf": ("gguf", "from hydraopt.export.gguf import load_gguf; load_gguf()"),
    "plot": ("plot", "from hydraopt.report.figures import check_plot; check_plot('x.png')"),
    "ray": ("ray", "from hydraopt.merging.workers import OnRay; OnRay().most()"),
}
ASKED = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from hydraopt.errors import MissingExtraError
try:
    {code}
except MissingExtraError as error:
    print(error.extra, f"hydraopt[{{error.extra}}]" in str(error))
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_needs_an_extra_names_it(way: str, tmp_path: Path) -> None:
    extra, code = WAYS[way]
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    script = ASKED.format(missing=sorted(EXTRA_OF), code=code)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{extra} True\n", 0), done.stderr


def test_extras_are_those_of_the_package() -> None:
    for library, extra in EXTRA_OF.items():
        assert library.replace("_", "-") in {name for name, _ in bounds(extra)}


def test_nothing_is_missing_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    require("torch", "transformers")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        require("transformers", "torch", file="x.bin")
    assert (caught.value.extra, caught.value.file) == ("model", "x.bin")
    assert re.search(r"hydraopt\[model\]", str(caught.value.do))
