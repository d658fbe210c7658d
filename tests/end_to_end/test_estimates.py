"""Contract of every estimate that a user is shown: within 15 % of what the command then makes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from hydraopt import merge, open_bundle, read_adapters
from hydraopt.inspect import inspect_adapters
from hydraopt.merging import Look, add, expected_saving, refresh
from tests.end_to_end.estimates_sets import SETS
from tests.harm.power_judge import PowerJudge, planned as plan_of
from tests.marks import slow

NEAR = 0.15
OFTEN = ("heads",)
"""Set of the default suite: trained tensors beside the factors."""


class Held(NamedTuple):
    """A bundle, and the adapters that it was made of."""

    bundle: Path
    adapters: list[Path]


@pytest.fixture(scope="module", params=[x if x in OFTEN else slow(x) for x in SETS])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Held:
    folder = tmp_path_factory.mktemp(str(request.param))
    adapters = SETS[request.param](folder)
    bundle = folder / "x.hydra.safetensors"
    merge(adapters, bundle, size="25%", workers=1)
    return Held(bundle, adapters)


def _errors(path: Path) -> tuple[float, float]:
    """Mean and worst error that a bundle states."""
    errors = [task.error for task in open_bundle(path).manifest.tasks]
    return sum(errors) / len(errors), max(errors)


def test_sizes_that_inspect_gives_for_errors_are_those_of_a_merge(
    held: Held, tmp_path: Path
) -> None:
    report = inspect_adapters(held.adapters)
    known = [x for x in report.guesses if x.bytes is not None]
    assert len(known) > 4
    for guess in (known[0], known[-1]):
        for size, forms in ((guess.bytes, None), (guess.private_bytes, ["private"])):
            if size is not None:
                error, out = guess.error, tmp_path / "y"
                made = merge(held.adapters, out, error=error, forms=forms, workers=1)
                assert size == pytest.approx(made.size, rel=NEAR)


def test_the_saving_that_refresh_expects_is_what_it_saves(held: Held, tmp_path: Path) -> None:
    first, *others = held.adapters
    path, out = tmp_path / "x.hydra.safetensors", tmp_path / "y.hydra.safetensors"
    merge([first], path, error=0.3, workers=1)
    add(path, others)
    for originals in ([], held.adapters):
        expected = expected_saving(path, adapters=originals)
        done = refresh(path, out, adapters=originals)
        assert done.size_before == path.stat().st_size == expected.size
        assert done.size == out.stat().st_size
        saved = 1 - done.size / done.size_before
        assert expected.expected_size == pytest.approx(done.size, rel=0.001)
        assert expected.saved == pytest.approx(saved, rel=NEAR, abs=0.001)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Held:
    folder = tmp_path_factory.mktemp("judged")
    adapters = SETS["code"](folder)
    merge(adapters, folder / "x", size="25%", workers=1)
    return Held(folder / "x", adapters)


@pytest.mark.parametrize("limit", [{"size": "20%"}, {"harm": "5%"}])
def test_a_plan_is_what_the_merge_then_makes(
    judged: Held, tmp_path: Path, limit: dict[str, str]
) -> None:
    adapters = read_adapters(judged.adapters)
    scales = dict(zip((x.name for x in adapters), (0.01, 0.1, 0.6), strict=True))
    planned = plan_of(judged.adapters, PowerJudge(adapters, scales), **limit)
    judge = PowerJudge(adapters, scales)
    made = merge(judged.adapters, tmp_path / "y", look=Look(judge=judge), workers=1, **limit)
    assert planned.size == pytest.approx(made.size, rel=NEAR)
    for task in planned.tasks:
        assert task.error == pytest.approx(made.errors[task.name], rel=NEAR)
        assert task.harm is not None
        assert task.harm.likely == pytest.approx(made.harms[task.name].likely, rel=NEAR)
