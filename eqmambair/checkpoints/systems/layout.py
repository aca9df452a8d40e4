"""Published key layouts: rules that pair a published key with ours, and what is known of a system's weights.

A `Rule` pairs one published key with one or more of ours; words in braces are carried over.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqmambair.errors import UserError

State = Mapping[str, Tensor]
Transform = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
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
    load: Transform = same
    save: Transform = same


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

    def to_ours(self, state: State) -> dict[str, Tensor]:
        """A published state dict under our keys; a key that no rule knows keeps its name, so that strict loading reports it."""
        rules = [(pattern(rule.official), rule) for rule in self.rules]
        ours = {}
        for key, value in self.prepare(dict(state)).items():
            match, rule = next(((found, rule) for form, rule in rules if (found := form.match(key))), (None, None))
            if match is None or rule is None:
                ours[key] = value
                continue
            value = rule.load(value)
            parts = value.chunk(len(rule.ours)) if len(rule.ours) > 1 else (value,)  # a counter cannot be cut
            for name, part in zip(rule.ours, parts, strict=True):
                ours[name.format(**match.groupdict())] = part
        return ours

    def to_published(self, state: State) -> dict[str, Tensor]:
        """A state dict of ours under the published keys.

        Raises:
            UserError: if a key has no place there.
        """
        rules = [(pattern(rule.ours[0]), rule) for rule in self.rules]
        published: dict[str, Tensor] = {}
        taken = set()
        for key, value in state.items():
            match, rule = next(((found, rule) for form, rule in rules if (found := form.match(key))), (None, None))
            if match is None or rule is None:
                continue
            names = [name.format(**match.groupdict()) for name in rule.ours]
            taken.update(names)
            joined = torch.cat([state[name] for name in names]) if len(names) > 1 else value
            published[rule.official.format(**match.groupdict())] = rule.save(joined)
        left = sorted(set(state) - taken)
        if left:
            raise UserError(f"{left[0]}: has no place in the published layout of {self.system}")
        return self.finish(published)


@dataclass(frozen=True)
class System:
    """What is known of the weights of one system; a converter file ends with one, and `SYSTEMS` lists it.

    Attributes:
        name: arch name in the registry.
        owns: whether a state dict in our layout belongs to it.
        published: the published layout that a state dict stands in, or None; ``state`` is as it was read.
        layout: the published layout to write a state dict of ours in.

            Raises:
                UserError: it has none (another group, say).
        infer: ``network_g`` options behind a state dict of ours.
    """

    name: str
    owns: Callable[[State], bool]
    published: Callable[[State], Layout | None]
    layout: Callable[[State], Layout]
    infer: Callable[[State], dict[str, Any]]


def pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(template)) + r"\Z")


def pair(official: str, ours: str, load: Transform = same, save: Transform = same) -> Rule:
    return Rule(official, (ours,), load, save)


def conv_to_linear(x: Tensor) -> Tensor:
    return x[..., 0, 0] if x.dim() == 4 else x  # 1x1 convolution (m, n, 1, 1) -> (m, n); a bias stays as it is


def linear_to_conv(x: Tensor) -> Tensor:
    return x[..., None, None] if x.dim() == 2 else x


def split_paths(x: Tensor) -> Tensor:
    return x.unflatten(0, (4, -1))


def join_paths(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


#: Elements of a group -> its name.
GROUP_NAMES = {1: "c1", 2: "c2", 4: "c4", 8: "d4"}


def group_name(order: int) -> str:
    """The name of the group of this many elements.

    Raises:
        UserError: there is none.
    """
    if order not in GROUP_NAMES:
        raise UserError(f"the weights belong to a group of {order} elements; known are {sorted(GROUP_NAMES)}")
    return GROUP_NAMES[order]


def any_with(state: Iterable[str], *starts: str) -> bool:
    """Whether a key starts with one of these."""
    return any(name.startswith(starts) for name in state)


# --- shapes -------------------------------------------------------------------------------------------------------------------------


def count(state: State, prefix: str) -> int:
    """How many indices follow `prefix` in the keys: 0, 1, ..., n-1."""
    numbers = [int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix) and key[len(prefix)].isdigit()]
    return max(numbers, default=-1) + 1


def expansion(*widths: tuple[int, int]) -> float:
    """The shortest decimal r with int(r * channels) == width for every pair (width, channels)."""
    lowest = max(width / channels for width, channels in widths)
    for digits in range(10):
        ratio = math.ceil(lowest * 10**digits) / 10**digits
        if all(int(ratio * channels) == width for width, channels in widths):
            return ratio
    raise UserError(f"no ratio turns the widths {[c for _, c in widths]} into scans of {[w for w, _ in widths]} channels")
