"""The command line as a person meets it: words that are no command, pipes, odd sinks."""

import contextlib
import errno
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shell
from tests.makers import jpeg
from tests.sink import sinks
from tests.sink.runs import tar_shard
from vqpipe.commands import cli
from vqpipe.commands.pipes import Tolerant
from vqpipe.sink.plan import Plan


def main(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(("word", "meant"), [("encod", "encode"), ("inspekt", "inspect")])
def test_main_word_that_is_no_command_exits_4_and_names_the_one_meant(word, meant, capsys):
    assert main(word, "--source", "x") == 4
    assert f"did you mean vqpipe {meant}?" in capsys.readouterr().err


def test_main_word_like_no_command_exits_4_and_lists_them(capsys):
    assert main("frobnicate") == 4
    said = capsys.readouterr().err
    assert "did you mean" not in said
    assert "encode" in said


def test_main_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("vqpipe ")


@pytest.mark.parametrize("command", ["encode", "decode", "evaluate", "inspect", "diff", "verify"])
def test_main_command_without_what_it_needs_exits_4(command, capsys):
    """0 means that the command did what it is for; help that nobody asked for is not that."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 4
    assert f"vqpipe {command} --help" in capsys.readouterr().err


@pytest.fixture
def complete(tmp_path):
    writer = sinks.begin(tmp_path / "complete")
    for index in range(3):
        sinks.commit(writer, index, 6, rejected=(1,))
    sinks.end(writer)
    return Path(writer.sink.uri)


@pytest.mark.parametrize(
    ("stream", "place", "code"), [("stdout", ".", 0), ("stdout", "nothing", 4), ("stderr", ".", 0)]
)
def test_main_reader_that_goes_away_changes_no_exit_code(complete, stream, place, code):
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-m",
        "vqpipe",
        "inspect",
        str(complete / place),
        "--json",
    ]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    done = subprocess.run(command, **streams, timeout=60)
    os.close(write)
    assert done.returncode == code
    assert b"Traceback" not in (done.stderr or b"")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("why", ["disk", "terminal", "closed"])
def test_main_output_that_cannot_be_written_is_an_error_only_where_it_is_the_work(
    complete, stream, why
):
    command = [sys.executable, "-m", "vqpipe", "inspect", str(complete), "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if why == "closed":  # no stream at all, as a shell's `>&-` leaves it
        number = {"stdout": 1, "stderr": 2}[stream]
        command = ["bash", "-c", f'exec "$@" {number}>&-', "bash", *command]
        done = subprocess.run(command, **streams, timeout=60)
    else:
        with broken(why) as end:
            done = subprocess.run(command, **streams | {stream: end}, timeout=60)
    says_so = stream == "stdout" and why != "closed"
    assert done.returncode == (4 if says_so else 0)
    said = (done.stderr or b"").decode()
    assert "Traceback" not in said
    assert ("could not be written to standard output" in said) == says_so
    if stream == "stderr":
        assert json.loads(done.stdout)["shards"]


@contextlib.contextmanager
def broken(why):
    """Yields a file that nothing can be written to: of a full disk, or a terminal that is gone."""
    if why == "disk":
        with open("/dev/full", "wb") as full:
            yield full
        return
    here, there = pty.openpty()
    os.close(here)
    yield there
    os.close(there)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "gone"), OSError(errno.ENOSPC, "full")])
def test_tolerant_stream_drops_what_cannot_be_written_and_says_why(error):
    class Stream(io.StringIO):
        def write(self, _):
            raise error

    stream = Tolerant(Stream())
    assert stream.write("some words") == len("some words")
    stream.flush()
    assert stream.failure is error


HOSTILE = "a\x1b]0;pwned\x07\x1b[2Jb\u202etxt\r"


@pytest.mark.parametrize("command", ["inspect", "verify", "diff"])
def test_main_names_from_data_reach_no_terminal_as_they_are(tmp_path, command, capsys):
    writer = sinks.begin(tmp_path / "sink", [HOSTILE, "b"])
    sinks.commit(writer, 0, 3, rejected=(1,))
    sinks.commit(writer, 1, 3)
    sinks.end(writer)
    data = next(Path(writer.sink.uri, "data").glob("a*"))
    main(command, writer.sink.uri, *([writer.sink.uri] if command == "diff" else []))
    main("inspect", writer.sink.uri, "--rejected")
    data.write_bytes(b"rot")
    main(command, writer.sink.uri, *([writer.sink.uri] if command == "diff" else []))
    main("encode", "--source", tmp_path / HOSTILE, "--sink", tmp_path / "y", "--model", HOSTILE)
    said = "".join(capsys.readouterr())
    assert "pwned" in said
    assert not {letter for letter in said if not letter.isprintable()} - {"\n"}


def _without(name):
    def change(sink):
        (sink / name).unlink()

    return change


def _without_all(pattern):
    def change(sink):
        for path in sink.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _with(name, content):
    def change(sink):
        (sink / name).write_bytes(content)

    return change


def _edit_run(**fields):
    def change(sink):
        said = json.loads((sink / "run.json").read_bytes())
        (sink / "run.json").write_text(json.dumps(said | fields))

    return change


def _other_parquet(name):
    def change(sink):
        pq.write_table(pa.table({"x": [1, 2]}), sink / name)

    return change


def _nothing(sink):
    shutil.rmtree(sink)
    sink.mkdir()


def _file(sink):
    shutil.rmtree(sink)
    sink.write_bytes(b"a file")


def _photos(sink):
    _nothing(sink)
    (sink / "a.jpg").write_bytes(jpeg())


def _plan_of_others(sink):
    (sink / "plan.parquet").write_bytes(Plan.of([tar_shard("z")]).to_bytes())


SINKS = {
    "empty": _nothing,
    "a file": _file,
    "photos": _photos,
    "no run.json": _without("run.json"),
    "run.json cut": _with("run.json", b'{"fingerprint": "'),
    "run.json a list": _with("run.json", b"[1, 2]"),
    "run.json a number": _with("run.json", b"7"),
    "run.json binary": _with("run.json", bytes(range(256))),
    "run.json with an identity of nothing": _edit_run(identity=None),
    "run.json with an identity that is text": _edit_run(identity="x"),
    "run.json with a strange stage": _edit_run(identity={"stage": ["encode"]}),
    "run.json with strange facts": _edit_run(
        layout="x", codebook_size="many", kept=7, created=None
    ),
    "no plan": _without("plan.parquet"),
    "no first plan": _without_all("plans"),
    "no plan at all": _without_all("plan*"),
    "plan cut": _with("plan.parquet", b"PAR1"),
    "plan of other columns": _other_parquet("plan.parquet"),
    "plan of other shards": _plan_of_others,
    "_SUCCESS empty": _with("_SUCCESS", b""),
    "_SUCCESS a list": _with("_SUCCESS", b"[]"),
    "_SUCCESS of nothing": _with("_SUCCESS", b"{}"),
    "summary.json cut": _with("summary.json", b"{"),
    "summary.json a list": _with("summary.json", b"[]"),
    "evaluation.json a number": _with("evaluation.json", b"3"),
    "evaluation.json of nothing": _with("evaluation.json", b"{}"),
    "data object empty": _with("data/a.parquet", b""),
    "data object of other columns": _other_parquet("data/a.parquet"),
    "data object in no plan": _other_parquet("data/zz.parquet"),
    "data object missing": _without("data/a.parquet"),
    "rejected object empty": _with("rejected/a.parquet", b""),
}


def _encoded(place):
    writer = sinks.begin(place)
    for index in range(3):
        sinks.commit(writer, index, 6, rejected=(1,))
    sinks.end(writer)


MAKERS = {"encode": _encoded, "decode": sinks.decode, "evaluate": sinks.score}


@pytest.mark.parametrize("change", SINKS.values(), ids=SINKS.keys())
@pytest.mark.parametrize(
    "stage",
    ["encode", *(pytest.param(stage, marks=pytest.mark.soak) for stage in ("decode", "evaluate"))],
)
def test_main_any_command_on_any_sink_ends_in_words(tmp_path, stage, change, capsys):
    """Nobody meets a traceback, whatever a folder holds and whichever command it is given to."""
    sink = tmp_path / "sink"
    MAKERS[stage](sink)
    _encoded(tmp_path / "whole")
    change(sink)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(jpeg())
    elsewhere = ("--address", "127.0.0.1:1")  # no command gets as far as to work
    model = ("--model", shell.CHECKPOINT, "--pixel-range", "signed")
    asked = [
        ("inspect", sink),
        ("inspect", sink, "--json", "--exact"),
        ("inspect", sink, "--rejected"),
        ("verify", sink),
        ("diff", sink, tmp_path / "whole"),
        ("diff", tmp_path / "whole", sink, "--json"),
        ("encode", "--source", photos, "--sink", sink, *model, "--skip-doctor", *elsewhere),
        ("decode", "--source", sink, "--sink", tmp_path / "images", *elsewhere),
        ("evaluate", "--source", sink, *elsewhere),
    ]
    for arguments in asked:
        code = main(*arguments)
        said = capsys.readouterr().err
        assert "in vqpipe itself" not in said, arguments
        assert code in {0, 1, 2, 3, 4}, arguments
        assert (code == 0) == ("error: " not in said), arguments


def test_main_folder_of_photos_into_a_sink_of_tars_exits_3_and_names_the_fields(tmp_path, capsys):
    _encoded(tmp_path / "sink")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg())
    places = ("--source", tmp_path / "photos", "--sink", tmp_path / "sink")
    model = ("--model", shell.CHECKPOINT, "--pixel-range", "signed", "--skip-doctor")
    assert main("encode", *places, *model) == 3
    assert "format: the sink has 'webdataset', this command asks for 'folder'" in (
        capsys.readouterr().err
    )


def test_command_that_is_interrupted_while_it_starts_says_that_it_was_stopped():
    script = "from vqpipe.commands.command import run_to_end\nimport os, signal, time\n"
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup has it ignored\n"
    script += "run_to_end(lambda: [os.kill(os.getpid(), signal.SIGINT), time.sleep(60)])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: stopped by SIGINT")
    assert "Traceback" not in done.stderr
