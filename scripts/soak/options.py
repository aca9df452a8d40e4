"""Option files with a mistake each: typos, wrong types, numbers out of range, missing and doubled keys, broken YAML."""

import copy
import random
from collections import Counter
from pathlib import Path
from typing import Any

from soak.trials import judge, make_options, write

NAMES = ("metrics",)  # mappings whose keys the user chooses
VALUES: tuple[Any, ...] = (
    -1,
    0,
    0.5,
    2**40,
    1e-30,
    float("nan"),
    float("inf"),
    "",
    "yes please",
    None,
    True,
    [],
    [1, 2],
    {},
    {"type": "x"},
)


def keys(options: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all keys."""
    found = []
    for key, value in options.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += keys(value, (*path, key))
    return found


def misspelt(word: str, chance: random.Random) -> str:
    """The word with a letter lost, doubled, swapped or added."""
    at = chance.randrange(len(word))
    return (
        chance.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + "x" + word[at + 1 :], word + "s"]) or "x"
    )


def mutate(options: dict[str, Any], file: Path, chance: random.Random) -> tuple[str, bool]:
    """Write the options with one mistake; returns what it is, and whether passing would be silence about a misspelt key."""
    options = copy.deepcopy(options)
    *above, key = chance.choice(keys(options))
    holder = options
    for each in above:
        holder = holder[each]
    where = ".".join([*above, key])
    kind = chance.choice(
        ("misspell", "misspell", "unknown", "remove", "value", "value", "quote", "name", "double", "cut", "letter", "bytes")
    )
    if kind == "misspell":
        wrong = misspelt(key, chance)
        known = wrong in holder or (bool(above) and above[-1] in NAMES)
        items = [(wrong if each == key else each, value) for each, value in holder.items()]
        holder.clear()
        holder.update(items)
        write(options, file)
        return f"{where} misspelt {wrong}", not known
    if kind == "unknown":
        holder[f"{key}_too"] = 1
        write(options, file)
        return f"{where}_too added", not (above and above[-1] in NAMES)
    if kind == "remove":
        del holder[key]
    elif kind == "value":
        holder[key] = chance.choice(VALUES)
        where = f"{where} = {holder[key]}"
    elif kind == "quote" and not isinstance(holder[key], (dict, list)):
        holder[key] = str(holder[key])
        where = f"{where} quoted"
    elif kind == "name" and isinstance(holder[key], str) and holder[key]:
        holder[key] = misspelt(holder[key], chance)
        where = f"{where}: {holder[key]}"
    text = write(options, file).read_text()
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    if kind == "double":
        text = "".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])
    elif kind == "cut":
        text = text[: chance.randrange(len(text))]
    elif kind == "letter":
        place = chance.randrange(len(text))
        text = text[:place] + chance.choice("{}[]:,&*#!|>'\"%@`\t x0") + text[place + 1 :]
    file.write_text(text)
    if kind == "bytes":
        data = bytearray(file.read_bytes())
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(bytes(data))
    return f"{kind} {where}", False


def soak_options(wanted: int, folder: Path, seed: int) -> list[str]:
    """Try ``wanted`` mutated option files in dry runs; returns what went wrong."""
    chance, ends, failures = random.Random(seed + 1), Counter[str](), []
    base = make_options(folder / "data", folder / "out", "mutated")
    for number in range(wanted):
        file = folder / f"options_{number}.yml"
        whole = write(base, file).read_bytes()
        while file.read_bytes() == whole:  # some mistakes are none, such as a number put where it was
            what, silence = mutate(base, file, chance)
        end = judge(["-opt", str(file), "--dry_run"], folder / "options.txt")
        if end == "ran" and silence:
            end = "SILENCE"
        ends[end] += 1
        if end not in ("ran", "refused"):
            failures.append(f"option file {number} ({what}): {end}: {(folder / 'options.txt').read_text(errors='replace')[-300:]}")
        else:
            file.unlink()
    print(f"option files: {dict(ends)}", flush=True)
    return failures
