"""The segmentation sets: where their files lie, what their classes are called, which colours they are drawn in."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eqmambair.errors import UserError

IGNORED = 255  # label of pixels that neither train nor count
NO_CLASS = 254  # what a file value becomes that is neither a class nor ignored

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """A segmentation set.

    Args:
        images: folder of the images below the root; ``{split}`` stands for the part.
        labels: folder of the label files.
        image_ending: of image files; any picture format if empty.
        label_ending: what stands in its place in the name of a label file.
        splits: what the parts train and val are called.
        listing: file that lists the names of a part, if not all files belong to it.
        zero_ignored: file value 0 is no class, and class v is stored as v + 1.
        classes: names; none where the option file gives them.
        colours: of the classes, RGB; `palette` where there are none.
    """

    images: str
    labels: str
    image_ending: str = ""
    label_ending: str = ".png"
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    listing: str | None = None
    zero_ignored: bool = False
    classes: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()


def palette(count: int) -> NDArray[np.uint8]:
    """Colours of classes 0 to ``count - 1``, RGB (count, 3): the bits of the number dealt to the three channels, as in PASCAL VOC."""
    numbers = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def colours_of(name: str | None, count: int) -> NDArray[np.uint8]:
    """The colours that a set is usually drawn in, RGB (count, 3); `palette` for a set without, or of other classes."""
    own = LABEL_SETS[name].colours if name in LABEL_SETS else ()
    return np.array(own, np.uint8) if len(own) == count else palette(count)


def label_set(name: str) -> LabelSet:
    """The set of this name.

    Raises:
        UserError: there is none; all names are told.
    """
    if name not in LABEL_SETS:
        raise UserError(f"unknown layout {name!r}; there are {', '.join(LABEL_SETS)}")
    return LABEL_SETS[name]


_ADE20K = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table, "
    "mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, "
    "rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, "
    "skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway, river, "
    "bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, "
    "swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, "
    "television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, "
    "van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, "
    "sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, "
    "radiator, glass, clock, flag"
)
_VOC = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, "
    "pottedplant, sheep, sofa, train, tvmonitor"
)
_CITYSCAPES = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, "
    "bus, train, motorcycle, bicycle"
)
_COCO_STUFF = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter, "
    "bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, "
    "skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, "
    "fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted "
    "plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, "
    "book, clock, vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, "
    "cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, "
    "door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, "
    "furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, "
    "net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, "
    "salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, "
    "textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, "
    "water-other, waterdrops, window-blind, window-other, wood"
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_VOC_LAYOUT = {"images": "JPEGImages", "image_ending": ".jpg", "listing": "ImageSets/Segmentation/{split}.txt", "classes": _names(_VOC)}

LABEL_SETS: dict[str, LabelSet] = {
    "ade20k": LabelSet(
        "images/{split}", "annotations/{split}", ".jpg",
        splits={"train": "training", "val": "validation"}, zero_ignored=True, classes=_names(_ADE20K),
    ),
    "voc2012": LabelSet(labels="SegmentationClass", **_VOC_LAYOUT),  # type: ignore[arg-type]
    "voc2012aug": LabelSet(labels="SegmentationClassAug", splits={"train": "trainaug", "val": "val"}, **_VOC_LAYOUT),  # type: ignore[arg-type]
    "cityscapes": LabelSet(
        "leftImg8bit/{split}", "gtFine/{split}", "_leftImg8bit.png", "_gtFine_labelTrainIds.png", classes=_names(_CITYSCAPES),
        colours=(
            (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
            (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
            (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
        ),
    ),
    "cocostuff164k": LabelSet(
        "images/{split}", "annotations/{split}", ".jpg", "_labelTrainIds.png",
        splits={"train": "train2017", "val": "val2017"}, classes=_names(_COCO_STUFF),
    ),
    "loveda": LabelSet(
        "img_dir/{split}", "ann_dir/{split}", ".png", zero_ignored=True,
        classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
        colours=((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128)),
    ),
    "potsdam": LabelSet(
        "img_dir/{split}", "ann_dir/{split}", ".png", zero_ignored=True,
        classes=("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
        colours=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    ),
    "folder": LabelSet("{split}/images", "{split}/labels"),
}  # fmt: skip
