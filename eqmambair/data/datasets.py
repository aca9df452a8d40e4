"""Pairs of a degraded picture and the truth, from folders or LMDBs; found under basicsr's names for them in option files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from basicsr.utils.color_util import rgb2ycbcr
from basicsr.utils.registry import DATASET_REGISTRY
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from eqmambair.data import transforms
from eqmambair.data.io import decode_image
from eqmambair.data.pictures import absolute
from eqmambair.data.prepare import downscale, read_meta_info
from eqmambair.data.stores import ImageStore, header_size, open_store
from eqmambair.data.transforms import Pixels
from eqmambair.errors import UserError

Size = tuple[int, int]  # width, height
CheckLevel = Literal["full", "header", "lazy"]


class IOBackend(TypedDict):
    """Form of the data: files in folders, or LMDBs."""

    type: Literal["disk", "lmdb"]


@DATASET_REGISTRY.register(suffix="eqmambair")
class PairedImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Degraded pictures and their truths, matched by name.

    A sample holds ``lq`` and ``gt``, float32 RGB in [0, 1] (c, h, w), and their names; in training a random crop, flipped and transposed.

    Args:
        dataroot_gt: folder or LMDB of the truths; absent: pictures without truth (no reference metrics).
        dataroot_lq: folder or LMDB of the degraded pictures; absent: MATLAB's bicubic of the truth (scale 1: the truth).
        meta_info_file: list of the truths to use, one name a line; all of the folder if absent.
        filename_tmpl: name of the degraded picture, ``{}`` standing for the truth's name without extension.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; by the names of the folders if absent.
        gt_size: side of the crops in training, output pixels.
        use_hflip: mirror in training with probability one half.
        use_rot: flip upside down and transpose in training, each with probability one half.
        geometric_augs: both of the above.
        color: channels that the network sees: RGB, the luma of YCbCr, or gray.
        alpha: what to do with pictures that are partly transparent: refuse them, or drop the channel.
        phase: train, val or test.
        scale: output pixels per input pixel and side.
        root: folder that relative paths start from.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str | None = None,
        dataroot_lq: str | None = None,
        meta_info_file: str | None = None,
        filename_tmpl: str = "{}",
        io_backend: IOBackend | None = None,
        gt_size: int | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        geometric_augs: bool = False,
        color: Literal["rgb", "y", "gray"] = "rgb",
        alpha: Literal["error", "drop"] = "error",
        phase: Literal["train", "val", "test"] = "train",
        scale: int = 1,
        root: Path | None = None,
    ) -> None:
        if dataroot_gt is None and dataroot_lq is None:
            raise UserError("a data set needs dataroot_gt, dataroot_lq or both")
        if filename_tmpl.count("{}") != 1:
            raise UserError(f"filename_tmpl must contain {{}} once, found {filename_tmpl!r}")
        root = root or Path.cwd()
        kind = io_backend["type"] if io_backend else None
        self.gt = _store(root, dataroot_gt, "dataroot_gt", kind, scale)
        self.lq = _store(root, dataroot_lq, "dataroot_lq", kind, scale)
        self.scale, self.phase, self.gt_size = scale, phase, gt_size
        self.use_hflip, self.use_rot = use_hflip or geometric_augs, use_rot or geometric_augs
        self.color, self.alpha = color, alpha
        store = self.gt or self.lq
        assert store is not None
        if meta_info_file is not None:
            listed = read_meta_info(absolute(root, meta_info_file))
            self.keys = [name.rsplit(".", 1)[0] if "." in name.rsplit("/", 1)[-1] else name for name in listed]
            if not self.keys:
                raise UserError(f"{meta_info_file}: names no images")
        else:
            self.keys = store.keys()
        folder_and_name = [key.rpartition("/") for key in self.keys]
        self.lq_keys = [f"{folder}{slash}{filename_tmpl.replace('{}', name)}" for folder, slash, name in folder_and_name]
        if self.gt is None:
            self.lq_keys = self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        """The name that tells the sample from others, wherever the data lie; a run that goes on must find the same ones."""
        return self.keys[index]

    @property
    def channels(self) -> int:
        """Channels of ``lq`` and ``gt``."""
        return 3 if self.color == "rgb" else 1

    def describe(self, index: int) -> str:
        """What messages call the sample."""
        return self.gt.describe(self.keys[index]) if self.gt else self._lq_store().describe(self.lq_keys[index])

    def unpaired(self) -> list[str]:
        """Degraded pictures that belong to no truth; not used."""
        if self.gt is None or self.lq is None:
            return []
        wanted = set(self.lq_keys)
        return [self.lq.describe(key) for key in self.lq.keys() if key not in wanted]  # noqa: SIM118 (no mapping)

    def inspect(self, index: int, level: CheckLevel) -> None:
        """Raise ``UserError`` if the sample cannot be used: a missing partner always, unreadable or ill-sized files as the level asks."""
        self._partners(index)
        if level == "full":
            self._fit(*self._pixels(index), index)
        elif level == "header":
            gt = header_size(self.gt, self.keys[index]) if self.gt else None
            lq = header_size(self.lq, self.lq_keys[index]) if self.lq else None
            self._fit_sizes(gt, lq, index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(index, self.gt_size)

    def draw(self, index: int, gt_size: int | None) -> dict[str, Any]:
        """A sample with crops of this size."""
        self._partners(index)
        gt, lq = self._fit(*self._pixels(index), index)
        if self.phase == "train" and gt is not None and gt_size is not None:
            gt, lq = self._crop(gt, lq, gt_size, index)
            gt, lq = transforms.flip_alike([gt, lq], self.use_hflip, self.use_rot)
        elif lq is None and gt is not None:
            lq = self._degraded(gt, index)
        assert lq is not None
        sample: dict[str, Any] = {"lq": self._tensor(lq), "lq_path": self.lq_keys[index]}
        if gt is not None:
            sample.update(gt=self._tensor(gt), gt_path=self.keys[index])
        return sample

    def _lq_store(self) -> ImageStore:
        assert self.lq is not None
        return self.lq

    def _partners(self, index: int) -> None:
        if self.gt is not None and self.keys[index] not in self.gt:
            raise UserError(f"{self.gt.describe(self.keys[index])}: is listed, but is not there")
        if self.lq is not None and self.lq_keys[index] not in self.lq:
            raise UserError(f"{self.describe(index)}: has no partner {self.lq.describe(self.lq_keys[index])}")

    def _pixels(self, index: int) -> tuple[Pixels | None, Pixels | None]:
        gt = self._decode(self.gt, self.keys[index]) if self.gt else None
        lq = self._decode(self.lq, self.lq_keys[index]) if self.lq else None
        return gt, lq

    def _decode(self, store: ImageStore, key: str) -> Pixels:
        name = store.describe(key)
        image = decode_image(store.read(key), name)
        if image.shape[2] == 4:
            if self.alpha == "error" and image[:, :, 3].min() < np.iinfo(image.dtype).max:
                raise UserError(f"{name}: is partly transparent; give it a background, or set alpha: drop")
            image = image[:, :, :3]
        if image.shape[2] == 1 and self.color != "gray":
            image = np.repeat(image, 3, axis=2)
        return image

    def _fit(self, gt: Pixels | None, lq: Pixels | None, index: int) -> tuple[Pixels | None, Pixels | None]:
        """Check the sizes, and cut off what of the truth goes beyond the output."""
        size = self._fit_sizes(_size(gt), _size(lq), index)
        return (None if gt is None or size is None else gt[: size[1], : size[0]]), lq

    def _fit_sizes(self, gt: Size | None, lq: Size | None, index: int) -> Size | None:
        """The part of the truth that is used; in training all of it, else less by at most scale - 1 pixels a side."""
        if gt is None:
            return None
        scale, name = self.scale, self.describe(index)
        if lq is None:
            size = gt[0] // scale * scale, gt[1] // scale * scale
        else:
            size = lq[0] * scale, lq[1] * scale
            slack = 1 if self.phase == "train" else scale
            if not (0 <= gt[0] - size[0] < slack and 0 <= gt[1] - size[1] < slack):
                other = self._lq_store().describe(self.lq_keys[index])
                raise UserError(f"{name}: {gt[0]}x{gt[1]} is not {scale} times {lq[0]}x{lq[1]} of {other}")
        if self.phase == "train" and min(size) < (self.gt_size or 1):
            raise UserError(f"{name}: {gt[0]}x{gt[1]} is smaller than the crops (gt_size {self.gt_size})")
        if 0 in size:
            raise UserError(f"{name}: is smaller than the scale {scale}")
        return size

    def _degraded(self, gt: Pixels, index: int) -> Pixels:
        """What the network sees of a whole truth that has no partner."""
        return downscale(gt, self.scale) if self.scale > 1 else gt

    def _crop(self, gt: Pixels, lq: Pixels | None, gt_size: int, index: int) -> tuple[Pixels, Pixels]:
        if lq is None and self.scale > 1:
            return transforms.crop_and_shrink(gt, gt_size, self.scale)
        return transforms.crop_pair(gt, gt if lq is None else lq, gt_size, self.scale, self.describe(index))

    def _tensor(self, image: Pixels) -> torch.Tensor:
        tensor = transforms.to_tensor(image)
        if self.color == "y" and tensor.shape[0] == 3:
            tensor = torch.from_numpy(rgb2ycbcr(tensor.numpy().transpose(1, 2, 0), y_only=True).astype(np.float32))[None]
        elif self.color == "gray" and tensor.shape[0] == 3:
            tensor = (tensor * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        return tensor


@DATASET_REGISTRY.register(suffix="eqmambair")
class SingleImageDataset(PairedImageDataset):
    """Degraded pictures without truth, for testing: nothing is measured.

    Args:
        dataroot_lq: folder or LMDB.
        meta_info_file: list of the pictures to use; all if absent.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; by the name of the folder if absent.
        color: channels that the network sees: RGB, the luma of YCbCr, or gray.
        alpha: what to do with pictures that are partly transparent: refuse them, or drop the channel.
    """

    def __init__(
        self,
        *,
        dataroot_lq: str,
        meta_info_file: str | None = None,
        io_backend: IOBackend | None = None,
        color: Literal["rgb", "y", "gray"] = "rgb",
        alpha: Literal["error", "drop"] = "error",
        phase: Literal["train", "val", "test"] = "test",
        scale: int = 1,
        root: Path | None = None,
    ) -> None:
        super().__init__(
            dataroot_lq=dataroot_lq,
            meta_info_file=meta_info_file,
            io_backend=io_backend,
            color=color,
            alpha=alpha,
            phase=phase,
            scale=scale,
            root=root,
        )


def _store(root: Path, path: str | None, what: str, kind: str | None, scale: int) -> ImageStore | None:
    return None if path is None else open_store(absolute(root, path), what, kind, scale)


def _size(image: Pixels | None) -> Size | None:
    return None if image is None else (image.shape[1], image.shape[0])


DATASET_REGISTRY._do_register("Dataset_PairedImage", PairedImageDataset, "eqmambair")  # its name in files for real denoising
