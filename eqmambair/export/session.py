"""A network in an .onnx file, run by onnxruntime in the place of a torch module."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.errors import UserError
from eqmambair.export.facts import Facts


def missing_packages(what: str, error: ImportError) -> UserError:
    """The one line for a lack of the extra; ``what`` needs it."""
    return UserError(f"{what} needs the package {error.name}; pip install 'eqmambair[onnx]'")


class OnnxNetwork(nn.Module):
    """Images to what the network makes of them, float32 on the CPU: (b, c, h, w) -> (b, c', s*h, s*w) or (b, classes).

    It runs in as many threads as torch does, on a GPU where onnxruntime has one (which we have not tried). It has no parameters, and a
    copy of it is itself.

    Args:
        model: an .onnx file that `export_network` wrote, or its bytes.
        name: what errors call it; None: the file.

    Attributes:
        facts: what the file says of itself.

    Raises:
        UserError: onnxruntime is not there; or the file is missing, no ONNX model, damaged, or not ours.
    """

    def __init__(self, model: str | Path | bytes, name: str | None = None) -> None:
        super().__init__()
        self.name = name or (str(model) if not isinstance(model, bytes) else "the model")
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_packages(self.name, error) from error
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise UserError(f"{model}: no such file")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # errors alone
        providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), settings, providers=providers)
        except Exception as error:  # onnxruntime's own errors have no class in common but this
            raise UserError(f"{self.name}: no ONNX model that onnxruntime can read, or damaged ({_first_line(error)})") from error
        try:
            facts = Facts.from_metadata(self.session.get_modelmeta().custom_metadata_map)
        except ValueError as error:
            raise UserError(f"{self.name}: its metadata is damaged ({error}); export it again") from error
        if facts is None:
            raise UserError(f"{self.name}: an ONNX model, but none of ours; scripts/export_onnx.py writes them")
        self.facts = facts
        values = [value.name for value in (*self.session.get_inputs(), *self.session.get_outputs())]
        if len(values) != 2:
            raise UserError(f"{self.name}: its graph has other inputs and outputs than were written ({', '.join(values)}); export it again")

    def forward(self, images: Tensor) -> Tensor:
        """Run the model.

        Raises:
            UserError: the images have another number of channels or a size that the network does not take, or are not enlarged as the
                file says.
            MemoryError: memory runs out.
        """
        height, width = images.shape[2:]
        if images.shape[1] != self.facts.channels:
            raise UserError(f"{self.name}: takes {self.facts.channels} channels, not {images.shape[1]}")
        dtype = torch.float16 if self.facts.precision == "float16" else torch.float32
        feed = {self.session.get_inputs()[0].name: images.detach().to("cpu", dtype).contiguous().numpy()}
        try:
            (result,) = self.session.run(None, feed)
        except Exception as error:  # as above
            if "llocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise UserError(f"{self.name}: cannot take pictures of {height}x{width} pixels ({_first_line(error)})") from error
        scale = self.facts.scale
        if self.facts.task == "restoration" and result.shape[2:] != (scale * height, scale * width):
            made = "x".join(map(str, result.shape[2:]))
            raise UserError(f"{self.name}: damaged, it makes {made} of {height}x{width}, not {scale} times as much")
        return torch.from_numpy(result).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxNetwork":
        return self

    def extra_repr(self) -> str:
        return self.name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
