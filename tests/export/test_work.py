"""Exports from beginning to end: what is refused, what goes on where it stopped, who is first."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

from tests import shell
from tests.export.exports import COUNTS, check_totals, export, files_of, make_sink, success_of
from tests.storage.intercept import Amid, Standing
from vqpipe import storage
from vqpipe.commands.sink_jobs import ExportFormat
from vqpipe.export import place
from vqpipe.export.format import FORMATS, load_format


def test_formats_that_the_command_knows_are_those_that_there_are():
    assert sorted(ExportFormat.__args__) == sorted(FORMATS)
    assert all(load_format(name).__dataclass_params__.frozen for name in FORMATS)


def test_export_into_a_place_that_is_not_empty_is_refused_and_leaves_it_alone(base, capsys):
    sink = make_sink(f"{base}/codes")
    storage.publish(f"{base}/out/notes.txt", b"mine")
    assert export(sink, f"{base}/out", "npy") == 4
    assert "is not empty" in capsys.readouterr().err
    assert [file.uri for file in storage.list_files(f"{base}/out")] == [f"{base}/out/notes.txt"]


def test_export_into_the_sink_itself_is_refused(tmp_path):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, sink / "data" / "npy", "npy") == 4
    assert export(sink, sink, "npy") == 4
    assert export(sink, tmp_path / "codes-npy", "npy") == 0


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["rar"], "format"),
        (["megatron", "--eod-token", "9999"], "--eod-token"),
        ("sink", "snapshot"),
    ],
)
def test_another_export_in_the_same_place_is_refused_by_name(tmp_path, capsys, other, named):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "megatron") == 0
    before = files_of(tmp_path / "out")
    if other == "sink":
        sink, other = make_sink(tmp_path / "others", {"a": 3, "z": 3}), ["megatron"]
    assert export(sink, tmp_path / "out", *other) == 3
    assert f"\n  {named}: " in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before


def test_the_column_that_is_found_is_named_and_naming_it_is_the_same_export(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "rar") == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["label", "label"] in said
    assert ["left", "out", "txt,", "score"] in said
    assert export(sink, tmp_path / "out", "rar", "--label", "label", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["left_out"]) == ("label", ["txt", "score"])
    assert export(sink, tmp_path / "mds", "mds", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["caption"], found["left_out"]) == (None, None, [])


def test_export_of_a_sink_that_has_lost_an_object_names_it(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    (sink / "data" / "b" / "d.parquet").unlink()
    assert export(sink, tmp_path / "out", "npy") == 2
    assert "b/d" in capsys.readouterr().err
    assert export(sink, tmp_path / "out", "npy", "--allow-incomplete") == 0
    assert success_of(tmp_path / "out")["shards"] == len(COUNTS) - 1
    check_totals(sink, tmp_path / "out")


def test_export_of_an_object_that_is_damaged_writes_nothing_of_it(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", {"a": 3, "b": 3})
    path = sink / "data" / "b.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    assert export(sink, tmp_path / "out", "halton", "--pickle") == 4
    assert "b.parquet is damaged" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("*.pth")} == {
        "0000000.pth",
        "0000001.pth",
    }
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_export_of_a_sink_whose_object_changes_under_it_is_refused(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", {"a": 3, "b": 3})
    other = make_sink(tmp_path / "others", {"a": 3, "b": 4})

    def swap():
        (other / "data" / "b.parquet").rename(sink / "data" / "b.parquet")

    with Amid("publish", str(tmp_path / "out" / "export.json"), swap):
        assert export(sink, tmp_path / "out", "npy") == 3
    assert "b.parquet is not the object" in capsys.readouterr().err


class Looks(Standing):
    """Notes which objects are looked at before they are read."""

    def __init__(self):
        self.uris = []

    def _call(self, real, *args, **options):
        if real.__name__ == "stat":
            self.uris.append(args[0])
        return real(*args, **options)


def test_shards_that_are_done_are_not_read_again(tmp_path):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "whole", "npy") == 0
    path = sink / "data" / "e.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    assert export(sink, tmp_path / "out", "npy") == 4
    data[200] ^= 1
    path.write_bytes(data)
    with Looks() as looks:
        assert export(sink, tmp_path / "out", "npy") == 0
    looked = [uri for uri in looks.uris if uri.startswith(str(sink / "data"))]
    assert looked == [str(sink / "data" / "a.parquet"), str(path)]  # the first for its columns
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("change", ["remove", "cut"])
def test_export_that_was_broken_since_is_said_to_be(tmp_path, capsys, change):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "npy") == 0
    capsys.readouterr()
    assert export(sink, tmp_path / "out", "npy") == 0
    assert "nothing was left to do" in capsys.readouterr().out
    codes = tmp_path / "out" / "codes.npy"
    codes.unlink() if change == "remove" else codes.write_bytes(b"x")

    assert export(sink, tmp_path / "out", "npy") == 4

    assert "was complete and is not any more" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["npy"], ["emu3", "--pickle", "--seen-at", "/data"]])
def test_two_exports_at_once_end_with_the_bytes_of_one(tmp_path, options):
    sink = make_sink(tmp_path / "codes", {f"s{i}": 4 for i in range(12)})
    assert export(sink, tmp_path / "one", *options) == 0
    out = tmp_path / "both"
    words = [sys.executable, "-m", "vqpipe", "export", str(sink), str(out), "--to", *options]
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert files_of(out) == files_of(tmp_path / "one")


def test_export_that_another_one_has_ended_meanwhile_is_done(tmp_path):
    sink = make_sink(tmp_path / "codes")
    out = tmp_path / "out"

    def be_first():
        assert export(sink, out, "npy") == 0

    with Amid("publish", place.piece_uri(str(out), "codes.npy", 3), be_first):
        assert export(sink, out, "npy") == 0
    check_totals(sink, out)


def test_file_that_is_in_the_place_of_a_joined_one_is_named(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    out = tmp_path / "out"
    foreign = out / "codes.npy"
    with Amid("publish", place.identity_uri(str(out)), lambda: _write(foreign)):
        assert export(sink, out, "npy") == 4
    assert "codes.npy has 5 bytes and should have" in capsys.readouterr().err
    foreign.unlink()
    assert export(sink, out, "npy") == 0
    check_totals(sink, out)


def _write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"other")


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"lumina_mgpt"}))  # needs a tokenizer
def test_export_of_a_sink_without_rows_is_complete_and_says_so(tmp_path, name):
    sink = make_sink(tmp_path / "codes", {"a": 0, "b": 0}, grid=(3, 3))
    assert export(sink, tmp_path / "out", name) == 0
    assert success_of(tmp_path / "out")["rows"] == 0
    check_totals(sink, tmp_path / "out")


def test_export_as_json_says_what_success_says_and_where(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "npy", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["output"] == f"{tmp_path}/out/"
    assert said.items() > success_of(tmp_path / "out").items()
    assert "codes.npy" in said["read_with"]


SHARDS = {f"s{i:03d}": 40 for i in range(150)}


def start(sink, out):
    return shell.start("export", sink, out, "--to", "npy", "--workers", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),
        signal.SIGKILL,
    ],
)
def test_export_in_processes_that_is_stopped_goes_on_and_leaves_no_process(tmp_path, number):
    sink, out = make_sink(tmp_path / "codes", SHARDS), tmp_path / "out"
    process = start(sink, out)
    shell.await_commit(process, out, ".export/done/*.json")
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    if number == signal.SIGKILL:
        process.communicate()  # Python's own helper has something to say of what is left
    else:
        assert "run the same command again" in shell.finish(process, expect=2)
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert not (out / "_SUCCESS").exists()
    shell.finish(start(sink, out))
    assert export(sink, tmp_path / "whole", "npy") == 0
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_export_of_which_a_process_dies_says_so_and_goes_on(tmp_path):
    sink, out = make_sink(tmp_path / "codes", SHARDS), tmp_path / "out"
    process = start(sink, out)
    shell.await_commit(process, out, ".export/done/*.json")
    workers = psutil.Process(process.pid).children()
    next(each for each in workers if "spawn_main" in " ".join(each.cmdline())).kill()
    assert "fewer --workers" in shell.finish(process, expect=4)
    shell.finish(start(sink, out))
    check_totals(sink, out)
