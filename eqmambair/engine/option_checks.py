"""What the schema cannot say: mappings against the signatures of what they name, and keys against each other."""

import math
import typing
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import BaseModel

from eqmambair.engine import schema, signatures
from eqmambair.engine.optimizers import find_optimizer
from eqmambair.engine.schedule import CosineRestart, CosineRestartCyclic, find_schedule
from eqmambair.engine.schema import DatasetOptions, Options, TrainOptions
from eqmambair.engine.yaml_source import KeyPath
from eqmambair.errors import UserError
from eqmambair.models import Model
from eqmambair.models.specs import Registered, lookup, names, nearest

Problem = tuple[KeyPath, str]
GIVEN_TO_DATASETS = ("phase", "scale", "root")


def spec_problems(section: BaseModel, path: KeyPath) -> Iterator[Problem]:
    """Check every mapping that stands for an object against the signature of what it names."""
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        marks = [each for each in info.metadata if isinstance(each, Registered)]
        if marks:
            yield from _check_spec(marks[0], value, (*path, key))
        else:
            yield from _visit(info.annotation, value, (*path, key))


def _visit(annotation: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    if isinstance(value, DatasetOptions):
        yield from _check_dataset(value, path)
    elif isinstance(value, BaseModel):
        yield from spec_problems(value, path)
    elif isinstance(value, dict):
        for each in flatten(annotation):
            marks = [mark for mark in getattr(each, "__metadata__", ()) if isinstance(mark, Registered)]
            if marks:  # an optional spec
                yield from _check_spec(marks[0], value, path)
                return
            if typing.get_origin(each) is dict:  # a mapping of names to specs or sections
                inner = typing.get_args(each)[1]
                marks = [mark for mark in getattr(inner, "__metadata__", ()) if isinstance(mark, Registered)]
                for key, item in value.items():
                    yield from _check_spec(marks[0], item, (*path, key)) if marks else _visit(inner, item, (*path, key))
                return


def _check_spec(mark: Registered, spec: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    if not isinstance(spec.get("type"), str):
        yield path, f"needs a type: the name of a {mark.kind}"
        return
    try:
        target = lookup(mark.kind, spec["type"])
    except UserError as error:
        yield (*path, "type"), str(error)
        return
    arguments = {key: value for key, value in spec.items() if key != "type" and key not in mark.own}
    for key, message in signatures.problems(target, arguments, hidden=mark.hidden):
        yield ((*path, key) if key else path), message


def _check_dataset(section: DatasetOptions, path: KeyPath) -> Iterator[Problem]:
    try:
        target = lookup("dataset", section.type)
    except UserError as error:
        yield (*path, "type"), str(error)
        return
    if list(signatures.parameters(target)) == ["opt"]:
        yield (
            (*path, "type"),
            f"{section.type} cannot be checked and is not supported; use one of {', '.join(supported_datasets())}",
        )
        return
    for key, message in signatures.problems(target, section.arguments, hidden=GIVEN_TO_DATASETS):
        if key and message.startswith("unknown key"):
            candidates = [*signatures.parameters(target), *DatasetOptions.model_fields, *(pattern[-1] for pattern in schema.IGNORED)]
            hint = f"; here it is {schema.INSTEAD[key]}" if key in schema.INSTEAD else nearest(key, candidates)
            message = f"unknown key for {section.type}{hint}"
        yield ((*path, key) if key else path), message


def supported_datasets() -> list[str]:
    """Names of the datasets whose arguments can be checked."""
    return [name for name in names("dataset") if list(signatures.parameters(lookup("dataset", name))) != ["opt"]]


def command_problems(options: Options, command: str) -> list[Problem]:
    found: list[Problem] = []
    for key in options.datasets:
        if key.split("_")[0] not in ("train", "val", "test"):
            found.append((("datasets", key), f"sets are called train, val, val_2, test_1 or so{nearest(key, ('train', 'val', 'test'))}"))
    if not options.datasets:
        found.append((("datasets",), "no data set is given"))
    if command == "train":
        if options.train is None:
            found.append(((), "the section 'train' is missing"))
        if "train" not in options.datasets:
            found.append((("datasets",), "training needs the data set 'train'"))
        extra = [key for key in options.datasets if key.startswith("train_")]
        found += [(("datasets", key), "there is one training set, called 'train'") for key in extra]
        if options.sections("val", "test") and options.val is None:
            found.append(((), "there are validation sets, but the section 'val' is missing"))
    elif not options.sections("val", "test"):
        found.append((("datasets",), "testing needs a data set val, val_1, test_1 or so"))
    return found


def cross_problems(options: Options, model: type[Model]) -> list[Problem]:
    found: list[Problem] = []
    if options.train is not None:
        found += _optimizer_problems(options.train)
        found += _schedule_problems(options.train)
        if options.train.warmup_iter > options.train.total_iter:
            found.append((("train", "warmup_iter"), f"is longer than total_iter ({options.train.total_iter})"))
    for key, section in options.datasets.items():
        found += _stage_problems(section, ("datasets", key))
    return found + [(tuple(path), message) for path, message in model.check_options(options)]


def _stage_problems(section: DatasetOptions, path: KeyPath) -> list[Problem]:
    """Progressive training: the lists go together and hold positive numbers."""
    given = {key: getattr(section, key) for key in ("iters", "mini_batch_sizes", "gt_sizes") if getattr(section, key) is not None}
    if not given:
        return []
    if "iters" not in given:
        return [((*path, next(iter(given))), "needs the key 'iters': the steps of each part")]
    found: list[Problem] = [((*path, key), f"must be positive, found {each}") for key, each in given.items() if not each or min(each) < 1]
    lengths = {key: len(each) for key, each in given.items()}
    if len(set(lengths.values())) > 1:
        found.append(((*path, "iters"), f"the lists of progressive training differ in length: {lengths}"))
    return found


def _optimizer_problems(train: TrainOptions) -> list[Problem]:
    path: KeyPath = ("train", "optim_g")
    spec = train.optim_g
    if not isinstance(spec.get("type"), str):
        return [(path, "needs a type: the name of an optimizer")]
    try:
        target = find_optimizer(spec["type"])
    except UserError as error:
        return [((*path, "type"), str(error))]
    arguments = {key: value for key, value in spec.items() if key != "type"}
    hidden = ("params", "differentiable", "maximize", "capturable")
    found: list[Problem] = [((*path, key) if key else path, text) for key, text in signatures.problems(target, arguments, hidden=hidden)]
    lr = arguments.get("lr")
    if lr is None:
        found.append((path, "needs the key 'lr'"))
    elif isinstance(lr, (int, float)) and not (math.isfinite(lr) and lr > 0):
        found.append(((*path, "lr"), f"must be positive, found {lr}"))
    betas, usual = arguments.get("betas"), signatures.parameters(target).get("betas")
    if isinstance(betas, list) and usual is not None and len(betas) != len(usual.default):
        found.append(((*path, "betas"), f"expected {len(usual.default)} numbers, found {betas}"))
    if not found:
        try:
            target([torch.nn.Parameter(torch.zeros(1))], **arguments)
        except (ValueError, TypeError, RuntimeError) as error:
            found.append((path, str(error)))
    return found


def _schedule_problems(train: TrainOptions) -> list[Problem]:
    path: KeyPath = ("train", "scheduler")
    spec = train.scheduler
    if not isinstance(spec.get("type"), str):
        return [(path, "needs a type: the name of a schedule")]
    try:
        target = find_schedule(spec["type"])
    except UserError as error:
        return [((*path, "type"), str(error))]
    arguments = {key: value for key, value in spec.items() if key != "type"}
    found: list[Problem] = [((*path, key) if key else path, text) for key, text in signatures.problems(target, arguments)]
    if found:
        return found
    try:
        schedule = target(**arguments)
    except (ValueError, TypeError) as error:
        named = [key for key in arguments if str(error).startswith(key)]
        return [((*path, named[0]) if named else path, str(error))]
    if isinstance(schedule, (CosineRestart, CosineRestartCyclic)) and sum(schedule.periods) < train.total_iter:
        found.append(((*path, "periods"), f"add up to {sum(schedule.periods)}, less than total_iter ({train.total_iter})"))
    return found


def flatten(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for each in typing.get_args(annotation):
        yield from flatten(each)
