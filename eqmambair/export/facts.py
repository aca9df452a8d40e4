"""What an .onnx file of ours says of itself in its metadata: written by `eqmambair.export.writing`, read by `eqmambair.export.session`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eqmambair.version import __version__

#: What each of our keys in a model's metadata begins with.
PREFIX = "eqmambair."

Task = Literal["restoration", "classification"]
Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class Facts:
    """A network in a file.

    Attributes:
        arch: name of its class.
        task: what it makes of images: larger or cleaner ones, or logits.
        channels: of the images that it takes.
        precision: of its input, its output and its layers.
        options: the ``network_g`` options that rebuild it.
        scale: output pixels per input pixel and side; 1 for classifiers.
        card: what the weights say beside the options (names of classes, preprocessing); empty where they say nothing.
    """

    arch: str
    task: Task
    channels: int
    precision: Precision
    options: dict[str, Any]
    scale: int = 1
    card: dict[str, Any] = field(default_factory=dict)

    def as_metadata(self) -> dict[str, str]:
        """Keys and values for a model's ``metadata_props``."""
        options = json.dumps(self.options, sort_keys=True)
        said = {
            "version": __version__,
            "arch": self.arch,
            "task": self.task,
            "channels": str(self.channels),
            "scale": str(self.scale),
            "precision": self.precision,
            "options": options,
            "options_sha256": hashlib.sha256(options.encode()).hexdigest(),
        }
        if self.card:
            said["card"] = json.dumps(self.card)
        return {PREFIX + key: value for key, value in said.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Facts | None":
        """What the metadata of a model says, None if none of it is ours.

        Raises:
            ValueError: a value is missing or is not what `as_metadata` writes; the message names the key.
        """
        said = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
        if not said:
            return None

        def word(key: str, *known: str) -> Any:
            if said.get(key) not in known:
                raise ValueError(f"{PREFIX}{key} is {said.get(key)!r}, not {' or '.join(known)}")
            return said[key]

        def count(key: str, default: str = "") -> int:
            text = said.get(key, default)
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(f"{PREFIX}{key} is {text!r}, not a whole number of at least 1")
            return int(text)

        def mapping(key: str, default: str = "") -> dict[str, Any]:
            try:
                value = json.loads(said.get(key, default))
            except json.JSONDecodeError:
                value = None
            if not isinstance(value, dict):
                raise ValueError(f"{PREFIX}{key} is no mapping in JSON")
            return value

        return cls(
            arch=said.get("arch", "network"),
            task=word("task", "restoration", "classification"),
            channels=count("channels"),
            precision=word("precision", "float32", "float16"),
            options=mapping("options"),
            scale=count("scale", "1"),
            card=mapping("card", "{}"),
        )
