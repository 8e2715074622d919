"""`vqpipe compact` on Ray; truth is what one process makes, and what DuckDB finds."""

import contextlib
import re
import shutil
import signal

import psutil
import pytest

from tests import shell
from tests.commands.test_compact import content, files_of, make, run, same_rows
from tests.faults.killer import descendants
from vqpipe.commands import cli

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHARDS, ROWS = 40, 10
WORKERS = r"ray::.*(place|write_runs|write_partition|[Ss]huffle)"
"""Processes of Ray that have a part in it."""
in_either_order = pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.soak, id="in order"),
        pytest.param(("--shuffle", 3), id="shuffled"),
    ],
)


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """A sink of 400 samples, of which each has two views."""
    sink = tmp_path_factory.mktemp("source") / "codes"
    counts = {f"s{i:02d}": ROWS for i in range(SHARDS)}
    make(sink, counts, {"s07": (0, 9), "s39": tuple(range(ROWS))}, count=2)
    return sink


def start(codes, sink, *options):
    return shell.start("compact", codes, sink, "--rows-per-file", 6, *options)


@in_either_order
def test_compact_whose_driver_is_killed_and_run_again_is_as_if_it_had_not_been(
    codes, tmp_path, options
):
    assert run(codes, tmp_path / "whole", 6, *options) == 0
    killed = start(codes, tmp_path / "flat", *options)
    shell.await_commit(killed, tmp_path / "flat")
    killed.kill()
    killed.communicate()
    there = {file.name: file.stat().st_mtime_ns for file in files_of(tmp_path / "flat")}
    printed = shell.finish(start(codes, tmp_path / "flat", *options))
    assert re.search(r"compacted +388, in 776 rows", printed)
    assert content(tmp_path / "flat") == content(tmp_path / "whole")
    for name, moment in there.items():
        assert (tmp_path / "flat" / "data" / name).stat().st_mtime_ns == moment
    assert same_rows(codes, tmp_path / "flat") == 776
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0


def kill_first(process, pattern):
    """Kills a worker as soon as there is one; returns what it was."""
    find = descendants(process.pid)
    while process.poll() is None:
        for each in find():
            with contextlib.suppress(psutil.Error):
                name = " ".join(each.cmdline())
                if re.match(pattern, name):
                    each.send_signal(signal.SIGKILL)
                    return name
    raise AssertionError(process.communicate())


@pytest.mark.soak
@in_either_order
def test_compact_whose_worker_is_killed_ends_well_by_itself(codes, tmp_path, options):
    assert run(codes, tmp_path / "whole", 6, *options) == 0
    process = start(codes, tmp_path / "flat", *options)
    print(kill_first(process, WORKERS))
    shell.finish(process)
    assert content(tmp_path / "flat") == content(tmp_path / "whole")


@pytest.mark.soak
def test_compact_that_is_told_to_stop_says_how_far_it_is(codes, tmp_path):
    process = start(codes, tmp_path / "flat")
    shell.await_commit(process, tmp_path / "flat")
    process.send_signal(signal.SIGTERM)
    printed = shell.finish(process, expect=2)
    assert "stopped by SIGTERM" in printed
    assert re.search(r"shards +\d+ of 130 committed", printed)


@pytest.mark.soak
def test_compact_of_an_object_that_is_damaged_says_which_and_commits_the_rest_later(
    codes, tmp_path
):
    shutil.copytree(codes, tmp_path / "codes")
    path = tmp_path / "codes" / "data" / "s20.parquet"
    sound = path.read_bytes()
    path.write_bytes(sound[:200] + bytes([sound[200] ^ 1]) + sound[201:])
    process = start(tmp_path / "codes", tmp_path / "flat", "--shuffle", 3)
    printed = " ".join(shell.finish(process, expect=4).split())
    assert f"{path} is damaged" in printed
    assert not files_of(tmp_path / "flat")
    path.write_bytes(sound)
    assert run(tmp_path / "codes", tmp_path / "flat", 6, "--shuffle", 3) == 0
    assert same_rows(codes, tmp_path / "flat") == 776
