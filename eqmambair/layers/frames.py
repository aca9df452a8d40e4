"""Feature maps kept in one frame per orientation, where any layer commutes with a group, to the last bit.

Orientation t of a feature map is kept turned back by t, as a map of its own: a group element then only permutes these maps, whatever layer
has made them, as long as every map goes through the same layer by itself. Layers need not know the group; window partitions, mirror
padding, sorts with ties and free filters are all allowed. Orientations are mixed by letting a layer see, in the frame of each orientation,
the maps of all of them (`Framing.seen`): any group layer is an ordinary one over what is seen, `GroupLinear` a linear layer, `GroupConv2d`
a convolution.

Nothing is rounded differently for a transformed image: the same numbers lie in the same memory layout before the same kernel. So networks
that decide (routing, sorting) commute as well, which layers over (b, t*c, h, w) cannot guarantee: a sum in another order flips a near tie.
Source: the frames are those of group convolutions (Cohen & Welling 2016, section 6); that hard decisions need them is our own observation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eqmambair.groups import Group
from eqmambair.layers.views import to_pixels, to_tokens

#: One map for every orientation, each (b, c, h, w) in its own frame; h and w are exchanged in the frames of odd quarter turns.
Frames = tuple[Tensor, ...]


class Framing:
    """How the frames of an image lie: in each the image starts at the upper left and is continued by mirroring to multiples of a side.

    Args:
        group: one frame for each of its elements.
        height, width: size of the image.
        multiple: sides of the maps are the next multiples of it.
        device: where the maps live.
        scale: pixels of the maps per pixel of the image and side.
    """

    def __init__(self, group: Group, height: int, width: int, multiple: int, device: torch.device, scale: int = 1) -> None:
        self.group, self.height, self.width, self.multiple, self.device, self.scale = group, height, width, multiple, device, scale
        self._sources: dict[tuple[int, int], Tensor] = {}

    def scaled(self, scale: int) -> "Framing":
        """The frames of the maps after enlarging by `scale`."""
        return Framing(self.group, self.height, self.width, self.multiple, self.device, self.scale * scale)

    def size(self, g: int) -> tuple[int, int]:
        """Height and width of the image in frame g, in pixels of the maps."""
        turned = self.group.exchanges_sides(g)
        return (self.width * self.scale, self.height * self.scale) if turned else (self.height * self.scale, self.width * self.scale)

    def padded_size(self, g: int) -> tuple[int, int]:
        """Height and width of the map in frame g: those of the image, rounded up."""
        height, width = self.size(g)
        multiple = self.multiple * self.scale
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def split(self, image: Tensor) -> Frames:
        """An image (b, c, h, w) as each frame sees it, mirrored to the padded size, in channels_last memory."""
        frames = []
        for g in self.group.elements:
            seen = self.group.act(image, self.group.inverse(g))
            for axis, length in zip((2, 3), self.padded_size(g), strict=True):
                seen = seen.index_select(axis, mirrored(seen.shape[axis], length, self.device))
            frames.append(seen.contiguous(memory_format=torch.channels_last))
        return tuple(frames)

    def seen(self, frames: Frames) -> Frames:
        """What each frame sees of all orientations, its own first: (b, c, h, w) each to (b, t*c, h, w)."""
        if self.group.order == 1:
            return frames
        views = []
        for g in self.group.elements:
            others = [self._seen_from(g, d, frames) for d in self.group.elements[1:]]
            views.append(torch.cat([frames[g], *others], dim=1))
        return tuple(views)

    def merge(self, frames: Frames) -> Tensor:
        """The mean over the orientations, as an image: (b, c, h, w) each to (b, c, scale*height, scale*width)."""
        images = []
        for g in self.group.elements:
            image = frames[g]
            for axis, length in zip((2, 3), self.size(g), strict=True):
                image = image.index_select(axis, torch.arange(length, device=self.device))  # a slice would tie torch.export to one size
            images.append(self.group.act(image, g))
        # Pairs of pairs: the group permutes the summands only in ways that exchange the two of a sum, which costs no bit.
        while len(images) > 1:
            half = len(images) // 2
            images = [a + b for a, b in zip(images[:half], images[half:], strict=True)]
        return images[0] / self.group.order if self.group.order > 1 else images[0]

    def _seen_from(self, g: int, d: int, frames: Frames) -> Tensor:
        """The map of orientation g d in frame g: moved by d, and mirrored again to the size there."""
        other = self.group.product(g, d)
        key = (self.group.exchanges_sides(g), d)
        if key not in self._sources:
            (height, width), (_, stride) = self.size(other), self.padded_size(other)
            # places of the image's pixels in the padded map; a slice of all places would tie torch.export to one size
            pixels = torch.arange(height, device=self.device)[:, None] * stride + torch.arange(width, device=self.device)
            moved = self.group.act(pixels, d)
            rows, columns = (mirrored(length, padded, self.device) for length, padded in zip(moved.shape, self.padded_size(g), strict=True))
            self._sources[key] = moved[rows[:, None], columns].reshape(-1)
        return to_pixels(to_tokens(frames[other]).index_select(1, self._sources[key]), *self.padded_size(g))


def each(layer: Callable[[Tensor], Tensor], frames: Frames) -> Frames:
    """A layer on every frame by itself."""
    return tuple(layer(x) for x in frames)


def mirrored(length: int, padded: int, device: torch.device) -> Tensor:
    """The pixel that stands at each of `padded` places behind each other: 0..length-1, then back, the edge repeated, and so on; int64."""
    place = torch.arange(padded, device=device) % (2 * length)
    return torch.where(place < length, place, 2 * length - 1 - place)
