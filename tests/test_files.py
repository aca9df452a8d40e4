"""Files appear whole or not at all, whoever looks and whatever fails."""

import os
import threading

import pytest

from eqmambair.errors import UserError
from eqmambair.files import replace_file


@pytest.mark.parametrize("content", [b"\xc3\xa4", "\u00e4", lambda file: file.write(b"\xc3\xa4")], ids=["bytes", "text", "writer"])
def test_content_is_bytes_text_or_a_function(tmp_path, content):
    replace_file(tmp_path / "new" / "a.bin", content)
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\xc3\xa4"


def test_what_the_system_says_is_said(tmp_path):
    (tmp_path / "file").write_text("")

    def fails(file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    with pytest.raises(UserError, match=r"a: cannot be written \(File exists\)"):
        replace_file(tmp_path / "file" / "a", b"")
    with pytest.raises(UserError, match=r"a: cannot be written \(No space left on device\)"):
        replace_file(tmp_path / "a", fails)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    replace_file(tmp_path / "a.bin", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.bin.*No space"):
        replace_file(tmp_path / "a.bin", b"new" * 1000)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, stop, seen = tmp_path / "a.bin", threading.Event(), []
    replace_file(path, b"a" * 100_000)

    def watch():
        while not stop.is_set():
            seen.append(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for letter in b"bcdefgh":
        replace_file(path, bytes([letter]) * 100_000)
    stop.set()
    watcher.join()
    assert all(len(data) == 100_000 and len(set(data)) == 1 for data in seen)
