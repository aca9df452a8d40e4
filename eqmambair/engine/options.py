"""Reads an option file into ``Options``: every key known, every value of the right type, every name resolved, before any data are read."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError, create_model

from eqmambair.engine import schema, signatures
from eqmambair.engine.option_checks import Problem, command_problems, cross_problems, flatten, spec_problems
from eqmambair.engine.schema import Options, TrainOptions, ValOptions
from eqmambair.engine.yaml_source import KeyPath, Source, parse_scalar, read_yaml
from eqmambair.errors import UserError
from eqmambair.models import Model, find_model
from eqmambair.models.specs import nearest

_SHOWN = 5
_MOST_OF_THE_START = 0.05  # of averaged weights: 8% cost 6 dB of PSNR
_DEBUG = {  # the most that a debug run has, and whether the key is set where a file leaves it out
    ("train", "total_iter"): (16, False),
    ("train", "warmup_iter"): (8, False),
    ("val", "val_freq"): (8, True),
    ("logger", "print_freq"): (1, True),
    ("logger", "save_checkpoint_freq"): (8, True),
}


def load_options(
    file: str | Path,
    command: Literal["train", "test"] = "train",
    overrides: Sequence[str] = (),
    root: str | Path | None = None,
    debug: bool = False,
) -> tuple[Options, list[str]]:
    """Read, complete and check an option file.

    Args:
        file: YAML in basicsr's layout.
        command: what the file is wanted for; ``train`` needs the section ``train`` and the data set ``train``.
        overrides: ``a:b=value`` changes, checked like the file.
        root: folder that relative paths start from; the project's own if absent.
        debug: make it a short run under a name of its own.

    Returns:
        The options, and one warning for each key that means nothing here, or will hardly do what it is for.

    Raises:
        UserError: names file, line and key of what is wrong.
    """
    source = read_yaml(file)
    for override in overrides:
        _override(source, override)
    warnings = list(_drop_ignored(source))
    if debug:
        _shorten(source.data)
    options = parse_options(source, command)
    options.set_root(Path(root) if root is not None else project_root())
    trained_before = options.path.pretrain_network_g is not None and options.path.strict_load_g
    if options.train is not None and not debug and not trained_before:
        warnings.extend(_slow_average(options.train))
    return options, warnings


def _slow_average(train: TrainOptions) -> Iterator[str]:
    left = train.ema_decay**train.total_iter
    if left > _MOST_OF_THE_START:
        yield (
            f"train.ema_decay is {train.ema_decay:g}: after {train.total_iter} steps {left:.1%} of the average is still the network as it "
            "began; a smaller decay or more steps avoid that"
        )


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
    found = list(spec_problems(options, ()))
    found += command_problems(options, command)
    found = found or cross_problems(options, model)
    if found:
        raise _error(source, found)
    return options


def joined_schema(model: type[Model]) -> type[Options]:
    """``Options`` whose sections ``train`` and ``val`` also have the keys of this model."""
    train = create_model("TrainOptions", __base__=(model.train_schema, TrainOptions), __doc__=TrainOptions.__doc__)
    val = create_model("ValOptions", __base__=(model.val_schema, ValOptions), __doc__=ValOptions.__doc__)
    sections: dict[str, Any] = {"train": (train | None, None), "val": (val | None, None)}
    return create_model("Options", __base__=Options, __doc__=Options.__doc__, **sections)


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
            if not (part.isascii() and part.isdecimal()) or int(part) >= len(here):
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


def _shorten(data: dict[str, Any]) -> None:
    """Clip what counts steps, and change the name; what is of a wrong type is left for the check to refuse."""
    if isinstance(data.get("name"), str):
        data["name"] = f"debug_{data['name']}"
    if data.get("logger") is None:
        data["logger"] = {}
    for (section, key), (most, always) in _DEBUG.items():
        mapping = data.get(section)
        if not isinstance(mapping, dict) or (key not in mapping and not always):
            continue
        value = mapping.get(key, most)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            mapping[key] = min(value, most)


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
        inner = [each for each in flatten(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        here = inner[0]
    return list(here.model_fields)
