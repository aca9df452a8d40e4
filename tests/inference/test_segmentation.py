"""Labels of pictures: whole, in windows, at several scales, turned."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from eqmambair.errors import UserError
from eqmambair.inference.masks import coloured, overlay, write_labels
from eqmambair.inference.segmentation import Protocol, Segmenter, _starts

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Colours(nn.Module):
    """Logits that are the colours themselves."""

    def forward(self, image: Tensor) -> Tensor:
        return image


class Rows(nn.Module):
    """Logits that tell rows from columns: not equivariant."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image[:, :1], image[:, :1].roll(1, 2)], 1)


@pytest.fixture
def picture() -> Tensor:
    return torch.randint(0, 256, (3, 21, 34), dtype=torch.uint8)


SLIDING = {"mode": "slide", "window": (8, 8), "stride": (5, 5)}


@pytest.mark.parametrize("options", [{}, SLIDING, {"pad_multiple": 16}, {**SLIDING, "window": (64, 64)}], ids=str)
def test_local_network_gives_the_same_in_every_way(picture: Tensor, options: dict) -> None:
    scores = Segmenter(Colours(), Protocol(**PLAIN, **options)).scores(picture)
    torch.testing.assert_close(scores, picture.float() / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_logits_are_turned_back(picture: Tensor, turns: int) -> None:
    for multiple in (None, 16):
        segmenter = Segmenter(Colours(), Protocol(**PLAIN, pad_multiple=multiple))
        torch.testing.assert_close(segmenter.scores(picture, turns), segmenter.scores(picture), rtol=0, atol=1e-6)
        other = Segmenter(Rows(), Protocol(**PLAIN, pad_multiple=multiple))
        assert not torch.allclose(other.scores(picture, turns), other.scores(picture))


def test_several_sizes_and_mirror_images_give_mean_probabilities(picture: Tensor) -> None:
    scores = Segmenter(Colours(), Protocol(**PLAIN, ratios=(1.0, 2.0), flip=True)).scores(picture)
    torch.testing.assert_close(scores.sum(0), torch.ones(21, 34))
    single = Segmenter(Colours(), Protocol(**PLAIN, flip=True)).scores(picture)
    torch.testing.assert_close(single, (picture.float() / 255).softmax(0), rtol=0, atol=1e-6)


def test_network_sees_the_resized_and_normalised_picture(picture: Tensor) -> None:
    seen = []

    class Watch(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image)
            return image[:, :, ::4, ::4]

    scores = Segmenter(Watch(), Protocol(resize=(68, 42), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).scores(picture)
    assert seen[0].shape == (1, 3, 42, 68)
    assert -1 <= float(seen[0].min()) < 0 < float(seen[0].max()) <= 1
    assert scores.shape == (3, 21, 34)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"), [(10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (3, 4, 2, [0]), (4, 4, 4, [0])]
)
def test_windows_cover_all_and_end_at_the_border(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert _starts(length, window, stride) == starts


def test_impossible_protocols_are_refused() -> None:
    for options in ({"stride": (0, 5)}, {"ratios": ()}, {"resize": (0, 5)}, {"std": (1, 1, 0)}, {"pad_multiple": 0}):
        with pytest.raises(UserError):
            Protocol(**options)  # type: ignore[arg-type]


def test_mask_file_holds_labels_and_shows_colours(tmp_path) -> None:
    labels = np.array([[0, 1], [2, 255]])
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0]], np.uint8)
    write_labels(tmp_path / "mask.png", labels, colours)
    with Image.open(tmp_path / "mask.png") as mask:
        assert np.asarray(mask).tolist() == labels.tolist()
        assert np.asarray(mask.convert("RGB")).tolist() == coloured(labels, colours).tolist()
    over = overlay(np.full((2, 2, 3), 100, np.uint8), labels, colours)
    assert over[1, 1].tolist() == [100, 100, 100]
    assert over[0, 0].tolist() == [55, 60, 65]
