"""Data folders with something wrong in them: lost, cut, garbled, renamed, ill-sized, in other forms; as files and as LMDBs."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eqmambair.data.io import write_image
from eqmambair.data.prepare import make_lmdb
from soak.trials import judge, make_options, make_pairs, write

Damage = Callable[[Path, random.Random], None]


def _any(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(folder.glob("[gl][tq]/*.png")))


def _garble(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.randrange(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(bytes(data))


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _rewrite(path: Path, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
    write_image(path, np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype))


DAMAGES: dict[str, Damage] = {
    "lost": lambda folder, chance: _any(folder, chance).unlink(),
    "cut": lambda folder, chance: _cut(_any(folder, chance), chance),
    "empty": lambda folder, chance: os.truncate(_any(folder, chance), 0),
    "garbled": lambda folder, chance: _garble(_any(folder, chance), chance),
    "text": lambda folder, chance: _any(folder, chance).write_text("not a picture"),
    "renamed": lambda folder, chance: _any(folder, chance).rename(folder / "lq" / "other name.png"),
    "stray files": lambda folder, chance: _stray(folder),
    "other size": lambda folder, chance: _rewrite(_any(folder, chance), (chance.randrange(1, 40), chance.randrange(1, 40), 3)),
    "one pixel": lambda folder, chance: _rewrite(_any(folder, chance), (1, 1, 3)),
    "gray": lambda folder, chance: _rewrite(folder / "gt" / "p0.png", (32, 32, 1)),
    "alpha": lambda folder, chance: _rewrite(folder / "gt" / "p0.png", (32, 32, 4)),
    "16 bit": lambda folder, chance: _rewrite(folder / "gt" / "p0.png", (32, 32, 3), np.uint16),
    "a folder called a.png": lambda folder, chance: (folder / "gt" / "a.png").mkdir(),
    "dangling link": lambda folder, chance: (folder / "gt" / "a.png").symlink_to(folder / "nowhere.png"),
    "no pictures": lambda folder, chance: _remove_all(folder / "gt"),
    "no folder": lambda folder, chance: shutil.rmtree(folder / chance.choice(("gt", "lq"))),
    "two extensions": lambda folder, chance: _rewrite(folder / "gt" / "p0.bmp", (32, 32, 3)),
    "name not UTF-8": lambda folder, chance: Path(os.fsdecode(os.fsencode(folder) + b"/gt/\xff.png")).write_bytes(b"x"),
}
LMDB_DAMAGES: dict[str, Damage] = {
    "lmdb: data cut": lambda folder, chance: _cut(folder / "gt.lmdb" / "data.mdb", chance),
    "lmdb: no data": lambda folder, chance: (folder / "gt.lmdb" / "data.mdb").unlink(),
    "lmdb: no list": lambda folder, chance: (folder / "lq.lmdb" / "meta_info.txt").unlink(),
    "lmdb: unknown key": lambda folder, chance: _append(folder / "gt.lmdb" / "meta_info.txt", "missing.png (32,32,3) 0\n"),
    "lmdb: list cut": lambda folder, chance: os.truncate(
        path := folder / "lq.lmdb" / "meta_info.txt", chance.randrange(path.stat().st_size)
    ),
    "lmdb: list garbled": lambda folder, chance: _garble(folder / "gt.lmdb" / "meta_info.txt", chance),
    "lmdb: bad picture inside": lambda folder, chance: _spoil(folder),
}


def _stray(folder: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "notes.txt"):
        (folder / "gt" / name).write_text("x")


def _remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _spoil(folder: Path) -> None:
    import lmdb

    with lmdb.open(str(folder / "gt.lmdb")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"p0", b"not a picture")


def soak_folders(wanted: int, folder: Path, seed: int) -> list[str]:
    """Try ``wanted`` damaged folders; returns what went wrong."""
    chance, ends, failures = random.Random(seed + 2), Counter[str](), []
    kinds = list({**DAMAGES, **LMDB_DAMAGES}.items())
    for number in range(wanted):
        name, damage = kinds[number % len(kinds)]
        data = folder / f"data_{number}"
        make_pairs(data)
        options = make_options(data, folder / "out", f"damaged_{number}")
        if name in LMDB_DAMAGES:
            for side in ("gt", "lq"):
                make_lmdb(data / side, data / f"{side}.lmdb")
            for section in options["datasets"].values():
                section.update(dataroot_gt=str(data / "gt.lmdb"), dataroot_lq=str(data / "lq.lmdb"), io_backend={"type": "lmdb"})
        for section in options["datasets"].values():
            section.update(check=chance.choice(("full", "header", "lazy")), on_bad_file=chance.choice(("error", "skip")))
        options["datasets"]["train"]["num_worker_per_gpu"] = chance.choice((0, 1))
        options["train"].update(total_iter=6, warmup_iter=1)
        options["train"]["scheduler"]["milestones"] = [3]
        options["val"]["val_freq"] = 6
        damage(data, chance)
        end = judge(["-opt", str(write(options, folder / "folder.yml"))], folder / "folder.txt")
        ends[end] += 1
        if end not in ("ran", "refused"):
            failures.append(f"data folder {number} ({name}): {end}: {(folder / 'folder.txt').read_text(errors='replace')[-300:]}")
        shutil.rmtree(data)
    print(f"data folders: {dict(ends)}", flush=True)
    return failures
