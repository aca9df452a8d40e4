"""Spectral VMamba: a classifier whose paths follow what a picture shows, and not where it stands.

Source: Spectral State Space Model for Rotation-Invariant Visual Representation Learning (Dutta et al., CVPR 2025, arXiv 2503.06369). The
published order is not invariant (signs, downsampling); the default mode here is, up to rounding, for quarter turns of square pictures.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from eqmambair.archs.classifier import Classifier
from eqmambair.archs.mambair_arch import linear_rates
from eqmambair.archs.vmamba_arch import Stage, VisionBlock, draw_linear_layers
from eqmambair.layers.kit import PlainKit
from eqmambair.layers.rotational import RotationalNormaliser
from eqmambair.layers.scan2d import CrossScan2d
from eqmambair.layers.spectral import SpectralDown, SpectralOrder, values_of_order, visiting_order


class SpectralKit(PlainKit):
    """Ordinary layers whose scan units walk a number of paths, without a convolution ahead of them."""

    def __init__(self, paths: int) -> None:
        super().__init__()
        self.paths = paths

    def scan(self, width: int, states: int, expansion: float, gated: bool = True, conv_bias: bool = True) -> nn.Module:
        return CrossScan2d(width, states, expansion, gated, conv_bias, paths=self.paths, conv=False)


@ARCH_REGISTRY.register()
class SpectralVMamba(Classifier):
    """Classify images; the default is the published tiny network in the mode that keeps turns.

    The stages have strides 16, 32, 64 and 128. The trunk of the rotational normaliser has no gradient; give it ImageNet weights before
    training (a torchvision ResNet-18 file as `pretrain_network_g`, with `strict_load_g: false`).

    Args:
        in_chans: must be 3, as the trunk takes.
        num_classes: logits; 0 builds a backbone without head.
        depths: blocks in each stage.
        dims: channels of each stage; one number is the first stage's, doubled from stage to stage. Where the first differs from the trunk's
            output a linear layer stands between (our lighter networks).
        rfn_width: channels of the trunk's first stage; its output has four times as many.
        top_k: eigenvectors m; a block has 2m paths.
        knn: tokens that are linked in the graph, the token itself included.
        ssm_ratio: scan channels as a multiple of a stage's channels, rounded down.
        d_state: state size N of the scan.
        mlp_ratio: hidden channels of the MLPs as a multiple of a stage's channels, rounded down.
        mode: ``invariant`` gives the four quarter turns of a square picture the same logits, up to rounding, where its graph has no equal
            eigenvalues and no equal values; ``released`` (or ``index_fixed``, the same) follows the published rules, with the order of odd
            maps carried down by their true width.
        graph_floor: least weight in the graph, as a part of the similarity; above 0 it is connected. 1e-3 where pictures have flat parts.
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        img_size: unused; published option files carry it.

    Raises:
        ValueError: for sizes that do not fit, or an unknown mode.
    """

    def __init__(
        self,
        *,
        in_chans: int = 3,
        num_classes: int = 100,
        depths: Sequence[int] = (2, 2, 5, 2),
        dims: int | Sequence[int] = 256,
        rfn_width: int = 64,
        top_k: int = 4,
        knn: int = 5,
        ssm_ratio: float = 2.0,
        d_state: int = 1,
        mlp_ratio: float = 4.0,
        mode: Literal["invariant", "released", "index_fixed"] = "invariant",
        graph_floor: float = 0.0,
        drop_path_rate: float = 0.2,
        use_checkpoint: bool = False,
        img_size: int | Sequence[int] = 224,
    ) -> None:
        widths = [dims << i for i in range(len(depths))] if isinstance(dims, int) else list(dims)
        if mode not in ("invariant", "released", "index_fixed"):
            raise ValueError(f"mode: {mode!r} is not known; choose 'invariant' or 'released'")
        if in_chans != 3:
            raise ValueError(f"in_chans = {in_chans}: must be 3, the trunk takes RGB")
        if not depths or len(widths) != len(depths) or min(rfn_width, top_k, knn, d_state, *depths, *widths) < 1:
            sizes = f"dims = {widths}, depths = {list(depths)}, rfn_width = {rfn_width}, top_k = {top_k}, knn = {knn}, d_state = {d_state}"
            raise ValueError(f"{sizes}: as many widths as depths, and all at least 1")
        if not 0 <= graph_floor <= 1:
            raise ValueError(f"graph_floor = {graph_floor}: must be from 0 to 1")
        kit, released = SpectralKit(2 * top_k), mode != "invariant"
        super().__init__(in_chans=in_chans, num_classes=num_classes, feature_channels=widths, kit=kit)
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        self.rfn = RotationalNormaliser(rfn_width)
        self.project = nn.Identity() if widths[0] == 4 * rfn_width else nn.Conv2d(4 * rfn_width, widths[0], 1)
        self.spectral_order = SpectralOrder(top_k, knn, released, graph_floor)
        self.stages = nn.ModuleList(
            Stage([VisionBlock(kit, width, d_state, ssm_ratio, mlp_ratio, drop_rate=next(rates)) for _ in range(depth)], use_checkpoint)
            for width, depth in zip(widths, depths, strict=True)
        )
        self.downs = nn.ModuleList(SpectralDown(widths[i], widths[i + 1], released) for i in range(len(depths) - 1))
        if num_classes:
            self.norm = kit.norm(widths[-1])
            self.head = nn.Linear(widths[-1], num_classes)
        draw_linear_layers(self)

    def inner_features(self, x: Tensor) -> Tensor:
        """What the graph is made of: the first block's inner features (b, h*w, d) of a map (b, c, h, w), in full precision."""
        block = self.get_submodule("stages.0.0")
        assert isinstance(block, VisionBlock)
        assert isinstance(block.scan, CrossScan2d)
        device = "cpu" if x.device.type == "meta" else x.device.type  # autocast does not know the device that only has shapes
        with torch.autocast(device, enabled=False), torch.no_grad():
            return block.scan.inner(block.norm1(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)).flatten(1, 2)

    def spectrum(self, image: Tensor) -> Tensor:
        """The Laplacian's eigenvalues for each picture, ascending, (b, n).

        As many are 0 as the graph has parts. Where there is more than one part, or two eigenvalues are equal, the picture does not
        determine the order.
        """
        with torch.no_grad():
            return self.spectral_order.spectrum(self.inner_features(self.project(self.rfn(image))))[0]

    def features(self, x: Tensor, order: Tensor | None = None) -> list[Tensor]:
        """The maps of the stages, before any output norm.

        Args:
            x: normalised images, (b, 3, h, w), at least 64 pixels a side or so (the first map must hold the graph).
            order: the tokens of the first map in the order of each eigenvector, (b, h*w, top_k), instead of the network's own.

        Returns:
            (b, dims[i], h_i, w_i) for every stage, h_i = ceil(h / 2^(i+4)).

        Raises:
            ValueError: if the picture is too small for the graph.
        """
        x = self.project(self.rfn(x)).contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        given = None if order is None else values_of_order(order.mT, height, width)
        values = self.spectral_order(self.inner_features(x), height, width) if given is None else given
        maps = []
        for i, stage in enumerate(self.stages):
            if i:
                x, values = self.downs[i - 1](x, values)
            x = stage(x, visiting_order(values))
            maps.append(x)
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """The last stage's map (b, c, h, w) -> logits (b, num_classes): normalise, average over the pixels, one linear layer."""
        return self.head(self.norm(features).mean((2, 3)))

    def forward(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        """Normalised images (b, 3, h, w) -> logits (b, num_classes); `order` as in `features`."""
        return self.classify(self.features(x, order)[-1])
