"""What a user types in Python: names of ``hydraopt``, from adapters to a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hydraopt
from hydraopt.errors import UsageError
from tests.conftest import MakeAdapter


def test_every_public_name_loads_and_says_what_it_does() -> None:
    for name in hydraopt.__all__:
        value = getattr(hydraopt, name)
        assert name == "__version__" or value.__doc__, name


def test_a_bundle_is_made_changed_described_and_given_back(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    random = np.random.default_rng(5)
    pair = lambda: (random.standard_normal((24, 2)), random.standard_normal((2, 16)))  # noqa: E731
    folders = [make_adapter(tmp_path / name, {"h.0.q": pair()}) for name in "abc"]
    bundle = tmp_path / "x.hydra.safetensors"
    hydraopt.merge(folders[:2], bundle, max_error=0.1)
    assert [x.name for x in hydraopt.add(bundle, folders[2:]).added] == ["c"]
    other = hydraopt.read_adapter(folders[0], name="c")
    assert [x.name for x in hydraopt.replace(bundle, [other]).added] == ["c"]
    assert hydraopt.remove(bundle, ["a"]).removed == ("a",)
    assert [x.name for x in hydraopt.inspect_bundle(bundle).tasks] == ["b", "c"]
    assert [x.name for x in hydraopt.inspect_adapters(folders).tasks] == ["a", "b", "c"]
    assert hydraopt.verify_bundle(bundle).ok
    hydraopt.export_task(hydraopt.open_bundle(bundle)["b"], tmp_path / "back")
    assert hydraopt.read_adapter(tmp_path / "back").numbers
    page = tmp_path / "page.html"
    assert hydraopt.write_report(bundle, page).count == 2
    hydraopt.write_report(bundle, page)  # its own page is replaced
    page.write_text("mine")
    with pytest.raises(UsageError):
        hydraopt.write_report(bundle, page)
    assert page.read_text() == "mine"
    hydraopt.write_report(bundle, page, overwrite=True)
    assert page.stat().st_size > 1000
