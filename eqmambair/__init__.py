"""eqmambair: image restoration and recognition with Mamba state-space models, rotation-equivariant by construction.

Importing the package makes the installed basicsr importable and registers every arch, model, dataset, metric and loss of the toolbox in
basicsr's registries.
"""

from eqmambair.compat import make_basicsr_importable

make_basicsr_importable()

from eqmambair import analysis, data, groups, losses, metrics, models, ops  # noqa: E402, F401 (imported for what they register and name)
from eqmambair.archs import build_network  # noqa: E402
from eqmambair.checkpoints import load_weights  # noqa: E402
from eqmambair.errors import UserError  # noqa: E402
from eqmambair.layers.fold import fold  # noqa: E402
from eqmambair.version import __version__  # noqa: E402

__all__ = ["UserError", "__version__", "build_network", "fold", "load_weights"]
