"""States on disk: whole or not there, at whatever call a save is killed, whatever is done to them later."""

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eqmambair.engine import store
from eqmambair.engine.store import StateStore, copy_file
from eqmambair.errors import UserError
from eqmambair.files import replace_file

FILES = {"a.pt": "a" * 3000, "b.yml": b"b"}


def killed_after(calls: int, action: Callable[[], Any]) -> int:
    """Do something in a forked process that is killed at its n-th call that changes the disk; the exit status."""
    process = multiprocessing.get_context("fork").Process(target=_act, args=(calls, action))
    process.start()
    process.join(timeout=30)
    assert process.exitcode is not None
    return process.exitcode


def _act(calls: int, action: Callable[[], Any]) -> None:
    left = [calls]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    action()


def test_save_killed_at_any_call_leaves_a_whole_state(tmp_path: Path) -> None:
    kills = 0
    for calls in range(1, 40):
        folder = tmp_path / str(calls)
        states = StateStore(folder, keep_last=1)
        states.save(1, FILES)
        status = killed_after(calls, lambda states=states: states.save(2, FILES))
        newest = states.newest()
        assert newest in (states.place(1), states.place(2))
        kills += status == -signal.SIGKILL
        states.save(3, FILES)
        assert [each.name for each in folder.iterdir()] == ["step_00000003"]
        if status == 0:
            break
    assert kills >= 6


def test_replacing_a_file_killed_at_any_call_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for calls in range(1, 6):
        path.write_text("old")
        killed_after(calls, lambda: replace_file(path, "new"))
        assert path.read_text() in ("old", "new")


def test_every_damage_is_seen(tmp_path: Path) -> None:
    states = StateStore(tmp_path)
    place = states.save(7, FILES)
    assert states.damage(place) is None
    chance = random.Random(0)
    for path in place.iterdir():
        data = path.read_bytes()
        for _ in range(20):
            at = chance.randrange(len(data))
            for wrong in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], b""):
                path.write_bytes(wrong)
                if path.name != "manifest.json" or wrong[:at] == wrong:  # a digit of the manifest's own step may change unseen
                    assert states.damage(place) is not None, (path.name, at)
        path.write_bytes(data)
    (place / "a.pt").unlink()
    assert states.damage(place) == "a.pt is missing"
    assert states.newest() is None


def test_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = StateStore(tmp_path / "states")
    states.save(1, FILES)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"cannot be saved: [0-9.]+ MiB are needed, 0\.0 MiB are free"):
        states.save(2, FILES, needed=10**9)
    assert states.steps() == [1]


def test_overwriting_the_copy_leaves_the_state_alone(tmp_path: Path) -> None:
    states = StateStore(tmp_path / "states")
    place = states.save(1, FILES)
    copy_file(place / "a.pt", tmp_path / "latest.pth")
    with (tmp_path / "latest.pth").open("r+b") as file:
        file.write(b"spoilt")
    assert states.damage(place) is None


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file")
    with pytest.raises(UserError, match="cannot be saved") as caught:
        StateStore(tmp_path / "states").save(1, FILES)
    assert "\n" not in str(caught.value)
