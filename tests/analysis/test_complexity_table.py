"""What is counted without computing, and the table of all networks."""

import json

import pytest
import torch
import yaml
from torch import nn

from eqmambair import UserError, build_network
from eqmambair.analysis import presets
from eqmambair.analysis.complexity import complexity, complexity_of_sizes, seconds
from eqmambair.analysis.memory import PeakMemory
from eqmambair.cli import complexity as command
from eqmambair.models.specs import REGISTRIES
from tests.conftest import ROOT

NETWORK = {
    "type": "EQMambaIR",
    "embed_dim": 32,
    "depths": [1],
    "d_state": 2,
    "mlp_ratio": 1.25,
    "upsampler": "pixelshuffledirect",
    "upscale": 2,
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_memory_is_what_is_alive_at_a_time(device):
    """4 channels of 10x10 floats in: the first layer's 3200 bytes and the ReLU's 3200 are alive together, then 3200 and 800."""
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).to(device)
    x = torch.rand(1, 4, 10, 10, device=device)
    with torch.no_grad(), PeakMemory() as memory:
        network(x)
    assert memory.peak == 6400
    with torch.no_grad(), PeakMemory() as memory:
        y = x + 1
        view = y.view(-1)[:50]
        y.add_(1)
        del y, view
        x * 2
    assert memory.peak == 1600


ATTENTIVE = {"type": "MambaIRv2Light", "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4, "upscale": 2}
EQUIVARIANT = NETWORK | {"group": "c4"}


@pytest.mark.parametrize("options", [NETWORK, ATTENTIVE, EQUIVARIANT, {"type": "VMamba", "dims": 8, "depths": [1, 1, 1, 1]}])
def test_sizes_alone_give_what_a_pass_gives(options):
    """Every figure, the memory to the byte; attention is fused in both."""
    on_cpu = complexity(build_network(options), torch.rand(1, 3, 12, 9))
    with torch.device("meta"):
        network = build_network(options)
    assert complexity_of_sizes(network, (1, 3, 12, 9)) == on_cpu
    assert next(network.parameters()).is_meta  # left as it was


def test_counted_memory_is_what_the_allocator_held():
    """The profiler's record of what torch's allocator gave and took back; operators of this network keep no workspace there."""
    network, x = build_network(ATTENTIVE).eval(), torch.rand(1, 3, 24, 20)
    counted = complexity(network, x).peak_bytes
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        network(x)
    held = largest = 0
    for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        largest = max(largest, held)
    assert largest == pytest.approx(counted, rel=0.05)  # numbers of a few bytes that are made outside of operators


def test_attention_is_counted_by_its_two_products():
    class Attends(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x[..., :5, :], x[..., :5, :])

    found = complexity(Attends(), torch.rand(2, 3, 7, 4))
    assert found.dense_macs == 2 * (2 * 3 * 7 * 5 * 4)
    assert found.activations == 2 * 3 * 7 * 4


def test_time_is_that_of_a_pass():
    class Counts(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            assert not self.training
            return x

    network = Counts()
    assert 0 < seconds(network, torch.rand(1), rounds=2) < 1
    assert network.calls == 3
    assert network.training


def test_published_counts_of_networks():
    """VMamba-T and GroupMamba-T by the papers' rules: 4.9 (4.88) and 4.65 G at 224x224."""
    vmamba = presets._row("x", {"type": "VMamba", "dims": 96, "depths": [2, 2, 8, 2], "ssm_ratio": 1.0}, "x.yml", (224, 224)).cost
    assert (vmamba.dense_macs + vmamba.published_scan_macs) / 1e9 == pytest.approx(4.88, abs=0.01)
    group = presets._row("x", {"type": "GroupMamba"}, "x.yml", (224, 224)).cost
    assert group.dense_macs / 1e9 == pytest.approx(4.65, abs=0.05)


def test_row_of_the_table():
    row = presets._row("eq_mambair_light_x2", NETWORK, "options/eq_mambair_light_x2.yml", (6, 8))
    line = presets.markdown([row]).splitlines()[2]
    assert line.startswith(f"| eq_mambair_light_x2 | EQMambaIR | {row.parameters:,} | 519K | 6x8 |")
    assert "`options/eq_mambair_light_x2.yml`" in line
    assert presets._row("x", NETWORK, "options/mambair_x2.yml", (6, 8)).weights == "`mambair_x2`"
    assert presets._row("x", NETWORK, "options/trained/compare_mambair_width_x2.yml", (6, 8)).weights == "`mambair_small_x2`"
    assert presets._row("x", NETWORK, "x.yml", (6, 8)).weights == ""


def test_networks_whose_cost_depends_on_the_picture_have_no_figures():
    class Detects(nn.Module):
        def forward(self, x):
            return x[x > 0.5]

    REGISTRIES["network"]._do_register("Detects", Detects)
    try:
        line = presets.markdown([presets._row("x", {"type": "Detects"}, "x.yml", (6, 8))]).splitlines()[2]
    finally:
        del REGISTRIES["network"]._obj_map["Detects"]
    assert line == "| x | Detects | 0 |  |  |  |  |  |  | `x.yml` |  |"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "options").mkdir()
    (tmp_path / "options" / "one.yml").write_text(yaml.safe_dump({"scale": 2, "network_g": NETWORK}))
    monkeypatch.setattr(command, "project_root", lambda: tmp_path)
    monkeypatch.setattr(presets, "SIZES", {"RestorationModel": (12, 16)})
    return tmp_path


def test_table_of_a_page_is_made_anew_and_the_rest_is_left_alone(project, monkeypatch, capsys):
    page = project / "page.md"
    page.write_text(f"# Title\n\n{presets.markdown([])}| old | row |\n\nText\n| other |\n")
    command.main(["--table", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-2:]) == ("# Title", ["Text", "| other |"])
    assert lines[4].startswith("| one | EQMambaIR |")
    assert "6x8" in lines[4]
    assert len(lines) == 8
    assert "1 networks" in capsys.readouterr().out
    page.write_text("no table\n")
    monkeypatch.setattr(command, "rows", lambda _: 1 / 0)  # nothing is counted for such a page
    with pytest.raises(UserError, match="has no table"):
        command.main(["--table", str(page)])
    page.write_bytes(b"\xe7\xff")
    with pytest.raises(UserError, match=r"page\.md: is not a text file"):
        command.main(["--table", str(page)])
    with pytest.raises(UserError, match="cannot be read"):
        command.main(["--table", str(project / "none.md")])


def test_counting_by_output_size_and_timing(project, capsys):
    file, report = str(project / "options" / "one.yml"), project / "r.json"
    command.main(["--opt", file, "--output_size", "12x17", "--json", str(report)])
    by_output = json.loads(report.read_text())
    assert by_output["output_size"] == [12, 17]
    command.main(["--opt", file, "--size", "6x8", "--time", "1", "--json", str(report)])
    by_input = json.loads(report.read_text())["networks"][file]
    assert by_input["dense_macs"] == by_output["networks"][file]["dense_macs"]
    assert by_input["seconds"] > 0
    assert " ms" in capsys.readouterr().out
    with pytest.raises(UserError, match="leave --output_size out"):
        command.main(["--opt", file, "--output_size", "12x17", "--time", "1"])
    with pytest.raises(UserError, match="enlarges by 2"):
        command.main(["--opt", file, "--output_size", "1x17"])


def test_page_of_models_names_every_option_file():
    """`python scripts/complexity.py --table docs/models.md` makes it so."""
    text = (ROOT / "docs" / "models.md").read_text()
    files = [*sorted((ROOT / "options").glob("*.yml")), *sorted((ROOT / "options" / "trained").glob("*.yml"))]
    missing = [file.stem for file in files if f"| `{file.relative_to(ROOT)}` |" not in text]
    assert missing == []
