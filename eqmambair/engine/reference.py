"""The page docs/options.md, from the schema and the signatures: ``python -m eqmambair.engine.reference > docs/options.md``."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from eqmambair.data.joint_views import JointAugmentation
from eqmambair.data.views import Augmentation
from eqmambair.engine import schema
from eqmambair.engine.optimizers import OPTIMIZERS
from eqmambair.engine.option_checks import GIVEN_TO_DATASETS, supported_datasets
from eqmambair.engine.options import joined_schema
from eqmambair.engine.schedule import SCHEDULES
from eqmambair.engine.signatures import parameters
from eqmambair.models import ClassificationModel, RestorationModel, SegmentationModel
from eqmambair.models.classification import Mixing
from eqmambair.models.parameter_groups import Grouping
from eqmambair.models.restoration_metrics import TENSOR_METRICS
from eqmambair.models.specs import Registered, lookup, names

_HEAD = """# Option files
Every key, its type, its default, and what it does. This page is written by `python -m eqmambair.engine.reference` from the schema that
files are checked against, and a test says when it is stale. `python basicsr/train.py --schema` prints a JSON schema for editors.

The layout is basicsr's. An unknown key, a wrong type or an impossible value ends the command with status 2 and one line that names file,
line, key and the nearest right one, before any data are read. Numbers are written as in `1e-4`; relative paths start from the folder of
the project (or `--root`), `~` is the home folder. `--force_yml a:b=value` changes a key for one run, and is checked alike.
A mapping with a `type` stands for an object; its other keys are the arguments of what it names."""

_SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    (
        "datasets.train, datasets.val, datasets.val_2, datasets.test_1 ...",
        schema.DatasetOptions,
        "One section a set.",
    ),
    ("path", schema.PathOptions, ""),
    ("train", joined_schema(RestorationModel), ""),
    ("train, model_type: ClassificationModel", ClassificationModel.train_schema, "Instead of the losses above."),
    ("train.mixing, classification", Mixing, ""),
    ("train.grouping", Grouping, ""),
    ("datasets.train.augment, classification", Augmentation, "In this order."),
    ("train, model_type: SegmentationModel", SegmentationModel.train_schema, "Instead of the losses above."),
    ("datasets.train.augment, segmentation", JointAugmentation, "In this order."),
    ("val", schema.ValOptions, ""),
    ("val, model_type: SegmentationModel", SegmentationModel.val_schema, "Beside the keys above."),
    ("logger", schema.LoggerOptions, ""),
    ("logger.wandb", schema.WandbOptions, ""),
    ("dist_params", schema.DistOptions, ""),
)


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, "## Top level", *_fields(schema.Options)]
    for title, model, text in _SECTIONS:
        if title == "train":
            model = next(each for each in typing.get_args(model.model_fields["train"].annotation) if each is not type(None))
        parts += [f"## {title}", *([text] if text else []), *_fields(model)]
    for name in supported_datasets():
        target = lookup("dataset", name)
        parts += [f"### type: {name}", _first_line(target), *_arguments(target, GIVEN_TO_DATASETS)]
    parts += [
        "## train.optim_g",
        "Arguments are those of `torch.optim`; `lr` must be given.",
        ", ".join(f"`{name}`" for name in OPTIMIZERS) + ".",
    ]
    parts += ["## train.scheduler"]
    for name, build in SCHEDULES.items():
        parts.append(f"- `{name}`: {_first_line(build)} Keys: {_schedule_keys(build)}.")
    parts += ["## Losses and metrics", "Losses: " + ", ".join(f"`{name}`" for name in names("loss")) + "."]
    parts += [
        "Metrics: "
        + ", ".join(f"`{name}`" for name in names("metric") if name not in TENSOR_METRICS)
        + ". The key `better: lower` tells that less is better."
    ]
    parts += ["## Keys of published files that have no effect", "Each gives one warning."]
    parts += [f"- `{'.'.join(path)}`: {reason}" for path, reason in schema.IGNORED.items()]
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        text += part if not before else ("\n" if before.startswith(("- ", "| ")) and part.startswith(("- ", "| ")) else "\n\n") + part
    return text + "\n"


def _fields(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | |"
    yield "| --- | --- | --- | --- |"
    for key, info in model.model_fields.items():
        yield f"| `{key}` | {_kind(info)} | {_default(info)} | {info.description or ''} |"


def _kind(info: FieldInfo) -> str:
    marks = [each for each in info.metadata if isinstance(each, Registered)]
    if marks:
        return f"{marks[0].kind}: `type` and arguments"
    return _type(info.annotation)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        marks = [each for each in annotation.__metadata__ if isinstance(each, Registered)]
        return f"{marks[0].kind}: `type` and arguments" if marks else _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is dict:
        inner = _type(arguments[1]) if arguments[1] is not Any else "arguments"
        return f"mapping of names to {inner}" if arguments[1] is not Any else "`type` and arguments"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(_type(each) for each in arguments)}"
    if arguments:
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "must be given"
    value = info.default
    return "" if value is None or value is PydanticUndefined else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _arguments(target: Callable[..., Any], hidden: tuple[str, ...]) -> Iterator[str]:
    texts = dict(re.findall(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", _args_part(target), re.M | re.S))
    yield "| key | default | |"
    yield "| --- | --- | --- |"
    for name, each in parameters(target).items():
        if name not in hidden:
            default = _default_of(each)
            yield f"| `{name}` | {default} | {' '.join(texts.get(name, '').replace('``', '`').split())} |"


def _default_of(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "must be given"
    value = parameter.default
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _args_part(target: Callable[..., Any]) -> str:
    return (inspect.getdoc(target) or "").partition("Args:\n")[2].partition("\n\n")[0]


def _first_line(target: Callable[..., Any]) -> str:
    return (inspect.getdoc(target) or "").splitlines()[0]


def _schedule_keys(build: Callable[..., Any]) -> str:
    fields = dataclasses.fields(build) if dataclasses.is_dataclass(build) else ()
    return ", ".join(f"`{each.name}`" for each in fields) or "none"


if __name__ == "__main__":
    print(reference(), end="")
