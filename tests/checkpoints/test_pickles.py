"""Weight files of training frameworks: what lies beside the weights is never built."""

import collections
import sys
import types

import numpy as np
import pytest
import torch

from eqmambair import UserError
from eqmambair.checkpoints import read_state


class Unwanted:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.fixture
def framework(monkeypatch):
    """A stand-in for yacs, whose configuration the published VMamba files hold; gone when the file is read."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __setstate__(self, state):
            raise AssertionError("an object of the framework was built")

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_beside_a_configuration_are_read_without_building_it(tmp_path, framework, zipped):
    config = framework(MODEL=framework(DEPTHS=[2, 2, 8, 2]))
    config.frozen = True
    weights = collections.OrderedDict(a=torch.randn(2, 3), b=torch.nn.Parameter(torch.randn(4)))
    content = {"model": {"a": torch.zeros(1)}, "model_ema": weights, "config": config, "epoch": 3, "max_accuracy": 82.6}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    del sys.modules["yacs.config"]
    state, network = read_state(tmp_path / "net.pth")  # the averaged weights are preferred
    assert network is None
    assert {key: value.shape for key, value in state.items()} == {"a": (2, 3), "b": (4,)}
    assert torch.equal(state["a"], weights["a"])


def test_logs_that_training_frameworks_keep_beside_weights_are_passed_over(tmp_path, monkeypatch):
    """Segmentation and detection files hold histories: arrays, and methods told by the name of their class."""
    module = types.ModuleType("mmengine.logging")

    class History:
        def mean(self):
            raise AssertionError("a method of the framework ran")

    History.__module__ = History.mean.__module__ = "mmengine.logging"
    History.__qualname__, History.mean.__qualname__ = "History", "History.mean"
    module.History = History
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", module)
    history = History()
    history.values, history.seen, history.statistics = np.arange(5.0), {1, 2}, collections.defaultdict(dict, mean=History.mean)
    content = {"meta": {"seed": np.int64(3)}, "state_dict": {"a": torch.ones(2)}, "message_hub": {"loss": history}}
    torch.save(content, tmp_path / "net.pth")
    monkeypatch.delitem(sys.modules, "mmengine.logging")
    assert torch.equal(read_state(tmp_path / "net.pth")[0]["a"], torch.ones(2))


def test_code_beside_a_configuration_is_refused(tmp_path, framework, capsys):
    torch.save({"model": {"a": torch.zeros(1)}, "config": framework(a=1), "hook": Unwanted()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="refused"):
        read_state(tmp_path / "net.pth")
    assert "code ran" not in capsys.readouterr().out


def test_weights_that_are_no_tensors_are_refused(tmp_path, framework):
    torch.save({"model": {"a": framework(a=1)}}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="not a tensor"):
        read_state(tmp_path / "net.pth")
