"""What `vqpipe submit` sends and says, without a cluster; `tests.cluster` has one."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from ray._private.authentication.http_token_authentication import format_authentication_http_error

from tests.engine.dashboards import FakeDashboard, serve
from vqpipe.commands.submit import describe_entry
from vqpipe.engine import submission
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.job import Request
from vqpipe.engine.token import describe_refusal

ROOT = Path(__file__).parents[2]
VERSION = metadata.version("vqpipe")

SUPERVISOR = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1], shell=True))"
RAYLET = "import subprocess, sys; sys.exit(subprocess.call([*sys.argv[1:4], *sys.argv[4:5]]))"


def run_as_job(entry, python, path=None, cwd="/"):
    """Runs a shell text as Ray runs a job's: below a worker below the raylet, without its PATH."""
    worker = (sys.executable, "-c", SUPERVISOR, entry)
    raylet = (sys.executable, "-c", RAYLET, *worker)
    told = (f"--python_worker_command={python} /ray/setup_worker.py --x=y",) if python else ()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [*raylet, *told],
        env=env | {"PATH": path or "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "pipeline")},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def interpreter(tmp_path):
    """A Python that is on nobody's PATH and says when it is used."""
    script = tmp_path / "env" / "python"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho used >&2\nexec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    return script


def test_describe_entry_runs_the_command_in_the_python_of_the_clusters_workers(interpreter):
    entry = describe_entry("encode", ("--source", "a b", "--help"), VERSION)
    done = run_as_job(entry, interpreter)
    assert done.returncode == 0, done.stderr
    assert "used" in done.stderr
    assert "--sink" in done.stdout


@pytest.mark.parametrize("name", ["vqpipe", "importlib", "tyro", "numpy"])
def test_describe_entry_in_a_folder_with_modules_of_our_names_runs_ours(
    interpreter, tmp_path, name
):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')\n")
    entry = describe_entry("encode", ("--help",), VERSION)
    done = run_as_job(entry, interpreter, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--sink" in done.stdout


def test_describe_entry_passes_arguments_and_exit_code_on_as_they_are(interpreter, tmp_path):
    odd = str(tmp_path / 'it\'s $HOME; `no` "such"')
    entry = describe_entry("encode", ("--source", odd, "--sink", "s", "--model", odd), VERSION)
    done = run_as_job(entry, interpreter)
    assert done.returncode == 4
    assert odd in done.stderr.replace("\n", "")


def test_describe_entry_where_the_raylet_tells_nothing_takes_the_python_of_the_path(interpreter):
    entry = describe_entry("encode", ("--help",), "0.0.1")
    done = run_as_job(entry, None, path=f"{interpreter.parent}:/usr/bin:/bin")
    assert (done.returncode, "used" in done.stderr) == (4, True), done.stderr


def test_describe_entry_other_version_on_the_cluster_ends_with_4_and_both(interpreter):
    done = run_as_job(describe_entry("encode", ("--help",), "0.0.1"), interpreter)
    assert done.returncode == 4
    assert "0.0.1" in done.stderr
    assert VERSION in done.stderr


def test_describe_entry_without_vqpipe_on_the_cluster_ends_with_4_and_the_fix(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S "$@"\n')
    bare.chmod(0o755)
    done = run_as_job(describe_entry("encode", ("--help",), VERSION), bare)
    assert done.returncode == 4
    assert "no vqpipe" in done.stderr
    assert f"vqpipe {VERSION}" in done.stderr


def test_describe_entry_stopped_while_it_is_imported_ends_with_2_and_says_so(interpreter, tmp_path):
    slow = "import time\nprint('here', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "tyro.py").write_text(slow)
    places = f"{tmp_path}:{ROOT / 'pipeline'}"
    process = subprocess.Popen(
        ["sh", "-c", describe_entry("encode", ("--help",), VERSION)],
        env=os.environ | {"PATH": f"{interpreter.parent}:/usr/bin:/bin", "PYTHONPATH": places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2, said
    assert "stopped by SIGTERM; everything committed is safe" in said


REQUEST = Request("encode", "--source a --sink b", "b", "0123456789abcdef")


@pytest.fixture
def fake(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(submission, "_AGAIN_S", 0.001)
    with serve(FakeDashboard()) as dashboard:
        yield dashboard


def submit(fake, request=REQUEST, *, anew=False):
    dashboard = Dashboard(fake.url)
    return submission.submit(dashboard, "true", request, anew=anew, patience_s=60)


def test_submit_same_command_while_it_runs_starts_no_other(fake):
    assert submit(fake) == ("vqpipe-encode-01234567-1", False)
    assert submit(fake) == ("vqpipe-encode-01234567-1", True)
    assert submit(fake, replace(REQUEST, same="f" * 16)) == ("vqpipe-encode-ffffffff-1", False)
    assert submit(fake, anew=True) == ("vqpipe-encode-01234567-2", False)
    assert submit(fake) == ("vqpipe-encode-01234567-2", True)
    fake.status = "STOPPED"
    assert submit(fake) == ("vqpipe-encode-01234567-3", False)
    assert len(fake.started) == 4


@pytest.mark.parametrize("lost", [1, 2])
def test_submit_answers_that_are_lost_start_one_job(fake, lost):
    fake.loses = lost
    assert submit(fake) == ("vqpipe-encode-01234567-1", False)
    assert len(fake.started) == 1


def test_submit_gives_the_command_time_to_add_up_when_it_is_stopped(fake):
    submit(fake)
    (asked,) = fake.started.values()
    assert int(asked["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert asked["metadata"] == REQUEST.metadata()


def test_submit_two_at_once_are_one_job(fake):
    """Both look before either starts: Ray refuses the second, who then takes the first's."""
    dashboard = Dashboard(fake.url)
    first = dashboard.find_jobs
    dashboard.find_jobs = lambda: (first(), submit(fake), setattr(dashboard, "find_jobs", first))[0]
    found = submission.submit(dashboard, "true", REQUEST, anew=False, patience_s=60)
    assert found == ("vqpipe-encode-01234567-1", True)
    assert len(fake.started) == 1


@pytest.fixture
def tokenless(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


MISSING = format_authentication_http_error(401, "Unauthorized: Missing authentication token")
WRONG = format_authentication_http_error(403, "Forbidden: Invalid authentication token")


@pytest.mark.usefixtures("tokenless")
def test_describe_refusal_no_token_here_says_where_to_find_it():
    said = describe_refusal("http://head:8265", MISSING)
    assert "this machine has none" in said
    assert "RAY_AUTH_MODE=token" in said
    assert "RAY_AUTH_TOKEN_PATH" in said


def test_describe_refusal_token_that_is_not_sent_names_the_switch(tokenless, monkeypatch):
    (tokenless / ".ray").mkdir()
    (tokenless / ".ray" / "auth_token").write_text("secret")
    said = describe_refusal("http://head:8265", MISSING)
    assert "RAY_AUTH_MODE=token" in said
    assert "~/.ray/auth_token" in said
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "from RAY_AUTH_TOKEN," in describe_refusal("http://head:8265", MISSING)


def test_describe_refusal_wrong_token_says_where_it_came_from(tokenless, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tokenless / "token"))
    said = describe_refusal("http://head:8265", WRONG)
    assert "does not accept" in said
    assert "comes from RAY_AUTH_TOKEN_PATH" in said


def test_submit_without_the_token_that_was_announced_names_the_file(tokenless):
    """Ray finds it before it asks anybody; its mode is read once a process."""
    script = "from vqpipe.engine.dashboard import Dashboard; Dashboard('http://127.0.0.1:1')"
    missing = str(tokenless / "no-such-token")
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": missing}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigError" in last
    assert missing in last
    assert "unset RAY_AUTH_MODE" in last
