"""Networks of every task side by side: what commutes and what does not, and that warmed weights show it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from eqmambair.analysis.verification import warmed
from eqmambair.archs import build_network
from eqmambair.cli import equivariance
from eqmambair.errors import UserError
from eqmambair.layers.scan2d import GroupScan2d

PYRAMID = {"dims": 8, "depths": [1, 1, 1, 1]}
RESTORATION = {"embed_dim": 32, "depths": [1], "d_state": 2, "mlp_ratio": 1.0, "upscale": 2, "upsampler": "pixelshuffledirect"}
HEAD = {"num_classes": 3, "channels": 8, "aux_channels": 0}
NETWORKS = {
    "eq_restoration": {"type": "EQMambaIR", **RESTORATION},
    "restoration": {"type": "MambaIR", **RESTORATION},
    "eq_classification": {"type": "EQVMamba", "num_classes": 3, **PYRAMID},
    "classification": {"type": "VMamba", "num_classes": 3, **PYRAMID},
    "eq_segmentation": {"type": "EQUPerNet", "backbone": {"type": "EQVMamba", **PYRAMID}, **HEAD},
    "segmentation": {"type": "UPerNet", "backbone": {"type": "VMamba", **PYRAMID}, **HEAD},
}


def test_all_tasks_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name, network in NETWORKS.items():
        files.append(tmp_path / f"{name}.yml")
        files[-1].write_text(yaml.safe_dump({"network_g": network}))
    out = tmp_path / "out.json"
    equivariance.main(["--compare", *map(str, files), "--size", "32x32", "24x40", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(NETWORKS) * 2 * 2  # initial and warmed, two sizes
    for row in rows:
        if "eq_" in row["network"]:
            assert max(row["errors"].values()) < 1e-10, row
        elif row["state"] == "warmed":
            assert max(row["errors"].values()) > 1e-4, row
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1


def test_trained_weights_stand_beside_untrained_ones(tmp_path: Path) -> None:
    options = NETWORKS["eq_classification"]
    card = {"preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    torch.save({"params": build_network(options).state_dict(), "network_g": options, "card": card}, tmp_path / "net.pth")
    equivariance.main(["--compare", str(tmp_path / "net.pth"), "--size", "32x32", "--json", str(tmp_path / "o.json")])
    (row,) = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert row["state"] == "trained"
    assert max(row["errors"].values()) < 1e-10


@torch.no_grad()
def test_warming_lets_the_state_count() -> None:
    network = build_network({"type": "EQVMamba", "num_classes": 3, **PYRAMID})
    image = torch.rand(1, 3, 32, 32)

    def share_of_the_state() -> float:
        whole = network.eval()(image)
        for module in network.modules():
            if isinstance(module, GroupScan2d):
                module.x_proj.weight.zero_()  # B and C are then 0: only the skip is left
        without = network(image)
        return float((whole - without).norm() / whole.norm())

    first = share_of_the_state()
    warmed(network)
    assert share_of_the_state() > 100 * first


def test_compare_names_its_networks_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --weights"):
        equivariance.main(["--compare", "a.yml", "--opt", "b.yml"])
