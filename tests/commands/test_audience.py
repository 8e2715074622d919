"""What `--progress-file` and `on_progress` are told; no Ray is started."""

import contextlib
import json
import logging
import os
import re
import sys
import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jsonschema
import pytest

import vqpipe
from tests import plain, shell
from tests.makers import jpeg, tar_of
from vqpipe.bottleneck import PARTS
from vqpipe.commands import audience, cli
from vqpipe.commands.audience import told
from vqpipe.commands.progress import Progress
from vqpipe.commands.result import Result
from vqpipe.errors import IncompleteError, NoProgressError, stopped_by

NUMBER, COUNT = {"type": ["number", "null"]}, {"type": "integer", "minimum": 0}
MEASURES = {
    "elapsed_s": {"type": "number"},
    "start_up_s": NUMBER,
    "eta_s": NUMBER,
    "shards_done": COUNT,
    "shards_total": COUNT,
    "shards_before": COUNT,
    "images_done": COUNT,
    "images_safe": COUNT,
    "images_total": {"type": ["integer", "null"]},
    "images_per_second": {"type": "number"},
    "images_left_out": COUNT,
    "images_rejected": COUNT,
    "rejected": {"type": "object", "additionalProperties": COUNT},
    "devices": {"type": "array", "items": {"type": "string"}},
    "busy": {"type": ["object", "null"], "additionalProperties": {"type": "number", "maximum": 1}},
    "bound": {"enum": [*PARTS, None]},
}
TEXT = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"},
        "event": {"enum": ["began", "ready", "committed", "running", "ended"]},
        "stage": {"enum": ["encode", "decode", "evaluate", "compact"]},
        "sink": TEXT,
        "fingerprint": TEXT,
        **MEASURES,
        "exit_code": {"type": "integer"},
        "error": TEXT,
        "totals": {"type": ["object", "null"]},
    },
    "required": ["time", "event", "stage", "sink", "fingerprint"],
}


def check(records):
    """Holds records against what README says of them."""
    for record in records:
        jsonschema.validate(record, SCHEMA)
        if record["sink"] is not None:
            assert record.keys() >= MEASURES.keys()
        assert ("exit_code" in record) == (record["event"] == "ended")
    return records


def read(path):
    return check([json.loads(line) for line in Path(path).read_text().splitlines()])


@pytest.fixture
def places(tmp_path):
    (tmp_path / "source").mkdir()
    members = {f"{i}.jpg": jpeg(40, 40, seed=i) for i in range(3)} | {"bad.jpg": b"none"}
    (tmp_path / "source" / "0.tar").write_bytes(tar_of(members))
    where = {"source": str(tmp_path / "source"), "sink": str(tmp_path / "codes")}
    options = {"resolution": 32, "pixel_range": "signed", "skip_doctor": True, "max_rejected": 0.9}
    return where | {"model": str(shell.CHECKPOINT)} | options


def test_encode_progress_file_has_a_beginning_and_an_end_and_is_appended_to(places, tmp_path):
    file = tmp_path / "progress.jsonl"
    with plain.without_ray():
        first = vqpipe.encode(**places, progress_file=str(file))
        again = vqpipe.encode(**places, progress_file=str(file))
    records = read(file)
    assert [each["event"] for each in records] == ["began", "ended"] * 2
    assert {each["fingerprint"] for each in records} == {first.fingerprint}
    assert records[1]["totals"] == json.loads(json.dumps(first.totals))
    assert records[1]["totals"]["rejected"] == 1
    assert (records[1]["exit_code"], records[1]["error"]) == (0, None)
    assert again.exit_code == 0
    assert [each["shards_before"] for each in records] == [0, 0, 1, 1]
    assert datetime.fromisoformat(records[0]["time"]).utcoffset().total_seconds() == 0


def test_encode_on_progress_gets_what_the_file_has(places, tmp_path):
    records, file = [], tmp_path / "progress.jsonl"
    with plain.without_ray():
        vqpipe.encode(**places, progress_file=str(file), on_progress=records.append)
    assert json.loads(json.dumps(records)) == read(file)


def test_encode_that_is_refused_is_told_with_its_exit_code(places, tmp_path):
    file = tmp_path / "progress.jsonl"
    words = [f"--{name.replace('_', '-')}={places[name]}" for name in ("source", "sink")]
    words += [f"--model={tmp_path / 'no-model'}", f"--progress-file={file}"]
    assert cli.main(["encode", *words]) == 4
    (ended,) = read(file)
    assert (ended["event"], ended["exit_code"], ended["sink"]) == ("ended", 4, None)
    assert "no-model" in ended["error"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("-", "/dev/stdout"),
        ("", "give a file"),
        ("s3://bucket/progress.jsonl", "nothing can be appended"),
        ("no/such/folder/file", "No such file or directory"),
    ],
)
def test_progress_file_that_is_none_is_a_config_error(places, path, said, capsys):
    words = [f"--{name}={places[name]}" for name in ("source", "sink", "model")]
    assert cli.main(["encode", *words, f"--progress-file={path}"]) == 4
    assert said in capsys.readouterr().err
    assert not Path(places["sink"]).exists()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(audience, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def started(present, **counts):
    progress = Progress(shards_total=9, bytes_total=100, **counts)
    present.begin("s3://bucket/codes", "0123", progress)
    return progress


def test_look_tells_of_events_at_once_and_of_the_rest_every_few_seconds(clock):
    records = []
    with told("encode", None, records.append) as present:
        progress = started(present)
        for tenth in range(300):
            clock.now += 0.1
            if tenth == 50:
                progress.devices = ("cpu",)
            if 100 <= tenth < 150:
                progress.commit(tenth // 10)
            present.look()
    check(records)
    count = Counter(each["event"] for each in records)
    assert (count["began"], count["ready"], count["committed"], count["ended"]) == (1, 1, 5, 0)
    assert 3 <= count["running"] <= 5
    shards = [each["shards_done"] for each in records]
    assert shards == sorted(shards)
    assert shards[-1] == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoProgressError("nothing moved"), 5),
        (stopped_by(15), 2),
        (KeyboardInterrupt(), 2),
        (ZeroDivisionError(), 1),
    ],
)
def test_told_command_that_an_error_ends_is_told_and_the_error_flies(error, code):
    records = []

    def fail():
        with told("encode", None, records.append) as present:
            started(present)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (records[-1]["event"], records[-1]["exit_code"]) == ("ended", code)
    check(records)


def test_audience_outside_a_command_is_nobody(clock):
    started(audience.audience())
    clock.now += 100
    audience.audience().look()


def test_hook_that_raises_is_called_again_and_said_once(clock, caplog):
    records = []

    def hook(record):
        records.append(record)
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR), told("encode", None, hook) as present:
        started(present)
        for _ in range(3):
            clock.now += 10
            present.look()
    assert len(records) == 4
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


def test_hook_that_a_signal_comes_into_lets_the_stop_fly():
    def hook(_):
        raise stopped_by(15)

    def stop():
        with told("encode", None, hook) as present:
            started(present)

    with pytest.raises(IncompleteError):
        stop()


def test_hook_that_is_none_is_a_type_error(places):
    with pytest.raises(TypeError, match="on_progress"):
        vqpipe.encode(**places, on_progress="print")


def test_file_on_a_full_disk_is_said_once_and_stops_nothing(clock, capsys):
    with told("encode", "/dev/full", None) as present:
        started(present)
        for _ in range(3):
            clock.now += 10
            present.look()
        present.end(Result("s3://bucket/codes", "0123", {}))
    said = capsys.readouterr().err
    assert said.count("/dev/full") == 1
    assert "the run goes on" in said


def test_file_that_is_a_pipe_whose_reader_comes_late_and_leaves_stops_nothing(clock, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with told("encode", str(pipe), None) as present:
        started(present)  # nobody reads
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        clock.now += 10
        present.look()
        (record,) = check([json.loads(os.read(reader, 100_000))])
        assert record["event"] == "running"
        os.close(reader)
        for _ in range(3):
            clock.now += 10
            present.look()


def test_file_that_is_a_pipe_whose_reader_is_slow_leaves_lines_out(clock, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with told("encode", str(pipe), None) as present:
        started(present)
        for _ in range(1000):  # more than a pipe holds
            clock.now += 10
            present.look()
        found = b"".join(iter(lambda: _read(reader), b""))
        lines = [json.loads(line) for line in found.splitlines() if line.endswith(b"}")]
        assert len(lines) < 1000
        check(lines)
        clock.now += 10
        present.look()
        assert json.loads(_read(reader).splitlines()[-1])["event"] == "running"
    os.close(reader)


def _read(reader):
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def test_told_two_commands_in_two_threads_hear_of_their_own(places, tmp_path):
    heard = [[], []]

    def work(number):
        sink = str(tmp_path / f"codes-{number}")
        vqpipe.encode(**places | {"sink": sink}, on_progress=heard[number].append)

    with plain.without_ray():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sinks = [{Path(each["sink"]).name for each in records} for records in heard]
    assert sinks == [{"codes-0"}, {"codes-1"}]


class Tracker(ModuleType):
    """Stands in for wandb and mlflow: takes what their functions of that name take."""

    def __init__(self, name):
        super().__init__(name)
        self.taken = []
        self.is_over = False

    def init(self, *, project):
        assert project

    def log(self, data):
        assert all(isinstance(name, str) for name in data)
        self.taken.append(data)

    def finish(self):
        self.is_over = True

    @contextlib.contextmanager
    def start_run(self, *, run_name):
        yield run_name
        self.finish()

    def log_metrics(self, metrics, step):
        assert isinstance(step, int)
        assert all(isinstance(each, float | int) for each in metrics.values())
        self.taken.append(metrics)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_readme_snippet_for_a_tracker_logs_how_far_it_is(places, tmp_path, monkeypatch, name):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (snippet,) = re.findall(rf"^```\n((?:(?!```).)*^import {name}\n.*?)^```", readme, re.M | re.S)
    monkeypatch.setitem(sys.modules, name, tracker := Tracker(name))
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(places["source"])
    Path("vqgan").symlink_to(places["model"])
    with plain.without_ray():
        exec(snippet, {})
    assert tracker.is_over
    assert [each["shards_total"] for each in tracker.taken] == [1, 1]
    assert tracker.taken[-1]["exit_code"] == 2  # a quarter is rejected
