"""The comparison picture of the quickstart."""

import numpy as np

from eqmambair.inference.comparison import comparison, telling_box


def test_the_box_lies_where_the_error_is():
    truth = np.zeros((50, 70, 3), np.uint8)
    worse = truth.copy()
    worse[30:38, 44:52] = 200
    assert telling_box(worse, truth, 8) == (30, 44)
    top, left = telling_box(truth[:, :60], truth[:, :60], 8)  # no error anywhere: any box that lies inside
    assert top + 8 <= 50
    assert left + 8 <= 60


def test_the_detail_of_each_panel_is_enlarged_below_it():
    first, second = (np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in (0, 1))
    sheet = comparison([("a", first), ("b", second)], (5, 9), 10)
    for left, panel in ((0, first), (68, second)):
        detail = sheet[-60:, left : left + 60]
        np.testing.assert_array_equal(detail[::6, ::6], panel[5:15, 9:19])
    assert sheet.shape == (26 + 40 + 8 + 60, 60 + 8 + 60, 3)
