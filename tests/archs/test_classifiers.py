"""VMamba and EQ-VMamba as whole networks: sizes, the guarantee, what breaks it, folding, tracing, training."""

import pytest
import torch
from torch import nn

from eqmambair import UserError, build_network, fold
from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.archs import Classifier
from eqmambair.groups import group
from eqmambair.layers.strided import StridedGroupConv2d, StridedLiftingConv2d
from tests.archs.moving import field_error, moved

SMALL = {"depths": [1, 1, 2, 1], "dims": [16, 16, 24, 32], "num_classes": 5}
D4 = SMALL | {"group": "d4", "dims": [16, 16, 24, 32]}
TWO_STAGES = {"depths": [1, 1], "dims": [16, 16]}
PLAIN, EQ, EQ_D4 = {"type": "VMamba", **SMALL}, {"type": "EQVMamba", **SMALL}, {"type": "EQVMamba", **D4}
SIZES = [(64, 64), (32, 96), (61, 62), (50, 70), (33, 47)]
BOUND = 1e-10  # NMSE; measured below 1e-12 in float32

S2L15, S1L20 = {"depths": [2, 2, 15, 2], "ssm_ratio": 2.0}, {"depths": [2, 2, 20, 2]}
PYRAMID = {"out_indices": [0, 1, 2, 3]}
#: Trainable parameters, counted on the published networks (section 6 of each specification).
PUBLISHED_COUNTS = [
    ("VMamba", {}, 30_249_064),
    ("VMamba", {"num_classes": 100}, 29_556_964),
    ("VMamba", {"depths": [2, 2, 5, 2], "ssm_ratio": 2.0}, 30_705_832),
    ("VMamba", S2L15, 50_147_752),
    ("VMamba", S2L15 | {"num_classes": 100}, 49_455_652),
    ("VMamba", S1L20, 49_012_840),
    ("VMamba", S2L15 | {"dims": 128}, 88_557_800),
    ("VMamba", S1L20 | {"dims": 128}, 86_614_504),
    ("VMamba", PYRAMID, 29_481_408),
    ("VMamba", S2L15 | PYRAMID, 49_380_096),
    ("VMamba", S2L15 | PYRAMID | {"dims": 128}, 87_534_592),
    ("VMamba", {"cross_scan": "eq"}, 30_249_064),
    ("EQVMamba", {}, 10_394_776),
    ("EQVMamba", {"num_classes": 100}, 10_221_076),
    ("EQVMamba", S1L20, 17_142_040),
    ("EQVMamba", S1L20 | {"num_classes": 100}, 16_968_340),
    ("EQVMamba", S1L20 | {"dims": 128, "num_classes": 100}, 30_050_980),
    ("EQVMamba", {"param_generator": "independent", "num_classes": 100}, 9_270_676),
    ("EQVMamba", S1L20 | {"param_generator": "independent"}, 15_500_440),
    ("EQVMamba", PYRAMID, 10_202_112),
    ("EQVMamba", S1L20 | PYRAMID, 16_949_376),
]


@pytest.mark.parametrize(("kind", "options", "count"), PUBLISHED_COUNTS)
def test_parameter_count_is_the_published_one(kind, options, count):
    with torch.device("meta"):
        network = build_network({"type": kind, **options})
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("options", [EQ, EQ_D4, EQ | {"param_generator": "independent"}], ids=["c4", "d4", "independent"])
def test_logits_do_not_change_and_maps_move_with_the_image(options):
    network = moved(build_network(options))
    g = network.kit.group
    for size in SIZES:
        image = torch.randn(2, 3, *size)
        error = equivariance_error(network, image, g)
        assert len(error["elements"]) == g.order - 1
        assert error["nmse"] <= BOUND
        assert field_error(network.features, image, g) <= BOUND


@pytest.mark.parametrize(
    "options", [EQ | {"patch_size": 8}, EQ | {"ssm_ratio": 2.0, "ssm_d_state": 3, "ssm_conv_bias": True}, EQ | PYRAMID]
)
def test_every_option_keeps_the_guarantee(options):
    network = moved(build_network(options))
    image = torch.randn(1, 3, 40, 57)
    assert field_error(network.features, image, network.kit.group) <= BOUND
    if "out_indices" in options:
        assert field_error(network, image, network.kit.group) <= BOUND
    else:
        assert equivariance_error(network, image, "c4")["nmse"] <= BOUND


@pytest.mark.parametrize(("options", "g"), [(PLAIN, "c4"), (PLAIN | {"cross_scan": "eq"}, "c4"), (EQ, "d4")], ids=["plain", "paths", "c4"])
def test_what_is_not_equivariant_does_not_pass(options, g):
    error = equivariance_error(moved(build_network(options)), torch.randn(1, 3, 64, 64), g)
    assert max(each["nmse"] for each in error["elements"].values()) > 1e-3


@pytest.mark.parametrize("name", ["c4", "d4"])
def test_fixed_shift_commutes_at_multiples_of_32_alone(name):
    network = moved(build_network(EQ | {"group": name, "exact_any_size": False}))
    assert equivariance_error(network, torch.randn(1, 3, 64, 96), name)["nmse"] <= BOUND
    assert equivariance_error(network, torch.randn(1, 3, 50, 70), name)["nmse"] > 1e-4


@pytest.mark.parametrize("name", ["c2", "c4", "d4"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (5, 4, 1), (3, 3, 0), (5, 2, 2)])
def test_strided_layers_commute_at_every_size(name, kernel, stride, padding):
    g = group(name)
    lift = StridedLiftingConv2d(g, 2, 3, kernel, stride, padding).double()
    conv = StridedGroupConv2d(g, 3, 2, kernel, stride, padding).double()
    for size in ((12, 12), (13, 13), (12, 17), (6, 11), (5, 5)):
        image = torch.randn(1, 2, *size, dtype=torch.float64)
        maps = torch.randn(1, 3 * g.order, *size, dtype=torch.float64)
        for element in g.elements:
            # float64 rounding: exact in real arithmetic
            torch.testing.assert_close(lift(g.act(image, element)), g.act_field(lift(image), element), rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(conv(g.act_field(maps, element)), g.act_field(conv(maps), element), rtol=1e-9, atol=1e-11)


def test_strided_layer_with_corners_of_another_group_element_does_not_commute():
    g = group("c4")
    conv = StridedGroupConv2d(g, 3, 2)
    conv.corners = tuple((right, bottom) for bottom, right in conv.corners)
    maps = torch.randn(1, 12, 8, 8)
    assert (conv(g.act_field(maps, 1)) - g.act_field(conv(maps), 1)).abs().max() > 1e-2


def test_independent_generators_are_group_ones_without_the_other_offsets():
    independent = moved(build_network(EQ | {"param_generator": "independent"}))
    full = build_network(EQ).eval()
    state = independent.state_dict()
    for key in state:
        if key.endswith(("x_proj.weight", "dt_proj.weight")):
            state[key] = torch.cat([state[key][..., None], torch.zeros(*state[key].shape, 3)], -1)
    full.load_state_dict(state)
    image = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(full(image), independent(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [PLAIN, EQ, EQ_D4], ids=["plain", "c4", "d4"])
def test_maps_of_any_size_have_their_stride(options):
    network = build_network(options).eval()
    assert isinstance(network, Classifier)
    with torch.no_grad():
        for size in ((1, 1), (5, 3), (37, 64)):
            maps = network.features(torch.randn(2, 3, *size))
            assert [tuple(x.shape[1:]) for x in maps] == [
                (c, *(-(-side // 2 ** (i + 2)) for side in size)) for i, c in enumerate(network.feature_channels)
            ]
            assert network(torch.randn(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_backbone_without_head_has_maps_and_no_logits(options):
    network = build_network(options | {"num_classes": 0})
    assert not hasattr(network, "head")
    assert len(network.features(torch.randn(1, 3, 32, 32))) == 4
    with pytest.raises(RuntimeError, match="without a head"):
        network(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_chosen_stages_keep_their_own_norms(options):
    every, some = moved(build_network(options | PYRAMID)), build_network(options | {"out_indices": [1, 3]}).eval()
    some.load_state_dict({key: value for key, value in every.state_dict().items() if key in some.state_dict()})
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        full, part = every(image), some(image)
    assert len(part) == 2
    torch.testing.assert_close(part[0], full[1])
    torch.testing.assert_close(part[1], full[3])


@pytest.mark.parametrize("options", [PLAIN, EQ, EQ_D4 | {"param_generator": "independent"}], ids=["plain", "c4", "d4"])
def test_folded_network_gives_the_same_logits_with_plain_layers(options):
    network = moved(build_network(options))
    folded = fold(network)
    for size in ((32, 32), (33, 50)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(folded(image), network(image), rtol=1e-4, atol=1e-4)
    names = {type(module).__name__ for module in folded.modules()}
    assert not names & {"GroupLinear", "InvariantLinear", "StridedGroupConv2d", "StridedLiftingConv2d", "DepthwiseGroupConv2d"}


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_one_graph_serves_every_size(options):
    network = moved(build_network(options | TWO_STAGES))
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in ((2, 3, 48, 40), (3, 3, 37, 65), (1, 3, 64, 33)):
            image = torch.randn(shape)
            torch.testing.assert_close(compiled(image), network(image))


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_exported_program_serves_every_size(options):
    network = moved(build_network(options | TWO_STAGES))
    # torch.export takes maps of one pixel for a case of their own: the last stage must have two
    sizes = {0: torch.export.Dim("b", max=64), 2: torch.export.Dim("h", min=9, max=4096), 3: torch.export.Dim("w", min=9, max=4096)}
    program = torch.export.export(network, (torch.randn(2, 3, 24, 20),), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for shape in ((2, 3, 24, 20), (3, 3, 37, 65), (1, 3, 64, 9)):
            image = torch.randn(shape)
            torch.testing.assert_close(program(image), network(image))


@pytest.mark.parametrize("options", [PLAIN, EQ], ids=["plain", "c4"])
def test_recomputing_blocks_gives_the_same_gradients(options):
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(3)
        network = build_network(options | {"use_checkpoint": use_checkpoint, "drop_path_rate": 0.5}).train()
        network(torch.rand(4, 3, 32, 32)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("options", [PLAIN, EQ | {"init": "corrected"}], ids=["plain", "c4"])
def test_half_precision_training_stays_close_and_finite(options):
    network = moved(build_network(options)).train()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()(image)
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network.eval()(image)
    assert ((logits.float() - expected).norm() / expected.norm()).item() < 0.1  # bfloat16 keeps 8 bits
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("form", ["sample", "element", "published"])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_every_form_of_drop_trains_at_every_shape(form, size):
    network = build_network(EQ | {"drop_form": form, "drop_path_rate": 0.3})
    network.train()(torch.randn(2, 3, *size)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("form", ["sample", "element", "published"])
def test_training_with_one_draw_is_invariant_on_squares(form):
    network = moved(build_network(EQ | {"drop_form": form, "drop_path_rate": 0.5})).train()
    image = torch.randn(2, 3, 64, 64)
    outputs = []
    for turn in range(4):
        torch.manual_seed(1)  # the same draws
        outputs.append(network(image.rot90(turn, (-2, -1))))
    for each in outputs[1:]:
        torch.testing.assert_close(each, outputs[0], rtol=1e-4, atol=1e-4)


def test_published_drop_draws_one_mask_for_the_batch():
    from eqmambair.layers.drop import FieldDropout

    mask = FieldDropout(group("c4"), 0.5, whole_batch=True)(torch.ones(3, 8, 5, 5))
    assert torch.equal(mask[0], mask[2])


def test_published_initialisation_leaves_the_scan_almost_off_and_the_corrected_one_does_not():
    published, corrected = (build_network(EQ | {"init": init}) for init in ("published", "corrected"))
    scans = [network.stages[1][0].scan for network in (published, corrected)]
    assert scans[0].dt_proj.weight.unique().tolist() == pytest.approx([scans[0].rank ** -0.5])
    assert scans[1].dt_proj.weight.min() < 0
    assert scans[1].conv.weight.std() > 3 * scans[0].conv.weight.std()
    assert published.head.weight.abs().max() > 1.5 * corrected.head.weight.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EQ | {"dims": [20, 16, 24, 32]}, "dims\\[0\\] = 20: must be a multiple of 8"),
        (EQ | {"dims": [16, 18, 24, 32]}, "dims = 18: must be a multiple of 4"),
        (EQ | {"ssm_ratio": 1.1}, "must be a multiple of 4"),
        (EQ | {"group": "c3"}, "'c3' is not known"),
        (EQ | {"drop_form": "row"}, "'row' is not known"),
        (EQ | {"init": "mamba"}, "'mamba' is not known"),
        (EQ | {"param_generator": "both"}, "'both' is not known"),
        (EQ | {"patch_size": 6}, "kernel_size = 4: must be odd"),
        (PLAIN | {"patch_size": 3}, "patch_size = 3"),
        (PLAIN | {"depths": [1, 1]}, "as many widths as depths"),
        (PLAIN | {"depths": [1, 0, 1, 1]}, "at least 1"),
        (PLAIN | {"out_indices": [3, 1]}, "in order"),
        (PLAIN | {"num_classes": -1}, "num_classes = -1"),
        (PLAIN | {"drop_path_rate": 1.0}, "drop_path_rate = 1.0"),
        (PLAIN | {"cross_scan": "rows"}, "'rows' is not known"),
        (PLAIN | {"ssm_dstate": 1}, "did you mean 'ssm_d_state'"),
    ],
)
def test_impossible_networks_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        build_network(options)


def test_trained_network_keeps_the_guarantee():
    network = build_network(EQ | {"init": "corrected"}).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
        optimizer.step()
    assert equivariance_error(network, torch.randn(1, 3, 45, 32), "c4")["nmse"] <= BOUND
