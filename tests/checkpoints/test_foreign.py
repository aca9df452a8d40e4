"""Weights of networks that are none of the toolbox's own."""

import pytest
import torch
from torchvision.models import resnet18

from eqmambair import UserError, build_network, load_weights
from eqmambair.checkpoints import infer_network, to_official


def test_a_network_of_its_own_is_filled_under_the_names_that_it_has():
    """A ResNet-18 is known as the trunk of Spectral VMamba, and still is a ResNet-18."""
    state = resnet18(num_classes=3).state_dict()
    report = load_weights(resnet18(num_classes=3), state)
    assert report.complete
    assert report.layout == "ours"
    vmamba = build_network({"type": "VMamba", "dims": 8, "depths": [1], "num_classes": 3})
    for strict in (True, False):
        with pytest.raises(UserError, match=r"0 tensors loaded \(published ResNet-18\).* VMamba"):
            load_weights(vmamba, state, strict=strict)


def test_first_version_of_vmamba_is_refused_by_name():
    network = build_network({"type": "VMamba", "dims": 8, "depths": [1, 1], "num_classes": 3})
    first = {key: value for key, value in to_official(network.state_dict()).items() if ".mlp." not in key and "downsample" not in key}
    first["layers.0.downsample.reduction.weight"] = torch.zeros(16, 32)
    for read in (infer_network, lambda state: load_weights(network, state)):
        with pytest.raises(UserError, match=r"layers\.0\.downsample\.reduction\.weight: these are weights of VMamba's first version"):
            read(first)
