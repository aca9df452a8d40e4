"""What a task does with a network, registered in basicsr's MODEL_REGISTRY."""

from eqmambair.errors import UserError
from eqmambair.models.base import Model, Record, TrainKeys, ValidationRequest, ValKeys
from eqmambair.models.classification import ClassificationModel
from eqmambair.models.detection import DetectionModel
from eqmambair.models.restoration import RestorationModel
from eqmambair.models.segmentation import SegmentationModel
from eqmambair.models.specs import REGISTRIES, SUFFIX, nearest

__all__ = [
    "ClassificationModel",
    "DetectionModel",
    "Model",
    "Record",
    "RestorationModel",
    "SegmentationModel",
    "TrainKeys",
    "ValKeys",
    "ValidationRequest",
    "find_model",
]


def find_model(name: object) -> type[Model]:
    """The class that ``model_type`` names.

    Raises:
        UserError: there is none; the nearest name is told.
    """
    registered = REGISTRIES["model"]
    ours = {key.removesuffix(f"_{SUFFIX}"): value for key, value in registered if isinstance(value, type) and issubclass(value, Model)}
    if not isinstance(name, str) or name not in ours:
        raise UserError(f"unknown model {name!r}{nearest(str(name), ours)}")
    return ours[name]
