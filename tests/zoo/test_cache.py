"""Weights by name: bundled, cached, fetched; nothing wrong gets into the cache."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml

from eqmambair import UserError, build_network
from eqmambair.checkpoints import save_weights, to_official
from eqmambair.cli import zoo as command
from eqmambair.zoo import Entry, cache, check, entries, fetch, find_entry, find_model, locate, table
from eqmambair.zoo.download import Patience
from tests.zoo.server import serving

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "type": "MambaIR",
    "embed_dim": 32,
    "depths": [1],
    "d_state": 1,
    "mlp_ratio": 1.0,
    "upscale": 2,
    "upsampler": "pixelshuffledirect",
}
QUICK = Patience(timeout_s=30, tries=2, pause_s=0.01)


class Marker:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    """A published weight file of a tiny network."""
    path = tmp_path_factory.mktemp("w") / "x.pth"
    save_weights(path, to_official(build_network(OPTIONS).state_dict()))
    return path.read_bytes()


@pytest.fixture
def server(weights):
    with serving(weights) as running:
        yield running


@pytest.fixture
def entry(server, tmp_path, monkeypatch) -> Entry:
    """A row of the table whose file the server has, and an empty cache."""
    monkeypatch.setenv("EQMAMBAIR_CACHE", str(tmp_path / "cache"))
    row = {"name": "tiny", "arch": "MambaIR", "task": "super-resolution", "scale": 2, "source": "a test", "scores_are": "measured"}
    made = Entry(**row, urls=(server.url,))
    monkeypatch.setattr(table, "entries", lambda: {"tiny": made})
    return made


def folder() -> set[str]:
    """What lies in the cache, without the file that is locked."""
    return {path.name for path in cache.cache_folder().iterdir() if path.suffix != ".lock"}


def test_a_name_is_fetched_once_and_found_afterwards(entry, server, weights):
    assert locate("tiny") is None
    path = find_model("tiny")
    assert path.read_bytes() == weights
    assert folder() == {"tiny.pth", "tiny.pth.sha256"}
    assert find_model("tiny") == path == locate("tiny")
    assert len(server.asked) == 1
    assert check(entry, path) == "its SHA-256 when it was fetched"


def test_bundled_weights_come_before_all_others(entry, server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WEIGHTS_FOLDER", tmp_path)
    (tmp_path / "tiny.safetensors").touch()
    assert find_model("tiny") == tmp_path / "tiny.safetensors"
    assert server.asked == []


@pytest.mark.parametrize("word", ["wrong", "promising_less", "page", "404"])
def test_what_is_not_the_file_is_refused_and_leaves_nothing(entry, server, word):
    server.script = [word]
    with pytest.raises(UserError, match=r"tiny could not be fetched .* download it by hand from http://\S+ and put it at \S+tiny\.pth"):
        fetch(entry, patience=QUICK)
    assert folder() == set()
    assert fetch(entry, patience=QUICK).is_file()  # and the next try starts clean


def test_bytes_that_changed_on_the_way_are_noticed_without_a_published_hash(entry, server):
    middle = len(server.body) // 2
    server.body = server.body[:middle] + bytes([server.body[middle] ^ 1]) + server.body[middle + 1 :]
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        fetch(entry, patience=QUICK)


def test_a_published_hash_decides(entry):
    with pytest.raises(UserError, match="the published SHA-256 is 0000"):
        fetch(entry.model_copy(update={"sha256": "0" * 64}), patience=QUICK)


@pytest.mark.parametrize("change", [{"arch": "MambaIRv2"}, {"scale": 3}])
def test_weights_of_another_network_are_refused(entry, change):
    with pytest.raises(UserError, match=r"holds weights of MambaIR, not of MambaIRv2|enlarges by 2, not by 3"):
        fetch(entry.model_copy(update=change), patience=QUICK)


def test_a_pickle_with_code_in_it_is_refused_by_name(entry, server, tmp_path):
    torch.save({"params": {"a": torch.zeros(1)}, "extra": Marker()}, tmp_path / "x.pth")
    server.body = (tmp_path / "x.pth").read_bytes()
    with pytest.raises(UserError, match=r"refused, it holds more than tensors .*(posix|nt)\.system"):
        fetch(entry, patience=QUICK)
    assert folder() == set()


def test_a_wrong_beginning_from_an_earlier_try_is_thrown_away(entry, server, weights):
    server.script = ["truncated", "404"]
    with pytest.raises(UserError):
        fetch(entry, patience=QUICK)
    (partial,) = (path for path in cache.cache_folder().iterdir() if path.suffix == ".pth")
    partial.write_bytes(bytes(partial.stat().st_size))
    assert fetch(entry, patience=QUICK).read_bytes() == weights
    assert server.asked == [None, f"bytes={len(weights) // 2}-", f"bytes={len(weights) // 2}-", None]


def test_the_second_address_is_asked_where_the_first_fails(entry, server, weights):
    server.script = ["404"]
    assert fetch(entry.model_copy(update={"urls": (server.url, f"{server.url}?2")}), patience=QUICK).read_bytes() == weights


def test_threads_that_want_one_file_fetch_it_once(entry, server, weights):
    server.script = ["truncated"]
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(entry, patience=QUICK).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [weights] * 4
    assert len(server.asked) == 2


@pytest.mark.slow
def test_processes_that_want_one_file_fetch_it_once(entry, server, weights):
    code = "import sys; from eqmambair.zoo import Entry, fetch; print(fetch(Entry.model_validate_json(sys.argv[1])))"
    given = [sys.executable, "-c", code, entry.model_dump_json()]
    processes = [subprocess.Popen(given, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    assert {process.communicate()[0].strip() for process in processes} == {str(cache.cache_folder() / "tiny.pth")}
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written_is_named(entry, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"cannot be written .* EQMAMBAIR_CACHE"):
        fetch(entry, patience=QUICK)


def test_a_full_disk_is_one_line_and_the_rest_is_fetched_later(entry, server, weights):
    """A limit on the size of files stands for the full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(weights) // 2, hard))
    try:
        with pytest.raises(UserError, match=rf"tiny\.pth: cannot be written \({os.strerror(errno.EFBIG)}\); EQMAMBAIR_CACHE names another"):
            fetch(entry, patience=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "tiny.pth" not in folder()
    assert fetch(entry, patience=QUICK).read_bytes() == weights
    assert server.asked[-1] == f"bytes={len(weights) // 2}-"


def test_commands_fetch_show_and_verify(entry, capsys, monkeypatch):
    for name in ("entries", "find_entry"):
        monkeypatch.setattr(command, name, getattr(table, name))
    assert command.main(["verify", "tiny"]) == 1
    assert "zoo fetch tiny" in capsys.readouterr().err
    assert command.main(["fetch", "tiny"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert command.main(["verify"]) == 0
    assert "right, by its SHA-256 when it was fetched" in capsys.readouterr().out
    with path.open("r+b") as file:
        file.write(b"x")
    assert command.main(["verify"]) == 1
    assert "is not what it should be" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        command.main(["fetch", "tine"])


# --- the table itself ---------------------------------------------------------------------------------------------------------------


def test_bundled_weights_are_those_of_the_table():
    in_table = {entry.name for entry in entries().values() if entry.bundled}
    assert set(cache.bundled_models()) == in_table, "give each file of eqmambair/weights a row in eqmambair/zoo/weights.yml"
    for name in in_table:
        assert check(find_entry(name), cache.WEIGHTS_FOLDER / find_entry(name).file) == "the published SHA-256"


def test_rows_name_option_files_that_are_there_and_addresses():
    for entry in entries().values():
        assert entry.bundled or all(url.startswith("https://") for url in entry.urls)
        assert entry.bundled == (not entry.urls), entry.name
        if entry.option_file is not None:
            network = yaml.safe_load((ROOT / entry.option_file).read_text(encoding="utf-8"))["network_g"]
            assert network["type"] == entry.arch, entry.name
            assert entry.scale in (None, network.get("upscale", 1)), entry.name


def test_the_table_is_printed_whole_and_as_json(capsys):
    assert command.main(["list"]) == 0
    assert set(entries()) <= set(capsys.readouterr().out.split())
    assert command.main(["list", "groupmamba", "--json"]) == 0
    assert capsys.readouterr().out.count('"name"') == 3
    assert command.main(["show", "vmamba_tiny_s1l8"]) == 0
    assert "%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth" in capsys.readouterr().out
