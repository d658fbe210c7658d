"""What the sizes of tasks may change in a merge, and what they may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt.merging import merge
from tests.marks import FORM_CASES
from tests.merging.merge_cases import PATHS, decoded, measured, modules_of, originals


@pytest.mark.parametrize("form", [None, *FORM_CASES])
def test_a_power_of_two_goes_through_exactly(make_adapter, tmp_path, form) -> None:
    plain = [make_adapter(tmp_path / "plain" / str(i), modules_of(i), alpha=4) for i in range(3)]
    large = [make_adapter(tmp_path / "large" / str(i), modules_of(i), alpha=32) for i in range(3)]
    forms = [form] if form else None
    merge(plain, tmp_path / "one", error=0.2, forms=forms, workers=1)
    merge(large, tmp_path / "two", error=0.2, forms=forms, workers=1)
    a, b = decoded(tmp_path / "one"), decoded(tmp_path / "two")
    for name in a:
        for path in PATHS:
            assert np.array_equal(
                8 * (a[name][path].B @ a[name][path].A), b[name][path].B @ b[name][path].A
            )


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scales_far_from_one(make_adapter, tmp_path, scale) -> None:
    folders = [make_adapter(tmp_path / str(i), modules_of(i), alpha=4 * scale) for i in range(2)]
    result = merge(folders, tmp_path / "out", error=0.1, workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(folders)
    for name, error in result.errors.items():
        assert measured(got[name], wanted[name]) == pytest.approx(error, rel=1e-3)


def test_a_scale_that_all_tasks_share_does_not_matter(make_adapter, tmp_path) -> None:
    def errors(alpha: float) -> dict[str, float]:
        folder = tmp_path / str(alpha)
        folders = [make_adapter(folder / str(i), modules_of(i), alpha=alpha) for i in range(2)]
        return dict(merge(folders, tmp_path / "out", size="30%", workers=1).errors)

    one, two = errors(4), errors(4 * 1024)
    assert max(one.values()) < 0.8
    # Sizes end up to one percent apart, which moves both errors; their ratio is what counts.
    assert two["1"] / two["0"] == pytest.approx(one["1"] / one["0"], rel=0.05)
    assert two == pytest.approx(one, rel=0.06)


def test_the_sizes_of_single_tasks_matter_little(make_adapter, tmp_path) -> None:
    small = [make_adapter(tmp_path / "s" / str(i), modules_of(i)) for i in range(2)]
    mixed = [small[0], make_adapter(tmp_path / "m" / "1", modules_of(1), alpha=4 * 1024)]

    def ratio(folders: list[Path], measure: str) -> float:
        found = merge(folders, tmp_path / "out", size="30%", measure=measure, workers=1).errors
        return found["1"] / found["0"]

    # Relative errors do not depend on it at all; the default lets it count, up to a limit.
    alike = ratio(small, "frobenius")
    assert ratio(mixed, "frobenius") == pytest.approx(alike, rel=0.02)
    assert 0.3 * alike < ratio(mixed, "bias-aware") < 0.8 * alike
