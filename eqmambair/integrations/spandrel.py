"""The restoration networks in spandrel: its `ModelLoader`, and every program that uses it, loads our weights and the published ones.

import spandrel
from eqmambair.integrations.spandrel import install

install()
model = spandrel.ModelLoader().load_from_file("mambair_light_x2.pth")
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from eqmambair.archs import build_network
from eqmambair.checkpoints import infer_network
from eqmambair.checkpoints.systems import SYSTEMS, find_layout
from eqmambair.errors import UserError

try:
    from spandrel import MAIN_REGISTRY, Architecture, ArchRegistry, ArchSupport, ImageModelDescriptor, ModelTiling, SizeRequirements
except ImportError as error:
    raise ImportError("spandrel is not installed; pip install 'eqmambair[spandrel]'") from error

#: The networks that restore pictures, by the name of their class.
NETWORKS = ("EQMambaIR", "MambaIR", "MambaIRv2", "MambaIRv2Light", "MambaIRUNet")


def install(registry: ArchRegistry | None = None) -> list[str]:
    """Register the networks; calling it again changes nothing.

    They are asked before spandrel's own, as their keys are theirs alone.

    Args:
        registry: where to; None is the one that `ModelLoader` uses by itself.

    Returns:
        The names that were added. A name that the registry has already keeps the meaning that it has there.
    """
    target = MAIN_REGISTRY if registry is None else registry
    others = tuple(support.architecture.id for support in target if not isinstance(support.architecture, RestorationNetwork))
    added = target.add(*(ArchSupport.from_architecture(RestorationNetwork(name), others) for name in NETWORKS), ignore_duplicates=True)
    return [support.architecture.id for support in added]


class RestorationNetwork(Architecture[nn.Module]):
    """One of `NETWORKS` as spandrel sees it: recognised by its keys, built from its shapes.

    What shapes do not show has its published value: ``img_range`` is 1, the prompts of MambaIRv2 lie in raster order.
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name, detect=lambda state: network_of(state) == name)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[nn.Module]:
        """Build the network of a state dict, in ours or the published layout, and load it.

        Raises:
            UserError: it is incomplete, or its shapes fit no such network.
            RuntimeError: keys are missing, or are too many.
        """
        options = infer_network(state_dict)
        layout = find_layout(state_dict)
        state = layout.to_ours(state_dict) if layout else dict(state_dict)
        network = build_network(options)
        scale = int(getattr(network, "upscale", 1))
        channels = options.get("in_chans", options.get("inp_channels", 3))
        equivariant = options.get("group", "c1") != "c1"
        return ImageModelDescriptor(
            network,
            state,
            architecture=self,
            purpose="SR" if scale > 1 else "Restoration",
            tags=_tags(options),
            supports_half=True,
            supports_bfloat16=True,
            scale=scale,
            input_channels=channels,
            output_channels=options.get("out_channels", channels),
            size_requirements=SizeRequirements(),  # the networks frame every size themselves
            # the published numbers come from tiles, but a grid of tiles does not turn with the picture
            tiling=ModelTiling.DISCOURAGED if equivariant else ModelTiling.SUPPORTED,
        )


def network_of(state: Mapping[str, Any]) -> str | None:
    """The name of the network that a state dict belongs to, None if it is none of `NETWORKS`, or lacks what tells."""
    if not all(isinstance(value, Tensor) for value in state.values()):
        return None
    layout = find_layout(state)
    if layout is not None:
        return layout.system if layout.system in NETWORKS else None
    if not any(system.owns(state) for system in SYSTEMS if system.name in NETWORKS):
        return None
    try:
        return str(infer_network(state)["type"])
    except UserError:  # others are still to be asked
        return None


def _tags(options: Mapping[str, Any]) -> list[str]:
    head = {"pixelshuffle": "classic", "pixelshuffledirect": "light"}.get(options.get("upsampler", ""))
    width = options.get("embed_dim", options.get("dim"))
    return [tag for tag in (head, f"{width}dim", options.get("group")) if tag and tag != "c1"]
