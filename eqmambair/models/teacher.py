"""A trained classifier that another one learns from: timm's, torchvision's, or any of the registry."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from eqmambair.checkpoints import load_network, read_state
from eqmambair.errors import UserError
from eqmambair.models.base import TrainKeys


class Teacher(TrainKeys):
    """Which network teaches."""

    library: Literal["timm", "torchvision", "eqmambair"] = Field("timm", description="where its name is looked up")
    name: str | None = Field(None, description="name of the network, such as regnety_160; with eqmambair the weights or arguments tell")
    weights: str | None = Field(None, description="its weights; absent: those that timm or torchvision download for the name")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of its constructor, or a whole network_g for eqmambair")


def build_teacher(spec: Teacher, options: Any, device: torch.device) -> nn.Module:
    """The teacher with its weights, frozen and in evaluation mode; images go in as the student sees them, logits come out.

    Raises:
        UserError: the name is unknown, or the weights are missing or do not fit.
    """
    path = options.resolve(spec.weights) if spec.weights else None
    if path is not None and not path.is_file():
        raise UserError(f"train.teacher.weights: {path}: no such file")
    if spec.library == "eqmambair":
        if path is None:
            raise UserError("train.teacher: a network of ours needs weights")
        teacher, _ = load_network(path, spec.arguments or None)
    else:
        if spec.name is None:
            raise UserError(f"train.teacher: {spec.library} needs a name, such as regnety_160")
        try:
            teacher = _timm(spec, path is None) if spec.library == "timm" else _torchvision(spec, path is None)
        except Exception as error:  # whatever the library makes of a wrong name or argument, or of a failed download
            raise UserError(f"train.teacher: {spec.library} cannot build {spec.name}: {' '.join(str(error).split())[:300]}") from error
        if path is not None:
            try:
                teacher.load_state_dict(read_state(path)[0])
            except RuntimeError as error:
                raise UserError(f"train.teacher.weights: {path}: {' '.join(str(error).split())[:300]}") from error
    return teacher.to(device).eval().requires_grad_(False)


def _timm(spec: Teacher, pretrained: bool) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(spec.name or "", pretrained=pretrained, **spec.arguments)
    return network


def _torchvision(spec: Teacher, pretrained: bool) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(spec.name or "", weights="DEFAULT" if pretrained else None, **spec.arguments)
    return network
