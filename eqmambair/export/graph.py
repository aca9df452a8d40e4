"""From a network to an ONNX graph: torch's exporter, with what it lacks as functions of standard operators, which are inlined."""

import contextlib
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import onnx.inliner
import onnx.parser
import torch
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset
from torch import Tensor, nn

from eqmambair.export import spectral
from eqmambair.export.scan import DOMAIN, OPSET, ScanForm
from eqmambair.layers.fold import fold

#: Parameters of a scan unit that float16 networks keep in float32, as the scan's state is.
_WIDE = ("A_log", "D", "delta_bias")


def folded_copy(network: nn.Module, half: bool) -> nn.Module:
    """The plain network that a file holds: equivariant layers folded; float16 but for the parameters of the scans, if `half`."""
    folded = fold(network)
    if not half:
        return folded
    wide = {name: value.detach().clone() for name, value in folded.named_parameters() if name.rsplit(".", 1)[-1] in _WIDE}
    folded.half()
    for name, value in wide.items():
        owner, _, own = name.rpartition(".")
        setattr(folded.get_submodule(owner), own, nn.Parameter(value, requires_grad=False))
    return folded


def onnx_graph(network: nn.Module, example: Tensor, names: tuple[str, str], *, optimize: bool = True) -> onnx.ModelProto:
    """Trace a network into a graph of standard operators.

    Args:
        network: from `folded_copy`, in evaluation mode.
        example: an image that it takes, (b, c, h, w); b, h and w stay free in the graph.
        names: of the graph's input and output.
        optimize: whether torch's exporter simplifies the graph.

    Returns:
        The model, without metadata.

    Raises:
        Exception: whatever torch's exporter raises for a network that it cannot trace.
    """
    functions: dict[str, str] = {}
    free = torch.export.Dim.DYNAMIC
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            network, (example,), dynamic_shapes=({0: free, 2: free, 3: free},), prefer_deferred_runtime_asserts_over_guards=True
        )
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            custom_translation_table=translations(functions),
            verbose=False,
            optimize=optimize,
        )
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    for function in functions.values():
        model.functions.append(onnx.parser.parse_function(function))
    model = onnx.inliner.inline_local_functions(model)
    _name_sizes(model)
    _drop_notes(model.graph)
    onnx.checker.check_model(model)
    return model


def translations(functions: dict[str, str]) -> dict[Any, Any]:
    """What torch's exporter calls for operators that it lacks, or knows for constant sizes alone.

    Args:
        functions: texts of the functions that the model needs, by name; what is translated adds its own.
    """

    def scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus, chunk, keep):  # type: ignore[no-untyped-def]
        form = ScanForm(
            order=0 if order is None else len(order.shape),
            skip=D is not None,
            bias=delta_bias is not None,
            softplus=delta_softplus,
            one_state=A.shape[2] == 1,
            half=u.dtype == onnx.TensorProto.FLOAT16,
        )
        functions[form.name] = form.function()
        given = [value for value in (u, delta, A, B, C, D, delta_bias, order) if value is not None]
        y = Op(Opset(DOMAIN, 1), form.name, _scan_schema(form))(*given)
        return y, op.Constant(value_floats=[])  # no states are kept

    def smallest_eigenvectors(matrices, count):  # type: ignore[no-untyped-def]
        functions[spectral.EIGENVECTORS] = spectral.FUNCTIONS[spectral.EIGENVECTORS]
        schema = _schema(spectral.EIGENVECTORS, {"matrices": "T", "count": "I"}, ("values", "vectors"), {"T": _DOUBLE, "I": _WHOLE})
        return Op(Opset(DOMAIN, 1), spectral.EIGENVECTORS, schema)(matrices, op.Constant(value_ints=[count]))

    def distances(x, other, p, compute_mode):  # type: ignore[no-untyped-def]
        functions[spectral.DISTANCES] = spectral.FUNCTIONS[spectral.DISTANCES]
        schema = _schema(spectral.DISTANCES, {"x": "T"}, ("distances",), {"T": _DOUBLE})
        return Op(Opset(DOMAIN, 1), spectral.DISTANCES, schema)(x)  # networks take those of a set and itself alone

    def remainder(dividend, divisor):  # type: ignore[no-untyped-def]
        return op.Mod(dividend, op.CastLike(divisor, dividend))  # of whole numbers, the only ones that networks take it of

    def floor_divide(dividend, divisor):  # type: ignore[no-untyped-def]
        return op.Div(op.Sub(dividend, op.Mod(dividend, divisor)), divisor)  # Div alone rounds towards zero

    def stable_sort(values, *, stable=None, dim=-1, descending=False):  # type: ignore[no-untyped-def]
        # TopK leaves equal values in the order in which they stand, by its definition.
        return op.TopK(values, _size(values, dim), axis=dim, largest=int(descending), sorted=1)

    def roll(values, shifts, dims):  # type: ignore[no-untyped-def]
        for shift, dim in zip(shifts, dims, strict=True):
            size = _size(values, dim)
            places = op.Range(op.Constant(value_int=0), op.Squeeze(size), op.Constant(value_int=1))
            values = op.Gather(values, op.Mod(op.Sub(places, shift), size), axis=dim)
        return values

    return {
        torch.ops.eqmambair.selective_scan_forward.default: scan,
        torch.ops.eqmambair.smallest_eigenvectors.default: smallest_eigenvectors,
        torch.ops.aten._cdist_forward.default: distances,
        torch.ops.aten.remainder.Scalar: remainder,
        torch.ops.aten.sort.stable: stable_sort,
        torch.ops.aten.roll.default: roll,
        operator.floordiv: floor_divide,
    }


def _size(values: Any, dim: int) -> Any:
    place: Any = op.Constant(value_ints=[dim])
    return op.Gather(op.Shape(values), place)


_FLOATS = ["tensor(float)", "tensor(float16)"]
_DOUBLE = ["tensor(double)"]
_WHOLE = ["tensor(int32)", "tensor(int64)"]


def _scan_schema(form: ScanForm) -> onnx.defs.OpSchema:
    kinds = {name: "I" if name == "order" else "W" if name in ("A", "D", "delta_bias") else "T" for name in form.inputs}
    return _schema(form.name, kinds, ("y",), {"T": _FLOATS, "W": _FLOATS, "I": _WHOLE})


def _schema(name: str, inputs: dict[str, str], outputs: tuple[str, ...], types: dict[str, list[str]]) -> onnx.defs.OpSchema:
    """Of a function of ours: the kind of each input by its name; outputs are of kind T; the types that each kind can be."""
    parameter = onnx.defs.OpSchema.FormalParameter
    return onnx.defs.OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[parameter(each, kind) for each, kind in inputs.items()],
        outputs=[parameter(each, "T") for each in outputs],
        type_constraints=[(kind, allowed, "") for kind, allowed in types.items()],
    )


def _name_sizes(model: onnx.ModelProto) -> None:
    """Name the free sizes of the graph's input for people; those of the output, formulas of the exporter, get none."""
    for place, name in ((0, "batch"), (2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    for size in model.graph.output[0].type.tensor_type.shape.dim:
        if size.HasField("dim_param"):
            size.Clear()


def _drop_notes(graph: onnx.GraphProto) -> None:
    """Remove what torch's exporter notes of each node (lines of the source, with their folders) and value: most of a file of many nodes."""
    del graph.value_info[:]
    for noted in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _drop_notes(attribute.g)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter prints and warns of on its way."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
