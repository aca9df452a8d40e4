"""Reads an option file into ``Options``: every key known, every value of the right type, every name resolved, before any data are read."""

import json
import math
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ValidationError, create_model

from eqmambair.engine import schema, signatures
from eqmambair.engine.optimizers import find_optimizer
from eqmambair.engine.schedule import CosineRestart, CosineRestartCyclic, find_schedule
from eqmambair.engine.schema import DatasetOptions, Options, TrainOptions
from eqmambair.engine.yaml_source import KeyPath, Source, parse_scalar, read_yaml
from eqmambair.errors import UserError
from eqmambair.models import Model, find_model
from eqmambair.models.specs import Registered, lookup, names, nearest

Problem = tuple[KeyPath, str]
GIVEN_TO_DATASETS = ("phase", "scale", "root")
_SHOWN = 5


def load_options(
    file: str | Path, command: Literal["train", "test"] = "train", overrides: Sequence[str] = (), root: str | Path | None = None
) -> tuple[Options, list[str]]:
    """Read, complete and check an option file.

    Args:
        file: YAML in basicsr's layout.
        command: what the file is wanted for; ``train`` needs the section ``train`` and the data set ``train``.
        overrides: ``a:b=value`` changes, checked like the file.
        root: folder that relative paths start from; the project's own if absent.

    Returns:
        The options, and one warning for each key that means nothing here.

    Raises:
        UserError: names file, line and key of what is wrong.
    """
    source = read_yaml(file)
    for override in overrides:
        _override(source, override)
    warnings = list(_drop_ignored(source))
    options = parse_options(source, command)
    options.set_root(Path(root) if root is not None else project_root())
    return options, warnings


def project_root() -> Path:
    """The checkout that holds this package, or the current folder where the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "setup.py").is_file() or (checkout / "options").is_dir() else Path.cwd()


def parse_options(source: Source, command: str = "train") -> Options:
    """The options in ``source``; raises ``UserError`` with every problem in one line."""
    try:
        model = find_model(source.data.get("model_type", "RestorationModel"))
    except UserError as error:
        raise UserError(f"{source.place(('model_type',))}: model_type: {error}") from None
    kind = joined_schema(model)
    try:
        text = json.dumps(source.data)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source.file}: {error}") from None
    try:
        options = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _error(source, _joined(_readable(kind, source, each) for each in error.errors())) from None
    found = list(_spec_problems(options, ()))
    found += _command_problems(options, command)
    found = found or _cross_problems(options, model)
    if found:
        raise _error(source, found)
    return options


def joined_schema(model: type[Model]) -> type[Options]:
    """``Options`` whose section ``train`` also has the keys of this model."""
    train = create_model("TrainOptions", __base__=(model.train_schema, TrainOptions), __doc__=TrainOptions.__doc__)
    return create_model("Options", __base__=Options, __doc__=Options.__doc__, train=(train | None, None))  # type: ignore[arg-type]


def dump_options(options: Options) -> str:
    """The resolved options as YAML."""
    return yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _error(source: Source, found: Sequence[Problem]) -> UserError:
    lines = []
    for path, message in found[:_SHOWN]:
        key = ".".join(str(part) for part in path)
        lines.append(f"{source.place(path)}: {key}: {message}" if key else f"{source.place(path)}: {message}")
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return UserError("; ".join(lines) + more)


def _override(source: Source, text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.split(":")
    if not equals or not all(parts):
        raise UserError(f"--force_yml {text}: expected key:subkey=value")
    here: Any = source.data
    path: list[str | int] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        step: str | int = part
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise UserError(f"--force_yml {text}: {':'.join(parts[:index])} is a list of {len(here)}")
            step = int(part)
        elif not isinstance(here, dict):
            raise UserError(f"--force_yml {text}: {':'.join(parts[:index])} is no mapping")
        path.append(step)
        source.places[tuple(path)] = f"--force_yml {text}"
        if last:
            here[step] = parse_scalar(value)
        elif isinstance(here, dict):
            here = here[step] if isinstance(here.get(part), (dict, list)) else here.setdefault(part, {})
        else:
            here = here[int(part)]


def _drop_ignored(source: Source) -> Iterator[str]:
    for pattern, reason in schema.IGNORED.items():
        for path, mapping in _matches(source.data, pattern, ()):
            mapping.pop(str(path[-1]))
            yield f"{source.place(path)}: {'.'.join(map(str, path))} has no effect: {reason}"


def _matches(here: Any, pattern: tuple[str, ...], path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    if not isinstance(here, dict):
        return
    for key in [key for key in here if pattern[0] in ("*", key)]:
        if len(pattern) == 1:
            yield (*path, key), here
        else:
            yield from _matches(here[key], pattern[1:], (*path, key))


def _readable(kind: type[BaseModel], source: Source, error: Any) -> Problem:
    """A problem from one of pydantic's errors: the part of its location that is keys, and words a person uses."""
    path: list[str | int] = []
    here: Any = source.data
    location = error["loc"]
    for part in location:
        inside = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int) and part < len(here))
        if not inside:
            break
        path.append(part)
        here = here[part]
    if error["type"] == "missing":
        return (*path, location[-1]), "this key is missing"
    if error["type"] == "extra_forbidden":
        word = str(path[-1])
        if word in schema.INSTEAD:
            return tuple(path), f"unknown key; here it is {schema.INSTEAD[word]}"
        return tuple(path), f"unknown key{nearest(word, _keys_at(kind, path[:-1]))}"
    return tuple(path), signatures.say(error)


def _joined(found: Iterable[Problem]) -> list[Problem]:
    """One problem for each key: what a value could have been is joined with ``or``."""
    joined: dict[KeyPath, str] = {}
    for path, message in found:
        if path in joined and ", found " in message and message.startswith("expected "):
            message = f"{joined[path].rsplit(', found ', 1)[0]} or {message.removeprefix('expected ')}"
        joined[path] = message
    return list(joined.items())


def _keys_at(kind: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    here: Any = kind
    for part in path:
        fields = getattr(here, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else here
        inner = [each for each in _flatten(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        here = inner[0]
    return list(here.model_fields)


def _flatten(annotation: Any) -> Iterator[Any]:
    yield annotation
    for each in typing.get_args(annotation):
        yield from _flatten(each)


def _spec_problems(section: BaseModel, path: KeyPath) -> Iterator[Problem]:
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
        yield from _spec_problems(value, path)
    elif isinstance(value, dict):
        for each in _flatten(annotation):
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


def _command_problems(options: Options, command: str) -> list[Problem]:
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


def _cross_problems(options: Options, model: type[Model]) -> list[Problem]:
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
