"""What a network costs: parameters, multiply-accumulates, activations, memory, counted while it runs once; and its time."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

import eqmambair.ops  # noqa: F401 (registers the operators that are counted)
from eqmambair.analysis.memory import PeakMemory

#: Operations of the scan per token, channel and state: exp, multiply-add for the state, product for the input, multiply-add for the output.
SCAN_MACS_PER_STATE = 4


@dataclass(frozen=True)
class Complexity:
    """What one forward pass costs.

    Attributes:
        parameters: trainable numbers.
        dense_macs: multiply-accumulates of convolutions and matrix products, as the papers count them: equivariant layers in dense form.
        fourier_macs: those that are left where compiled kernels multiply group linear layers in the group's Fourier basis.
        scan_macs: those of the selective scans, `SCAN_MACS_PER_STATE` for every token, channel and state (the papers leave them out or
            count them differently).
        published_scan_macs: those by the rule of the papers that count scans (VMamba and others): 9 for every token, channel and state of
            a path, and 1 for every token and channel.
        activations: numbers that convolutions and matrix products write.
        peak_bytes: of the tensors that are alive at a time, input and weights left out.
    """

    parameters: int
    dense_macs: int
    fourier_macs: int
    scan_macs: int
    published_scan_macs: int
    activations: int
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The figures by name, for JSON."""
        return asdict(self)


class _ScanFlops:
    """Counts scans apart from the products that make their steps, and adds up what the papers' rule gives."""

    def __init__(self) -> None:
        self.total = self.published_macs = 0

    def __call__(self, u_shape: Any, delta_shape: Any, A_shape: Any, *_: Any, **__: Any) -> int:
        updates, states = math.prod(delta_shape), A_shape[-1]
        self.published_macs += updates * (9 * states + 1)
        self.total += 2 * SCAN_MACS_PER_STATE * updates * states
        return 0

    def low_rank(self, u_shape: Any, low_rank_shape: Any, weight_shape: Any, A_shape: Any, *_: Any, **__: Any) -> int:
        """As of a scan whose steps are made inside the kernel, by as many products as a matrix would take."""
        groups, rank, channels = weight_shape
        steps_shape = (*low_rank_shape[:2], groups, channels)
        return self(u_shape, steps_shape, A_shape) + 2 * math.prod(steps_shape) * rank


def _depthwise_flops(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * x_shape[0] * x_shape[-2] * x_shape[-1] * math.prod(weight_shape)


def _attention_flops(q_shape: Sequence[int], k_shape: Sequence[int], v_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(q_shape[:-1]) * k_shape[-2] * (q_shape[-1] + v_shape[-1])


class _GroupLinearFlops:
    """Counts group linear layers in dense form, and adds up what the Fourier basis saves."""

    def __init__(self) -> None:
        self.saved = 0

    def __call__(self, x_shape: Any, weight_shape: Any, bias: Any, transform_shape: Any, rows: Sequence[int], *_: Any, **__: Any) -> int:
        products = 2 * math.prod(x_shape[:-1]) * weight_shape[0] * weight_shape[1]
        dense = products * transform_shape[0] ** 2
        self.saved += dense - products * sum({1: 1, 2: 4, 4: 8}[each] for each in rows)
        return dense


class _ActivationCounter(torch.utils._python_dispatch.TorchDispatchMode):
    """Adds up the sizes of what the dense operators write."""

    dense = frozenset(
        {
            torch.ops.aten.convolution,
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.bmm,
            torch.ops.aten.baddbmm,
            torch.ops.eqmambair.depthwise_conv,
            torch.ops.eqmambair.group_linear,
            torch.ops.eqmambair.fused_linear,
            torch.ops.eqmambair.low_rank_scan,  # whose result is as large as the steps that it makes
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.dense:
            self.total += (result[0] if isinstance(result, tuple) else result).numel()
        return result


def complexity(model: nn.Module, x: Tensor) -> Complexity:
    """Count what one forward pass on x costs; the mode of the network is restored.

    Args:
        model: any network.
        x: its input, (b, c, h, w).
    """
    return _counted(model, lambda: model(x))


def complexity_of_sizes(model: nn.Module, shape: Sequence[int]) -> Complexity | None:
    """As `complexity` on a CPU, operator by operator, but tensors have sizes only: nothing is computed or held.

    Args:
        model: any network; on the meta device it needs no memory either.
        shape: of its input, (b, c, h, w).

    Returns:
        The figures; None where a size depends on what is in the picture, as in detection.
    """
    # Not a pass on the meta device, for which torch takes attention apart into matrices that nothing else holds.
    with FakeTensorMode(allow_non_fake_inputs=True):
        held = {name: torch.empty_like(each, device="cpu") for name, each in (*model.named_parameters(), *model.named_buffers())}
        x = torch.empty(*shape)
        try:
            return _counted(model, lambda: functional_call(model, held, (x,)))
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None


@torch.no_grad()
def _counted(model: nn.Module, run: Callable[[], object]) -> Complexity:
    training = model.training
    model.eval()
    group_linear, scans, memory = _GroupLinearFlops(), _ScanFlops(), PeakMemory()
    ops = torch.ops.eqmambair
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which older releases of torch do not count
    linears = dict.fromkeys((ops.group_linear, ops.fused_linear), group_linear)
    by_scan = {ops.selective_scan_forward: scans, ops.low_rank_scan: scans.low_rank}
    mapping = {**by_scan, ops.depthwise_conv: _depthwise_flops, attention: _attention_flops, **linears}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    activations = _ActivationCounter()
    try:
        with memory, activations, counter:
            run()
    finally:
        model.train(training)
    return Complexity(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        dense_macs=counter.get_total_flops() // 2,
        fourier_macs=(counter.get_total_flops() - group_linear.saved) // 2,
        scan_macs=scans.total // 2,
        published_scan_macs=scans.published_macs,
        activations=activations.total,
        peak_bytes=memory.peak,
    )


@torch.inference_mode()
def seconds(model: nn.Module, x: Tensor, rounds: int = 3) -> float:
    """The median wall-clock time of a forward pass, after one that is not counted; the mode of the network is restored.

    Args:
        model: any network, on the device of x.
        x: its input.
        rounds: passes that are counted.
    """
    training = model.training
    model.eval()
    times = []
    try:
        for _ in range(rounds + 1):
            _wait(x.device)
            start = time.perf_counter()
            model(x)
            _wait(x.device)
            times.append(time.perf_counter() - start)
    finally:
        model.train(training)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
