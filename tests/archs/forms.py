"""The other forms in which a classifier runs, beside the network itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair import fold


def check_forms(network: nn.Module, images: list[Tensor]) -> None:
    """Compiled, exported (free batch, sides of 33 to 4096) and folded, it gives the same for every image; in bfloat16 nearly so."""
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    sizes = {0: torch.export.Dim("b", max=64), 2: torch.export.Dim("h", min=33, max=4096), 3: torch.export.Dim("w", min=33, max=4096)}
    exported = torch.export.export(network, (images[0],), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for image in images:
            expected = network(image)
            for form in (compiled, exported, fold(network)):
                torch.testing.assert_close(form(image), expected)
            with torch.autocast("cpu", torch.bfloat16):
                half = network(image)
            assert F.cosine_similarity(half.float(), expected).min() > 0.99
