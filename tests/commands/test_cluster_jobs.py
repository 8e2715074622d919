"""vqpipe jobs, logs, stop and submit at a dashboard that answers as Ray's does; no Ray is started.

`tests.cluster` has a real one.
"""

import json

import pytest

from tests.engine.dashboards import FakeDashboard, serve
from tests.storage.ports import free_port
from vqpipe.commands import cli
from vqpipe.engine.job import Request


@pytest.fixture
def fake(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    with serve(FakeDashboard()) as dashboard:
        yield dashboard


def start(fake, name, sink="s3://bucket/codes"):
    request = Request("encode", f"--sink {sink}", sink, "0123")
    fake.started[name] = {"metadata": request.metadata()}


def asked(*words):
    """Returns the job that a command line asks to submit."""
    return cli.parse(["submit", *words])


PLACES = ("--source", "a", "--sink", "b", "--model", "c")


def test_submit_order_of_options_does_not_make_another_command():
    one = asked("encode", "--address", "x", "--", *PLACES, "--resolution", "64")
    other = asked("encode", "--", "--resolution=64", *reversed(_pairs(PLACES)))
    assert one.same == other.same
    assert (one.sink, other.sink) == ("b", "b")
    assert one.same != asked("encode", "--", *PLACES).same
    assert one.same != asked("decode", "--", "--source", "a", "--sink", "b").same


def test_submit_plan_measures_there_and_has_no_sink():
    words = ("--source", "a", "--model", "c", "--for-gpus", "8", "64")
    job = asked("plan", "--address", "x", "--", *words)
    assert (job.command, job.arguments, job.sink) == ("plan", words, "")
    with_sink = asked("plan", "--", *words, "--sink", "b")
    assert with_sink.sink == "", "it writes none, so that nobody is warned of it"
    assert with_sink.same != job.same


def _pairs(words):
    return [f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]


def test_submit_definition_on_the_cluster_is_part_of_the_command():
    one, other = (asked("encode", "--", "--job", name) for name in ("one.yaml", "two.yaml"))
    assert one.same != other.same
    assert one.sink == ""
    assert asked("evaluate", "--", "--source", "s3://bucket/codes").sink == "s3://bucket/codes"


def test_jobs_table_has_one_line_a_job_and_escapes_what_comes_from_elsewhere(fake, capsys):
    start(fake, "vqpipe-encode-1", sink="evil\x1b[2J\nsink")
    fake.status, fake.exit_code = "FAILED", 3
    assert cli.main(["jobs", "--address", fake.url]) == 0
    title, line = capsys.readouterr().out.splitlines()  # not that which is none of ours
    assert title.split()[:4] == ["job", "command", "state", "exit"]
    assert line.split()[:4] == ["vqpipe-encode-1", "encode", "failed", "3"]
    assert line.endswith("evil\\x1b[2J\\nsink")


def test_jobs_json_has_what_is_known_of_each(fake, capsys):
    start(fake, "vqpipe-encode-1")
    assert cli.main(["jobs", "--address", fake.url, "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert job["started"] == "1970-01-01T00:16:40.000+00:00"
    assert job["ended"] is job["exit_code"] is None
    assert (job["state"], job["arguments"]) == ("running", "--sink s3://bucket/codes")


def test_logs_without_a_name_takes_the_only_one_at_work(fake, capsys):
    assert cli.main(["logs", "--address", fake.url]) == 4
    assert "It has had none" in capsys.readouterr().err
    start(fake, "job")
    fake.log = "a line\x1b[31m\n"
    assert cli.main(["logs", "--address", fake.url, "--no-follow"]) == 0
    assert capsys.readouterr().out == "a line\\x1b[31m\n"
    start(fake, "vqpipe-encode-2")
    assert cli.main(["stop", "--address", fake.url]) == 4
    assert "2 jobs are at work" in capsys.readouterr().err


def test_logs_unknown_name_names_those_that_there_are(fake, capsys):
    start(fake, "vqpipe-encode-1")
    assert cli.main(["logs", "no-such", "--address", fake.url]) == 4
    assert "vqpipe-encode-1 (running)" in capsys.readouterr().err


@pytest.mark.parametrize("exit_code", [0, 3])
def test_logs_of_a_job_that_is_over_ends_with_its_exit_code(fake, capsys, exit_code):
    fake.log, fake.status, fake.exit_code = "all of it\n", "FAILED", exit_code
    assert cli.main(["logs", "job", "--address", fake.url]) == exit_code
    assert capsys.readouterr().out == "all of it\n"


def test_stop_of_a_job_that_is_over_says_how_it_has_ended(fake, capsys):
    fake.status, fake.exit_code = "FAILED", 3
    assert cli.main(["stop", "job", "--address", fake.url]) == 0
    assert "was over" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["jobs", "logs", "stop"])
def test_commands_without_a_dashboard_are_a_config_error_with_advice(command, capsys):
    assert cli.main([command, "--address", f"http://127.0.0.1:{free_port()}"]) == 4
    assert "http://head:8265" in capsys.readouterr().err


def test_logs_patience_below_nothing_is_refused(capsys):
    assert cli.main(["logs", "--reconnect-s", "-1"]) == 4
    assert "--reconnect-s is -1" in capsys.readouterr().err
