"""UPerNet and EQ-UPerNet as whole networks: sizes, the guarantee, what breaks it, batch norms, folding, tracing, training."""

import pytest
import torch
from torch import nn

from eqmambair import UserError, build_network, fold
from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.checkpoints import infer_network
from eqmambair.groups import group
from eqmambair.layers.norm import FieldBatchNorm2d
from tests.archs.moving import moved

BACKBONE = {"depths": [1, 1, 1, 1], "dims": [16, 16, 24, 32]}
HEADS = {"channels": 16, "aux_channels": 8, "num_classes": 5}
PLAIN = {"type": "UPerNet", "backbone": {"type": "VMamba", **BACKBONE}, **HEADS}
EQ = {"type": "EQUPerNet", "backbone": {"type": "EQVMamba", **BACKBONE}, **HEADS}
EQ_D4 = EQ | {"backbone": EQ["backbone"] | {"group": "d4"}}
BOUND = 1e-10  # NMSE; measured below 1e-11 in float32

S2L15, S1L20 = {"depths": [2, 2, 15, 2], "ssm_ratio": 2.0}, {"depths": [2, 2, 20, 2]}
#: Trainable parameters, counted on the published networks (section 5 of the specification).
PUBLISHED_COUNTS = [
    ("UPerNet", {"type": "VMamba"}, {}, 61_902_572),
    ("UPerNet", {"type": "VMamba"}, {"num_classes": 19}, 61_801_702),
    ("UPerNet", {"type": "VMamba", **S2L15}, {}, 81_801_260),
    ("UPerNet", {"type": "VMamba", **S2L15, "dims": 128}, {}, 122_069_292),
    ("EQUPerNet", {"type": "EQVMamba"}, {}, 18_395_180),
    ("EQUPerNet", {"type": "EQVMamba"}, {"num_classes": 6}, 18_284_300),
    ("EQUPerNet", {"type": "EQVMamba"}, {"channels": 1024}, 39_303_980),
    ("EQUPerNet", {"type": "EQVMamba", **S1L20}, {}, 25_142_444),
    ("EQUPerNet", {"type": "EQVMamba", **S1L20}, {"num_classes": 171}, 25_158_614),
]


@pytest.mark.parametrize(("kind", "backbone", "options", "count"), PUBLISHED_COUNTS)
def test_parameter_count_is_the_published_one(kind, backbone, options, count):
    with torch.device("meta"):
        network = build_network({"type": kind, "backbone": backbone, **options})
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("kind", ["GroupMamba", "V2MPyramid"])
def test_plain_decoder_stands_on_every_pyramid_and_is_told_by_its_weights(kind):
    network = build_network(PLAIN | {"backbone": {"type": kind}}).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)
    with torch.device("meta"):
        inferred = build_network(infer_network(network.state_dict()))
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (network, inferred)]
    assert shapes[0] == shapes[1]


class Heads(nn.Module):
    """One head's logits at its own stride, as a network of its own."""

    def __init__(self, network, key):
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x):
        return self.network.logits(x)[self.key]


@pytest.mark.parametrize("options", [EQ, EQ_D4], ids=["c4", "d4"])
def test_logits_of_both_heads_move_with_the_image(options):
    network = moved(build_network(options))
    g = network.backbone.kit.group
    for size in ((64, 64), (32, 96), (50, 70), (33, 61)):
        image = torch.randn(1, 3, *size)
        assert equivariance_error(network, image, g)["nmse"] <= BOUND
        for key in ("out", "aux"):
            assert equivariance_error(Heads(network, key), image, g)["nmse"] <= BOUND


@pytest.mark.parametrize("name", ["plain", "plain decoder", "fixed shift"])
def test_what_is_not_equivariant_does_not_pass(name):
    options = {
        "plain": PLAIN,
        "plain decoder": PLAIN | {"backbone": EQ["backbone"]},
        "fixed shift": EQ | {"backbone": EQ["backbone"] | {"exact_any_size": False}},
    }[name]
    error = equivariance_error(moved(build_network(options)), torch.randn(1, 3, 50, 70), "c4")
    assert min(each["nmse"] for each in error["elements"].values()) > 1e-4


@pytest.mark.parametrize("options", [EQ, EQ_D4], ids=["c4", "d4"])
def test_training_with_batch_statistics_is_equivariant(options):
    network = moved(build_network(options | {"dropout_ratio": 0.0, "backbone": options["backbone"] | {"drop_path_rate": 0.0}}))
    g = network.backbone.kit.group
    network.train()
    image = torch.randn(2, 3, 64, 64)
    logits = network(image)
    for element in g.elements:
        for key, found in network(g.act(image, element)).items():
            torch.testing.assert_close(found, g.act(logits[key], element), rtol=1e-3, atol=1e-3 * logits[key].abs().max().item())


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_training_yields_both_heads_and_evaluation_one_map_of_the_image_size(options):
    network = build_network(options)
    image = torch.randn(2, 3, 50, 70)
    logits = network.train()(image)
    assert {key: value.shape for key, value in logits.items()} == {"out": (2, 5, 13, 18), "aux": (2, 5, 4, 5)}
    sum(value.square().mean() for value in logits.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        assert network.eval()(image).shape == (2, 5, 50, 70)
        assert network(torch.randn(1, 3, 1, 3)).shape == (1, 5, 1, 3)
    without = build_network(options | {"aux_channels": 0}).train()
    assert set(without(image)) == {"out"}


@pytest.mark.parametrize("form", ["channel", "published"])
def test_every_form_of_drop_trains_on_oblong_crops(form):
    network = build_network(EQ | {"drop_form": form, "dropout_ratio": 0.5}).train()
    logits = network(torch.randn(2, 3, 64, 96))
    assert all(value.isfinite().all() for value in logits.values())


def test_batch_norm_of_fields_pools_the_orientations_and_commutes():
    g = group("d4")
    norm = FieldBatchNorm2d(g, 3).train()
    x = torch.randn(2, 24, 4, 5).to(memory_format=torch.channels_last)
    y = norm(x)
    fields = x.unflatten(1, (8, 3)).transpose(1, 2).transpose(0, 1).flatten(1)  # (c, b*t*h*w)
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * fields.mean(1))
    torch.testing.assert_close(norm.norm.running_var, 0.9 + 0.1 * fields.var(1))
    torch.testing.assert_close(y.unflatten(1, (8, 3)).mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-6, rtol=0)
    for element in g.elements:
        torch.testing.assert_close(norm(g.act_field(x, element)), g.act_field(y, element))
    folded = norm.eval().fold()
    torch.testing.assert_close(folded(x), norm(x))


def test_batch_norms_become_synchronised_ones():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(moved(build_network(EQ)))
    plain = build_network(EQ).eval()
    plain.load_state_dict(network.state_dict())  # the same keys
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == 13
    image = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image), plain(image))


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_folded_network_gives_the_same_logits_with_plain_layers(options):
    network = moved(build_network(options))
    folded = fold(network)
    image = torch.randn(1, 3, 33, 50)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-3, atol=1e-4)
    names = {type(module).__name__ for module in folded.modules()}
    assert not names & {"GroupLinear", "GroupConv2d", "ProjectionConv2d", "FieldBatchNorm2d", "StridedGroupConv2d"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_exported_program_serves_every_size(options):
    network = moved(build_network(options))
    # torch.export takes maps of one pixel for a case of their own: the last stage must have two
    sizes = {0: torch.export.Dim("b", max=64), 2: torch.export.Dim("h", min=33, max=4096), 3: torch.export.Dim("w", min=33, max=4096)}
    program = torch.export.export(network, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for shape in ((3, 3, 64, 96), (1, 3, 37, 65)):
            image = torch.randn(shape)
            torch.testing.assert_close(program(image), network(image), rtol=1e-4, atol=1e-4)


def test_half_precision_stays_close():
    network = moved(build_network(EQ))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(image)
    assert ((found.float() - expected).norm() / expected.norm()).item() < 0.1  # bfloat16 keeps 8 bits


def test_recomputing_the_backbone_gives_the_same_gradients():
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(3)
        network = build_network(EQ | {"backbone": EQ["backbone"] | {"use_checkpoint": use_checkpoint}}).train()
        network(torch.rand(2, 3, 64, 64))["out"].square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EQ | {"backbone": PLAIN["backbone"]}, "VMamba is not equivariant"),
        (EQ | {"channels": 18}, "channels = 18: must be a multiple of 4"),
        (EQ | {"drop_form": "row"}, "'row' is not known"),
        (EQ | {"equivariant": False}, "choose the type UPerNet"),
        (PLAIN | {"equivariant": True}, "choose the type EQUPerNet"),
        (PLAIN | {"backbone": {"type": "MambaIR"}}, "MambaIR is no classifier"),
        (PLAIN | {"backbone": {"type": "VMamba", "depths": [1, 1]}}, "yields 2 maps, 4 are needed"),
        (PLAIN | {"backbone": {"type": "VMamba", "depth": [1]}}, "did you mean 'depths'"),
        (PLAIN | {"aux_index": 4}, "aux_index = 4"),
        (PLAIN | {"num_classes": 0}, "num_classes = 0"),
        (PLAIN | {"pool_scales": []}, "pool_scales"),
    ],
)
def test_impossible_networks_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        build_network(options)
