"""Checks an option mapping against the signature of what it builds, so that no misspelt or mistyped argument gets by."""

import functools
import inspect
import json
import typing
from collections.abc import Callable, Collection
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from eqmambair.engine.yaml_source import parse_scalar
from eqmambair.models.specs import nearest

NUMBER = (int, float)


@functools.lru_cache(maxsize=256)
def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Named parameters of a class or function in order; ``*args`` and ``**kwargs`` are left out (a name that only they take is a typo)."""
    function = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]
    found = dict(inspect.signature(function).parameters)
    if inspect.isclass(target):
        found.pop(next(iter(found)), None)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in found.items() if each.kind in named}


@functools.lru_cache(maxsize=256)
def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def problems(
    target: Callable[..., Any], arguments: dict[str, Any], given: Collection[str] = (), hidden: Collection[str] = ()
) -> list[tuple[str | None, str]]:
    """What is wrong with ``target(**arguments)``, as (argument or None, message) pairs; an empty list means nothing.

    Args:
        target: a class or function.
        arguments: what an option file gives it.
        given: names of parameters that the caller fills in, though a file may do it too (so they are not required).
        hidden: names of parameters that only the caller fills in.
    """
    name = getattr(target, "__name__", str(target))
    allowed = {key: each for key, each in parameters(target).items() if key not in hidden}
    found: list[tuple[str | None, str]] = []
    for key, value in arguments.items():
        if key not in allowed:
            found.append((key, f"unknown key for {name}{nearest(key, allowed)}"))
        else:
            message = wrong_type(_hints(target).get(key), allowed[key].default, value)
            if message:
                found.append((key, message))
    for key, each in allowed.items():
        if each.default is inspect.Parameter.empty and key not in arguments and key not in given:
            found.append((None, f"{name} needs the key {key!r}"))
    return found


def wrong_type(annotation: Any, default: Any, value: Any) -> str | None:
    """Why ``value`` cannot be this parameter, or None. Without an annotation the default value tells the type."""
    if annotation is not None and annotation is not Any:
        adapter = _adapter(annotation)
        if adapter is not None:
            try:
                adapter.validate_json(json.dumps(value), strict=True)
            except ValidationError as error:
                return _where(error.errors()[0], value)
            except (TypeError, ValueError):
                return f"{value!r} cannot stand here"
            return None
    if default is inspect.Parameter.empty or default is None or value is None:
        return None
    kinds: tuple[type, ...]
    if isinstance(default, bool):
        kinds, word = (bool,), "true or false"
    elif isinstance(default, NUMBER):
        kinds, word = NUMBER, "a number"
        if isinstance(value, bool):
            return expected(word, value)
    elif isinstance(default, str):
        kinds, word = (str,), "text"
    elif isinstance(default, (list, tuple)):
        kinds, word = (list, tuple, *NUMBER), "a list"
    else:
        return None
    return None if isinstance(value, kinds) else expected(word, value)


@functools.lru_cache(maxsize=512)
def _adapter_of(annotation: Any) -> "TypeAdapter[Any] | None":
    try:
        try:
            return TypeAdapter(annotation, config=ConfigDict(extra="forbid"))  # so that an unknown key inside a mapping is one
        except PydanticUserError:  # a class that has its own configuration
            return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return None  # a type that no option file can hold, such as a module


def _adapter(annotation: Any) -> "TypeAdapter[Any] | None":
    try:
        return _adapter_of(annotation)
    except TypeError:  # unhashable annotation
        return None


def expected(word: str, value: Any) -> str:
    """``expected <word>, found <value>``, with a hint for numbers and truth values in quotes."""
    hint = ""
    if isinstance(value, str):
        hint = " (without quotes?)" if not isinstance(parse_scalar(value), (str, type(None))) else ""
    shown = repr(value)
    return f"expected {word}, found {shown if len(shown) < 80 else shown[:77] + '...'}{hint}"


def _where(error: Any, value: Any) -> str:
    """The error in words, after the key inside the value where it lies there (a mapping of options)."""
    path: list[str] = []
    here = value
    for part in error["loc"]:
        if isinstance(here, dict) and (part in here or error["type"] == "missing"):
            path.append(str(part))
            here = here.get(part)
    return f"{'.'.join(path)}: {say(error, value)}" if path else say(error, value)


_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value lines)",
    "model_type": "a mapping (key: value lines)",
    "none_required": "nothing",
    "finite_number": "a finite number",
}


def say(error: Any, value: Any = None) -> str:
    """One of pydantic's errors in the words of an option file."""
    kind, found = error["type"], error.get("input", value)
    if kind in _WORDS:
        return expected(_WORDS[kind], found)
    if kind in ("literal_error", "enum"):
        wanted = error["ctx"]["expected"]
        words = [each.strip(" '") for each in wanted.replace(" or ", ",").split(",")]
        return f"expected {wanted}, found {found!r}{nearest(str(found), words)}"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "this key is missing"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    message: str = error["msg"]
    return (
        f"{message[0].lower()}{message[1:]}, found {found!r}" if isinstance(found, (int, float, str)) else message[0].lower() + message[1:]
    )
