"""A small detection set made of scikit-image's photographs: things cut out with known masks, pasted onto other pictures.

It is there to try detectors on, and its boxes and masks are exact. Two kinds of pictures share no background and no coin.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from eqmambair.data.coco import mask_tools
from eqmambair.data.io import write_image
from eqmambair.data.pictures import open_picture
from eqmambair.errors import UserError
from eqmambair.files import replace_file

CLASSES = ("coin", "horse", "cat")
_BACKGROUNDS = {
    "train": ("brick.png", "grass.png", "gravel.png", "rocket.jpg", "astronaut.png", "hubble_deep_field.jpg"),
    "val": ("coffee.png", "camera.png", "motorcycle_left.png"),
}
Pixels = NDArray[np.uint8]
Thing = tuple[int, Pixels, NDArray[np.bool_]]


def make_pasted_set(target: str | Path, train: int = 300, val: int = 60, side: int = 160, seed: int = 0) -> None:
    """Write ``target/{train,val}/*.png`` and ``target/{train,val}.json``, in COCO's form.

    Args:
        target: folder; it must not exist.
        train, val: pictures of each part.
        side: height of the pictures, in pixels; they are a quarter wider.
        seed: of everything random; the same seed gives the same set.

    Raises:
        UserError: if the folder exists, or pycocotools is missing.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: exists; name another folder, or remove it")
    for part, count in (("train", train), ("val", val)):
        generator = np.random.default_rng([seed, part == "val"])
        things = _cut_out(part)
        backgrounds = [_photograph(name) for name in _BACKGROUNDS[part]]
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number in range(count):
            name = f"{number:05d}.png"
            picture, masks = _compose(generator, backgrounds, things, side, side + side // 4)
            write_image(target / part / name, picture)
            images.append({"id": number, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
            annotations += [_annotation(len(annotations) + i, number, kind, mask) for i, (kind, mask) in enumerate(masks)]
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        replace_file(target / f"{part}.json", json.dumps(content))


def _photograph(name: str) -> Pixels:
    import skimage.data

    picture: Pixels = np.asarray(open_picture(Path(skimage.data.__file__).parent / name))
    return picture


def _cut_out(part: str) -> list[Thing]:
    """The things of a part, each tightly cut: class, pixels, mask. Coins left of the middle are for training, the others for validation."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops
    from skimage.morphology import closing, disk

    coins = _photograph("coins.png")
    found = regionprops(label(closing(coins[..., 0] > threshold_otsu(coins[..., 0]), disk(3))))
    things: list[Thing] = []
    for region in found:
        top, left, bottom, right = region.bbox
        round_enough = region.area > 700 and region.area > 0.6 * (bottom - top) * (right - left) and max(bottom - top, right - left) < 90
        if round_enough and (left < coins.shape[1] // 2) == (part == "train"):
            things.append((0, coins[top:bottom, left:right], region.image_filled))
    horse, fur = _photograph("horse.png")[..., 0] < 128, _photograph("chelsea.png")
    rows, columns = np.nonzero(horse)
    mask = horse[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    coat = cv2.resize(fur[150:, :200] if part == "train" else fur[150:, 250:], mask.shape[::-1], interpolation=cv2.INTER_AREA)
    things += [(1, coat.astype(np.uint8), mask)] * 4
    face = fur[20:240, 120:330]
    y, x = np.mgrid[-1 : 1 : face.shape[0] * 1j, -1 : 1 : face.shape[1] * 1j]
    return things + [(2, face, x**2 + y**2 <= 1)] * 4


def _compose(
    generator: np.random.Generator, backgrounds: list[Pixels], things: list[Thing], height: int, width: int
) -> tuple[Pixels, list[tuple[int, NDArray[np.bool_]]]]:
    """A picture of one to four things; what another thing hides belongs to no mask, and what is hidden by more than half is not listed."""
    background = backgrounds[generator.integers(len(backgrounds))]
    factor = max(height / background.shape[0], width / background.shape[1], generator.uniform(0.4, 1.0))
    resized = cv2.resize(background, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    top, left = generator.integers(resized.shape[0] - height + 1), generator.integers(resized.shape[1] - width + 1)
    picture = resized[top : top + height, left : left + width].copy()
    masks: list[tuple[int, NDArray[np.bool_]]] = []
    full: list[int] = []
    for _ in range(generator.integers(1, 5)):
        kind = int(generator.integers(len(CLASSES)))
        choices = [thing for thing in things if thing[0] == kind]
        _, pixels, mask = choices[generator.integers(len(choices))]
        factor = generator.uniform(0.2, 0.5) * height / max(mask.shape)
        size = (max(round(mask.shape[1] * factor), 8), max(round(mask.shape[0] * factor), 8))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        if generator.random() < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        pixels = np.clip(pixels * generator.uniform(0.7, 1.3), 0, 255).astype(np.uint8)
        y, x = generator.integers(height - size[1] + 1), generator.integers(width - size[0] + 1)
        whole = np.zeros((height, width), bool)
        whole[y : y + size[1], x : x + size[0]] = mask
        picture[whole] = pixels[mask]
        masks = [(each, other & ~whole) for each, other in masks] + [(kind, whole)]
        full.append(int(whole.sum()))
    return picture, [pair for pair, area in zip(masks, full, strict=True) if pair[1].sum() > area / 2]


def _annotation(number: int, image: int, kind: int, mask: NDArray[np.bool_]) -> dict[str, object]:
    coco = mask_tools()
    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": kind + 1,
        "bbox": [float(each) for each in coco.toBbox(runs)],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": runs["counts"].decode()},
    }
