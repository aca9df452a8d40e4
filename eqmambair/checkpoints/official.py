"""The published key layouts of MambaIR, its U-shaped form and EQ-MambaIR, and the way from them to ours and back.

A `Rule` pairs one published key with one or two of ours; words in braces are carried over. The published EQ code keeps 3x3 filters as
coefficients over a `Basis` buffer that differs from machine to machine (so it is read from the file, never recomputed), and caches expanded
filters that may be stale (so they are dropped).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eqmambair.errors import UserError

Transform = Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Rule:
    """How one published entry stands in our layout.

    Attributes:
        official: its key, with ``{name}`` for what varies.
        ours: our key, or two keys that share its rows.
        load: from the published tensor to ours.
        save: back again.
    """

    official: str
    ours: tuple[str, ...]
    load: Transform = _same
    save: Transform = _same


@dataclass(frozen=True)
class Layout:
    """The published layout of one system.

    Attributes:
        system: arch name in the registry.
        rules: one a key.
        prepare: what happens to a published state dict before the rules.
        finish: what happens to it after them, on the way back.
    """

    system: str
    rules: tuple[Rule, ...]
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(template)) + r"\Z")


def _pair(official: str, ours: str, load: Transform = _same, save: Transform = _same) -> Rule:
    return Rule(official, (ours,), load, save)


# --- tensors -------------------------------------------------------------------------------------------------------------------------


def _conv_to_linear(x: Tensor) -> Tensor:
    return x[..., 0, 0] if x.dim() == 4 else x  # 1x1 convolution (m, n, 1, 1) -> (m, n); a bias stays as it is


def _linear_to_conv(x: Tensor) -> Tensor:
    return x[..., None, None] if x.dim() == 2 else x


def _split_paths(x: Tensor) -> Tensor:
    return x.unflatten(0, (4, -1))


def _join_paths(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def _norms_and_scales(official: str, ours: str) -> list[Rule]:
    """Rules of what a block of either system calls the same."""
    return [
        _pair(f"{official}.ln_1.{{p}}", f"{ours}.norm1.{{p}}"),
        _pair(f"{official}.ln_2.{{p}}", f"{ours}.norm2.{{p}}"),
        _pair(f"{official}.skip_scale", f"{ours}.scale1.weight"),
        _pair(f"{official}.skip_scale2", f"{ours}.scale2.weight"),
    ]


# --- MambaIR -------------------------------------------------------------------------------------------------------------------------


def _plain_block(official: str, ours: str, light: bool) -> list[Rule]:
    scan, published = f"{ours}.scan", f"{official}.self_attention"
    rules = [
        *_norms_and_scales(official, ours),
        Rule(f"{published}.in_proj.weight", (f"{scan}.in_proj.weight", f"{scan}.gate_proj.weight")),
        _pair(f"{published}.conv2d.{{p}}", f"{scan}.conv.{{p}}"),
        _pair(f"{published}.x_proj_weight", f"{scan}.x_proj.weight", _join_paths, _split_paths),
        _pair(f"{published}.dt_projs_weight", f"{scan}.dt_proj"),
        _pair(f"{published}.dt_projs_bias", f"{scan}.delta_bias"),
        _pair(f"{published}.A_logs", f"{scan}.A_log", _split_paths, _join_paths),
        _pair(f"{published}.Ds", f"{scan}.D", _split_paths, _join_paths),
        _pair(f"{published}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        _pair(f"{published}.out_proj.weight", f"{scan}.out_proj.weight"),
    ]
    cab, branch = f"{official}.conv_blk.cab", f"{ours}.branch"
    if light:
        convs, linears, attention = {1: 1, 4: 4}, {0: 0, 3: 3}, 5
    else:
        convs, linears, attention = {0: 0, 2: 2}, {}, 3
    rules += [_pair(f"{cab}.{i}.{{p}}", f"{branch}.{j}.{{p}}") for i, j in convs.items()]
    rules += [_pair(f"{cab}.{i}.{{p}}", f"{branch}.{j}.linear.{{p}}", _conv_to_linear, _linear_to_conv) for i, j in linears.items()]
    for i, word in ((1, "squeeze"), (3, "expand")):
        rules.append(
            _pair(f"{cab}.{attention}.attention.{i}.{{p}}", f"{branch}.{attention}.{word}.{{p}}", _conv_to_linear, _linear_to_conv)
        )
    return rules


def _plain_rules(form: str) -> tuple[Rule, ...]:
    rules = [
        _pair("conv_first.{p}", "lift.{p}"),
        _pair("patch_embed.norm.{p}", "norm_in.{p}"),
        _pair("norm.{p}", "norm_out.{p}"),
        *_plain_block("layers.{g}.residual_group.blocks.{j}", "groups.{g}.blocks.{j}", light=form == "light"),
    ]
    for official, ours in (("layers.{g}.conv", "groups.{g}.conv"), ("conv_after_body", "conv_after")):
        rules += [_pair(f"{official}.{{p}}", f"{ours}.{{p}}")]
        rules += [_pair(f"{official}.{i}.{{p}}", f"{ours}.{i}.{{p}}") for i in (0, 4)]
        rules += [_pair(f"{official}.2.{{p}}", f"{ours}.2.linear.{{p}}", _conv_to_linear, _linear_to_conv)]
    if form == "classic":
        rules += [_pair("conv_before_upsample.0.{p}", "head.before.{p}"), _pair("conv_last.{p}", "head.project.{p}")]
        rules += [_pair(f"upsample.{2 * i}.{{p}}", f"head.upsample.{i}.conv.{{p}}") for i in range(3)]
    else:
        rules += [_pair("upsample.0.{p}", "head.conv.{p}"), _pair("conv_last.{p}", "head.{p}")]
    return tuple(rules)


def _unet_rules() -> tuple[Rule, ...]:
    rules = [
        _pair("patch_embed.proj.{p}", "lift.{p}"),
        _pair("output.{p}", "project.{p}"),
        _pair("skip_conv.{p}", "skip.{p}"),
        _pair("down1_2.body.0.{p}", "down.0.0.{p}"),
        _pair("down2_3.body.0.{p}", "down.1.0.{p}"),
        _pair("down3_4.body.0.{p}", "down.2.0.{p}"),
        _pair("up2_1.body.0.{p}", "up.0.0.{p}"),
        _pair("up3_2.body.0.{p}", "up.1.0.{p}"),
        _pair("up4_3.body.0.{p}", "up.2.0.{p}"),
        _pair("reduce_chan_level2.{p}", "reduce.0.{p}"),
        _pair("reduce_chan_level3.{p}", "reduce.1.{p}"),
    ]
    for level in range(3):
        rules += _plain_block(f"encoder_level{level + 1}.{{j}}", f"encoder.{level}.{{j}}", light=False)
        rules += _plain_block(f"decoder_level{level + 1}.{{j}}", f"decoder.{level}.{{j}}", light=False)
    rules += _plain_block("latent.{j}", "encoder.3.{j}", light=False)
    rules += _plain_block("refinement.{j}", "refinement.{j}", light=False)
    return tuple(rules)


# --- EQ-MambaIR ----------------------------------------------------------------------------------------------------------------------

_ROOT_ORDER = 2.0  # sqrt(T) for quarter turns: our weights are sqrt(T) times the filters


def _filters_from_basis(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace coefficients over a stored basis by filters, and drop the bases and the caches beside them."""
    bases = {key.removesuffix("Basis"): basis for key, basis in state.items() if key.endswith(".Basis")}
    filters = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        basis = bases.get(f"{module}.")
        if basis is None:
            filters[key] = value
        elif name == "weights":
            filters[key] = torch.einsum("...q,ijq->...ij", value, basis[:, :, 0].to(value.dtype))
        elif name == "c":
            filters[key] = value
    return filters


def _basis_from_filters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace filters by coefficients over half the pixel basis, and store that basis as the published code does."""
    stored = {}
    for key, value in state.items():
        if key.endswith(".weights") and value.dim() >= 5:
            k = value.shape[-1]
            pixels = torch.eye(k * k, dtype=value.dtype, device=value.device).view(k, k, k * k) / 2
            stored[key.removesuffix("weights") + "Basis"] = torch.stack([torch.rot90(pixels, t, (0, 1)) for t in range(4)], dim=2)
            value = 2 * value.flatten(-2)
        stored[key] = value
    return stored


def _eq_conv(official: str, ours: str, kind: str) -> list[Rule]:
    """Rules of a filter layer: `kind` is group, ends (lifting, projection: one orientation on one side) or depthwise."""
    if kind == "depthwise":
        load, save = (lambda w: w[0, :, 0] * _ROOT_ORDER), (lambda w: w[None, :, None] / _ROOT_ORDER)
        save_bias = lambda c: c.view(1, 1, -1, 1)  # noqa: E731
    else:
        one = kind == "ends"
        load = (lambda w: w[:, :, 0] * _ROOT_ORDER) if one else (lambda w: w * _ROOT_ORDER)
        save = (lambda w: w[:, :, None] / _ROOT_ORDER) if one else (lambda w: w / _ROOT_ORDER)
        save_bias = lambda c: c.view(1, -1, 1, 1)  # noqa: E731
    return [
        _pair(f"{official}.weights", f"{ours}.weight", load, save),
        _pair(f"{official}.c", f"{ours}.bias", torch.Tensor.flatten, save_bias),
    ]


def _eq_linear(official: str, *ours: str) -> list[Rule]:
    return [
        Rule(f"{official}.weights", tuple(f"{name}.weight" for name in ours), lambda w: w[:, 0], lambda w: w[:, None]),
        _pair(f"{official}.c", f"{ours[0]}.bias", torch.Tensor.flatten, lambda c: c[:, None]),
    ]


def _eq_block(official: str, ours: str, light: bool) -> list[Rule]:
    scan, published = f"{ours}.scan", f"{official}.self_attention"
    rules = [
        *_norms_and_scales(official, ours),
        *_eq_linear(f"{published}.eq_in_proj", f"{scan}.in_proj", f"{scan}.gate_proj"),
        *_eq_conv(f"{published}.eq_conv2d", f"{scan}.conv", "depthwise"),
        *_eq_linear(f"{published}.eq_linear_BCdt", f"{scan}.x_proj"),
        *_eq_linear(f"{published}.eq_linear_dt_projs", f"{scan}.dt_proj"),
        _pair(f"{published}.dt_projs_bias", f"{scan}.delta_bias"),
        _pair(f"{published}.A_logs", f"{scan}.A_log"),
        _pair(f"{published}.Ds", f"{scan}.D"),
        _pair(f"{published}.eq_out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        *_eq_linear(f"{published}.eq_out_proj_z", f"{scan}.mix_proj"),
        *_eq_linear(f"{published}.eq_out_proj", f"{scan}.out_proj"),
    ]
    cab, branch = f"{official}.conv_blk.cab", f"{ours}.branch"
    if light:
        rules += [*_eq_linear(f"{cab}.1", f"{branch}.0.linear"), *_eq_conv(f"{cab}.3", f"{branch}.1", "depthwise")]
        rules += [*_eq_linear(f"{cab}.6", f"{branch}.3.linear"), *_eq_conv(f"{cab}.8", f"{branch}.4", "depthwise")]
        attention, ours_attention = f"{cab}.9.attention", f"{branch}.5"
    else:
        rules += [*_eq_conv(f"{cab}.0", f"{branch}.0", "group"), *_eq_conv(f"{cab}.2", f"{branch}.2", "group")]
        attention, ours_attention = f"{cab}.3.attention", f"{branch}.3"
    return rules + _eq_linear(f"{attention}.2", f"{ours_attention}.squeeze") + _eq_linear(f"{attention}.4", f"{ours_attention}.expand")


def _eq_rules(form: str) -> tuple[Rule, ...]:
    rules = [
        *_eq_conv("eqconv_first", "lift", "ends"),
        _pair("patch_embed.norm.{p}", "norm_in.{p}"),
        _pair("norm.{p}", "norm_out.{p}"),
        *_eq_block("layers.{g}.residual_group.blocks.{j}", "groups.{g}.blocks.{j}", light=form == "light"),
    ]
    for official, ours in (("layers.{g}.eqconv", "groups.{g}.conv"), ("eqconv_after_body", "conv_after")):
        rules += _eq_conv(official, ours, "group")
        rules += [*_eq_conv(f"{official}.0", f"{ours}.0", "group"), *_eq_conv(f"{official}.6", f"{ours}.4", "group")]
        rules += _eq_linear(f"{official}.3", f"{ours}.2.linear")
    if form == "classic":
        rules += [*_eq_conv("eqconv_before_upsample.0", "head.before", "group"), *_eq_conv("eqconv_last", "head.project", "ends")]
        for i in range(3):
            rules += _eq_conv(f"equpsample.{2 * i}", f"head.upsample.{i}.conv", "group")
    else:
        rules += [*_eq_conv("equpsample.0", "head.conv", "group"), *_eq_conv("eqconv_last", "head", "ends")]
    return tuple(rules)


# --- all of them ---------------------------------------------------------------------------------------------------------------------


def _layout(system: str, form: str) -> Layout:
    if system == "EQMambaIR":
        return Layout(system, _eq_rules(form), _filters_from_basis, _basis_from_filters)
    return Layout(system, _unet_rules() if system == "MambaIRUNet" else _plain_rules(form))


def find_layout(keys: Iterable[str]) -> Layout | None:
    """The published layout that these keys stand in, or None."""
    names = set(keys)

    def any_with(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if any_with("eqconv_first."):
        system = "EQMambaIR"
    elif any_with("encoder_level1.0.self_attention."):
        return _layout("MambaIRUNet", "")
    elif any_with("conv_first.") and "layers.0.residual_group.blocks.0.self_attention.A_logs" in names:
        system = "MambaIR"
    else:
        return None
    light_branch = "9" if system == "EQMambaIR" else "5"  # where the channel attention stands
    if any_with(f"layers.0.residual_group.blocks.0.conv_blk.cab.{light_branch}."):
        return _layout(system, "light")
    return _layout(
        system, "classic" if any_with("conv_before_upsample.", "eqconv_before_upsample.", "upsample.", "equpsample.") else "same size"
    )


def from_official(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A published state dict under our keys; a key that no rule knows keeps its name, so that strict loading reports it."""
    rules = [(_pattern(rule.official), rule) for rule in layout.rules]
    ours = {}
    for key, value in layout.prepare(dict(state)).items():
        match, rule = next(((found, rule) for pattern, rule in rules if (found := pattern.match(key))), (None, None))
        if match is None or rule is None:
            ours[key] = value
            continue
        parts = rule.load(value).chunk(len(rule.ours))
        for name, part in zip(rule.ours, parts, strict=True):
            ours[name.format(**match.groupdict())] = part
    return ours


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of MambaIR, MambaIRUNet or EQMambaIR (quarter turns) in the published layout.

    Raises:
        UserError: if the state belongs to another network, which has no published layout.
    """
    system, form = _our_form(state)
    layout = _layout(system, form)
    rules = [(_pattern(rule.ours[0]), rule) for rule in layout.rules]
    official = {}
    taken = set()
    for key, value in state.items():
        match, rule = next(((found, rule) for pattern, rule in rules if (found := pattern.match(key))), (None, None))
        if match is None or rule is None:
            continue
        names = [name.format(**match.groupdict()) for name in rule.ours]
        taken.update(names)
        joined = torch.cat([state[name] for name in names]) if len(names) > 1 else value
        official[rule.official.format(**match.groupdict())] = rule.save(joined)
    left = sorted(set(state) - taken)
    if left:
        raise UserError(f"{left[0]}: has no place in the published layout of {system}")
    return layout.finish(official)


def _our_form(state: Mapping[str, Tensor]) -> tuple[str, str]:
    if "encoder.0.0.scan.A_log" in state:
        return "MambaIRUNet", ""
    if "groups.0.blocks.0.scan.A_log" not in state:
        raise UserError("this state dict has no published layout: it is no MambaIR, MambaIRUNet or EQMambaIR")
    form = "classic" if "head.before.weight" in state else "light" if "head.conv.weight" in state else "same size"
    if "groups.0.blocks.0.scan.mix_proj.weight" not in state:
        return "MambaIR", form
    order = state["groups.0.blocks.0.scan.mix_proj.weight"].shape[-1]
    if order != 4:
        raise UserError(f"the published EQMambaIR has the four quarter turns, this network's group has {order} elements")
    return "EQMambaIR", form
