"""The comparison picture of the quickstart."""

import numpy as np

from eqmambair.inference.comparison import comparison, telling_box


def test_the_box_lies_where_the_gain_is():
    truth = np.zeros((50, 70, 3), np.uint8)
    worse, better = truth.copy(), truth.copy()
    worse[30:38, 44:52] = 200
    worse[4:12, 4:12] = better[4:12, 4:12] = 250  # wrong in both: no gain
    assert telling_box(worse, better, truth, 8) == (30, 44)
    top, left = telling_box(truth, truth, truth, 8)  # no gain anywhere: any box that lies inside
    assert top + 8 <= 50
    assert left + 8 <= 70


def test_the_detail_of_each_panel_is_enlarged_below_it():
    first, second = (np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in (0, 1))
    sheet = comparison([("a", first), ("b", second)], (5, 9), 10)
    for left, panel in ((0, first), (68, second)):
        detail = sheet[-60:, left : left + 60]
        np.testing.assert_array_equal(detail[::6, ::6], panel[5:15, 9:19])
    assert sheet.shape == (26 + 40 + 8 + 60, 60 + 8 + 60, 3)
