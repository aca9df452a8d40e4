"""The other forms in which a classifier runs, beside the network itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair import fold


def check_forms(network: nn.Module, images: list[Tensor], *, smallest: int = 33, alike: float = 0.99) -> None:
    """Compiled, exported (free batch, sides of `smallest` to 4096) and folded, it gives the same for every image; in bfloat16 nearly so.

    Args:
        alike: what the cosine between the logits in bfloat16 and in float32 must be above.
    """
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    sides = {axis: torch.export.Dim(name, min=smallest, max=4096) for axis, name in ((2, "h"), (3, "w"))}
    sizes = {0: torch.export.Dim("b", max=64), **sides}
    exported = torch.export.export(network, (images[0],), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for image in images:
            expected = network(image)
            for form in (compiled, exported, fold(network)):
                torch.testing.assert_close(form(image), expected)
            with torch.autocast("cpu", torch.bfloat16):
                half = network(image)
            assert F.cosine_similarity(half.float(), expected).min() > alike
