"""The sheet of clusters: a row each, shortcuts marked in red."""

import numpy as np
import pytest

from convlens.core.photograph import Photograph
from convlens.draw.cluster_sheet import ClusterRow, cluster_sheet
from convlens.draw.palette import RED


def make_row(images: int = 4, *, is_shortcut: bool = False, name: str = "dog") -> ClusterRow:
    rng = np.random.default_rng(0)
    pictures = [
        Photograph(rng.integers(0, 255, (90 + 20 * k, 120, 3), np.uint8)) for k in range(images)
    ]
    maps = [rng.random((7, 7)) for _ in range(images)]
    return ClusterRow(
        name, ["12 images, accuracy 0.92", "covered 0.10, covered elsewhere 0.92 (chance 0.0002)"],
        rng.random((7, 7)), pictures, maps, [f"a/long/name/{k}.jpg" for k in range(images)],
        is_shortcut,
    )  # fmt: skip


def count_red(picture: np.ndarray) -> int:
    return int((picture == np.array(RED)).all(axis=2).sum())


def test_each_cluster_is_a_row_and_only_shortcuts_are_marked():
    one = cluster_sheet([make_row()], title="x")
    two = cluster_sheet([make_row(), make_row(is_shortcut=True)], title="x")
    assert one.dtype == np.uint8 and one.shape[1] > 600
    assert two.shape[0] > 1.6 * one.shape[0] and two.shape[1] == one.shape[1]
    assert count_red(one) == 0 < 2000 < count_red(two)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_few_images_and_long_names(images):
    assert cluster_sheet([make_row(images, name="x" * 300)], title="y" * 400).ndim == 3


def test_maps_that_are_empty_or_not_finite_are_drawn():
    row = make_row()
    row.maps[0][:], row.maps[1][0, 0] = 0, np.nan
    assert cluster_sheet([row], title="x").ndim == 3


def test_no_cluster_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        cluster_sheet([], title="x")
