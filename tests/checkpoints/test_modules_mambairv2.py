"""The parts of MambaIRv2 against golden cases; published tokens are (b, l, c), our maps (b, c, h, w)."""

import pytest
import torch
from torch import Tensor, nn

from eqmambair import build_network
from eqmambair.checkpoints.systems import find_layout
from eqmambair.checkpoints.systems.mambairv2 import relative_index
from eqmambair.groups import group
from eqmambair.layers.attentive_blocks import AttentiveBlock
from eqmambair.layers.attentive_scan import PromptRouter, inverse_order, semantic_order
from eqmambair.layers.feed_forward import ConvFeedForward, GatedFeedForward
from eqmambair.layers.frames import Framing
from eqmambair.layers.views import to_pixels, to_tokens
from eqmambair.layers.window_attention import WindowAttention
from eqmambair.ops import selective_scan
from tests.golden import GoldenCase, relative_error

TOLERANCE = 1e-5  # modules are shallow; float32 rounding is below 2e-6


def read(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / "mambairv2" / f"mod_{name}.safetensors")


def ours(state: dict[str, Tensor], below: str) -> dict[str, Tensor]:
    """The state of a published block, or of some of its parts, as the state of our block's part `below`."""
    prefix = "layers.0.residual_group.layers.0."
    published = {f"{prefix}{key}": value for key, value in state.items()}
    gate = {f"{prefix}convffn1.sg.conv.weight"} if any(".sg." in key for key in state) else set()
    layout = find_layout({f"{prefix}assm.selectiveScan.A_logs": None, **dict.fromkeys(gate)})
    converted = layout.to_ours(published)
    start = f"groups.0.blocks.0.{below}"
    return {key.removeprefix(start): value for key, value in converted.items() if key.startswith(start)}


def block_of(golden: GoldenCase) -> AttentiveBlock:
    """A block of a network with the case's options; the second of its group where the windows are shifted."""
    k = golden.kwargs
    network = build_network(
        {
            "type": "MambaIRv2Light" if any(".sg." in key for key in golden.state) else "MambaIRv2",
            "embed_dim": k["dim"], "depths": [2], "num_heads": [k["num_heads"]], "upsampler": "",
            **{name: k[name] for name in ("d_state", "window_size", "inner_rank", "num_tokens", "mlp_ratio")},
        }
    )  # fmt: skip
    block = network.groups[0].blocks[int(k["shift"] > 0)]
    block.load_state_dict(ours(golden.state, ""))
    return block.eval()


def framing(golden: GoldenCase) -> Framing:
    k = golden.kwargs
    return Framing(group("c1"), k["height"], k["width"], k["window_size"], torch.device("cpu"))


def pixels(golden: GoldenCase, tokens: Tensor) -> Tensor:
    return to_pixels(tokens, golden.kwargs["height"], golden.kwargs["width"])


@pytest.mark.parametrize("name", ["block_light", "block_classic"])
def test_block(shared_dir, name):
    golden = read(shared_dir, name)
    block, categories = block_of(golden), []
    block.state_space.mixer.router.register_forward_hook(lambda _, __, output: categories.append(output[1]))
    (y,) = block((pixels(golden, golden.tensors["input/x"]),), framing(golden))
    assert relative_error(to_tokens(y), golden.tensors["output/y"]) < TOLERANCE
    assert torch.equal(categories[0], golden.tensors["output/category"].long())
    assert torch.equal(semantic_order(categories[0]), golden.tensors["output/order"].long())


def test_group_of_blocks(shared_dir):
    golden = read(shared_dir, "group_light")
    k = golden.kwargs
    network = build_network(
        {
            "type": "MambaIRv2Light", "embed_dim": k["dim"], "depths": [k["depth"]], "num_heads": [k["num_heads"]], "upscale": 2,
            **{name: k[name] for name in ("d_state", "window_size", "inner_rank", "num_tokens", "mlp_ratio")},
        }
    )  # fmt: skip
    published = {f"layers.0.{key}": value for key, value in golden.state.items()}
    converted = find_layout(published).to_ours(published)
    blocks = network.groups[0].eval()
    blocks.load_state_dict({key.removeprefix("groups.0."): value for key, value in converted.items()})
    (y,) = blocks((pixels(golden, golden.tensors["input/x"]),), framing(golden))
    assert relative_error(to_tokens(y), golden.tensors["output/y"]) < TOLERANCE


@pytest.mark.parametrize(("kind", "prompt_order"), [("zero", "raster"), ("noise", "raster"), ("zero", "sorted")])
def test_attentive_scan(shared_dir, kind, prompt_order):
    golden = read(shared_dir, "assm")
    k = golden.kwargs
    network = build_network(
        {
            "type": "MambaIRv2", "embed_dim": k["dim"], "depths": [1], "num_heads": [1], "upsampler": "", "prompt_order": prompt_order,
            **{name: k[name] for name in ("d_state", "inner_rank", "num_tokens", "mlp_ratio")},
        }
    ).eval()  # fmt: skip
    module = network.groups[0].blocks[0].state_space.mixer
    module.load_state_dict(ours(golden.state, "state_space.mixer."))
    module.router.given_noise = golden.tensors["input/gumbel"] if kind == "noise" else None
    y = to_tokens(module(pixels(golden, golden.tensors["input/x"])))
    expected = golden.tensors["output/y_zero_prompt_sorted" if prompt_order == "sorted" else f"output/y_{kind}"]
    assert relative_error(y, expected) < TOLERANCE
    _, category = module.router(golden.tensors["input/x"])
    assert torch.equal(category, golden.tensors[f"output/category_{kind}"].long())
    assert torch.equal(semantic_order(category), golden.tensors[f"output/order_{kind}"].long())


@pytest.mark.parametrize("kind", ["zero", "noise"])
def test_routing_and_its_straight_through_gradient(shared_dir, kind):
    golden = read(shared_dir, "routing")
    k, state = golden.kwargs, golden.state
    router = PromptRouter(k["dim"], k["num_tokens"], k["d_state"], k["inner_rank"]).eval()
    names = {"hidden": "route.0", "scores": "route.2"}
    names = {f"{own}.{p}": f"{theirs}.{p}" for own, theirs in names.items() for p in ("weight", "bias")}
    names |= {"prompts": "embeddingB.weight", "basis": "embeddingA.weight"}
    router.load_state_dict({own: state[theirs] for own, theirs in names.items()})
    router.given_noise = golden.tensors["input/gumbel"] if kind == "noise" else None
    x = golden.tensors["input/x"].clone().requires_grad_()
    prompts, category = router(x)
    assert torch.equal(category, golden.tensors[f"output/category_{kind}"].long())
    assert relative_error(prompts, golden.tensors[f"output/prompt_{kind}"]) < TOLERANCE
    assert relative_error(router.prompts @ router.basis, golden.tensors["output/pool"]) < TOLERANCE
    with torch.no_grad():
        assert torch.equal(router(x)[0], prompts), "the estimator's term is no zero"
    (prompts * golden.tensors["input/cotangent"]).sum().backward()
    gradients = golden.part(f"grad/{kind}")
    assert relative_error(x.grad, gradients["input"]) < TOLERANCE
    for own, theirs in names.items():
        assert relative_error(router.get_parameter(own).grad, gradients[f"param/{theirs}"]) < TOLERANCE, own


def test_order_of_given_categories_to_the_bit(shared_dir):
    golden = read(shared_dir, "sgn")
    order = semantic_order(golden.tensors["input/category"].long())
    inverse = inverse_order(order)
    assert torch.equal(order, golden.tensors["output/order"].long())
    assert torch.equal(inverse, golden.tensors["output/inverse"].long())
    x = golden.tensors["input/x"]
    unfolded = x.gather(1, order.unsqueeze(-1).expand_as(x))
    assert torch.equal(unfolded, golden.tensors["output/unfolded"])
    assert torch.equal(unfolded.gather(1, inverse.unsqueeze(-1).expand_as(x)), golden.tensors["output/folded"])


def test_scan_with_prompts(shared_dir):
    golden = read(shared_dir, "scan")
    state, (rank, n) = golden.state, (2, golden.kwargs["d_state"])
    u, prompt = (golden.tensors[f"input/{name}"].clone().requires_grad_() for name in ("u", "prompt"))
    low_rank, B, C = (u @ state["x_proj_weight"][0].T).unsqueeze(2).split([rank, n, n], dim=-1)
    y = selective_scan(
        u.unsqueeze(2), low_rank @ state["dt_projs_weight"][0].T, -state["A_logs"].exp()[None], B, C + prompt.unsqueeze(2),
        state["Ds"][None], state["dt_projs_bias"],
    ).squeeze(2)  # fmt: skip
    assert relative_error(y, golden.tensors["output/y"]) < TOLERANCE
    (y * golden.tensors["input/cotangent"]).sum().backward()
    assert relative_error(u.grad, golden.tensors["grad/input/u"]) < TOLERANCE
    assert relative_error(prompt.grad, golden.tensors["grad/input/prompt"]) < TOLERANCE


@pytest.mark.parametrize("name", ["plain", "shifted"])
def test_window_attention(shared_dir, name):
    golden = read(shared_dir, f"window_attention_{name}")
    k = golden.kwargs
    attention = WindowAttention(k["dim"], k["dim"], k["num_heads"], k["window_size"], shifted=k["shift"] > 0)
    attention.load_state_dict(ours(golden.state, "window.mixer."))
    y = to_tokens(attention(pixels(golden, golden.tensors["input/x"])))
    assert relative_error(y, golden.tensors["output/y"]) < TOLERANCE


def test_relative_positions_to_the_bit(shared_dir):
    golden = read(shared_dir, "index_mask")
    for window in (2, 3, 4):
        index = golden.tensors[f"output/index_w{window}"].long()
        assert torch.equal(relative_index(window), index)
        attention = WindowAttention(4, 4, 2, window)
        nn.init.normal_(attention.bias_table)
        assert torch.equal(attention.relative_bias().flatten(3).flatten(1, 2), attention.bias_table[index].permute(2, 0, 1))


@pytest.mark.parametrize("case", ["mask_w2_8x12", "mask_w3_9x12", "mask_w4_4x4", "mask_w4_8x12"])
def test_windows_are_what_the_published_masks_leave(shared_dir, case):
    """The masks stand in rolled coordinates, window by window; ours are windows of the map itself."""
    mask = read(shared_dir, "index_mask").tensors[f"output/{case}"]
    window, height, width = (int(number) for number in case.removeprefix("mask_w").replace("x", "_").split("_"))
    attention = WindowAttention(1, 1, 1, window, shifted=True)

    def part_of_each(length):
        """The window that each pixel of a side belongs to, numbered through."""
        begins = [place for begin, end, side in attention.spans(length) for place in range(begin, end, side)]
        return torch.bucketize(torch.arange(length), torch.tensor(begins), right=True)

    label = part_of_each(height)[:, None] * 1000 + part_of_each(width)
    rolled = label.roll((-(window // 2), -(window // 2)), (0, 1))
    cut = rolled.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
    assert torch.equal(cut[:, :, None] == cut[:, None, :], mask == 0)


@pytest.mark.parametrize(("name", "kind"), [("convffn", ConvFeedForward), ("gated_mlp", GatedFeedForward)])
def test_feed_forward(shared_dir, name, kind):
    golden = read(shared_dir, name)
    k = golden.kwargs
    module = kind(k["dim"], k["hidden"], k["dim"])
    module.load_state_dict(ours({f"convffn1.{key}": value for key, value in golden.state.items()}, "window.feed."))
    assert relative_error(to_tokens(module(pixels(golden, golden.tensors["input/x"]))), golden.tensors["output/y"]) < TOLERANCE
