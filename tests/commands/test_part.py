"""A run in parts, each a command that knows nothing of the others; without Ray, in plain loops."""

import json
import os
import subprocess
import sys

import duckdb
import numpy as np
import pytest

from tests import plain, shell
from tests.makers import jpeg, tar_of
from vqpipe.commands.part import Part, parse_part
from vqpipe.commands.stage_jobs import Decode, Encode
from vqpipe.errors import ConfigError
from vqpipe.schema import File, Shard
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan

SHARDS, IMAGES = 7, 3


def plan_of(count, first=0):
    return Plan.of(
        Shard(f"{name:05d}", "webdataset", (File(f"/s/{name:05d}.tar", 1, "v"),))
        for name in range(first, first + count)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for shard in range(SHARDS):
        add_shard(folder, shard)
    return folder


def add_shard(folder, shard):
    members = {f"{shard}-{i}.jpg": jpeg(50, 40, seed=10 * shard + i) for i in range(IMAGES)}
    (folder / f"{shard:05d}.tar").write_bytes(tar_of(members))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    sink = tmp_path_factory.mktemp("whole") / "codes"
    plain.encode(source, sink)
    return sink


def command(source, sink, *options):
    places = ("--source", source, "--sink", sink, "--model", shell.CHECKPOINT)
    return ["encode", *places, "--resolution", 64, *options]


def part(source, sink, which, *options):
    """Does a part in this process; returns its exit code."""
    (code,) = plain.run([command(source, sink, "--part", which, *options)])
    return code


def start(source, sink, which):
    """Starts a part in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.plain"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    words = command(source, sink, "--part", which, "--skip-doctor", "--pixel-range", "signed")
    json.dump([list(map(str, words))], process.stdin)
    process.stdin.close()
    process.stdin = None  # else `communicate` would flush it
    return process


def committed(sink):
    return sorted(path.stem for path in sink.glob("data/*.parquet"))


def fingerprint(sink):
    return json.loads((sink / "run.json").read_text())["fingerprint"]


@pytest.mark.parametrize(("shards", "count"), [(1, 1), (1, 4), (7, 3), (100, 7), (1000, 64)])
def test_parts_hold_each_shard_once_and_equally_many(shards, count):
    plan = plan_of(shards)
    parts = [Part(index, count).places(plan) for index in range(count)]
    assert sorted(place for each in parts for place in each) == list(range(shards))
    sizes = [len(each) for each in parts]
    assert max(sizes) - min(sizes) <= 1


def test_parts_are_no_neighbours_in_the_plan():
    places = Part(0, 2).places(plan_of(1000))
    pairs = np.count_nonzero(np.diff(places) == 1)
    assert 190 < pairs < 310  # 250 if every other one is as likely as not; deviation 16


def test_part_of_a_plan_that_grows_keeps_its_shards():
    small, large = plan_of(50, first=100), plan_of(100, first=0)
    grown = small.grow(Plan.of([*large.shards(), *small.shards()]), Growth(extend=True), "sink")
    assert len(grown) == 150
    for index in range(3):
        before = {small.names[place] for place in Part(index, 3).places(small)}
        after = {grown.names[place] for place in Part(index, 3).places(grown)}
        assert before <= after


@pytest.mark.parametrize("text", ["", "3", "0/0", "4/4", "-1/4", "1/-4", "a/b", "1/2/3", "0.5/2"])
def test_part_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"--part .* 0/8, the first of eight"):
        parse_part(text)
    with pytest.raises(ValueError, match="--part"):
        Decode(source="a", sink="b", part=text)


def test_part_with_retry_rejected_is_refused():
    with pytest.raises(ConfigError, match="leave --part out"):
        Encode(source="a", sink="b", model="c", part="0/2", retry_rejected=True)


def test_parts_one_after_the_other_end_as_a_whole_run_does(source, whole, tmp_path, capfd):
    sink, seen = tmp_path / "codes", []
    for index in (2, 0, 1):
        assert not (sink / "_SUCCESS").exists()
        assert part(source, sink, f"{index}/3") == 0
        seen.append(capfd.readouterr().out)
    assert (sink / "_SUCCESS").read_bytes() == (whole / "_SUCCESS").read_bytes()
    assert shell.codes_by_key(sink) == shell.codes_by_key(whole)
    assert fingerprint(sink) == fingerprint(whole)
    assert "2/3: 2 of 2 shard(s) committed" in seen[0]
    assert "5 shard(s) of other parts are not committed yet" in seen[0]
    assert "7 of 7 committed" in " ".join(seen[2].split())


def test_part_run_again_does_nothing_and_leaves_the_others_to_do(source, tmp_path, capfd):
    sink = tmp_path / "codes"
    assert part(source, sink, "0/3") == 0
    before = {path: path.stat().st_mtime_ns for path in sink.glob("data/*")}
    assert part(source, sink, "0/3") == 0
    assert {path: path.stat().st_mtime_ns for path in sink.glob("data/*")} == before
    assert "nothing was left to do" in capfd.readouterr().out


def test_parts_of_other_numbers_on_one_sink_complete_it(source, whole, tmp_path):
    sink = tmp_path / "codes"
    for which in ("1/2", "0/5", "4/5", "2/9", "0/2"):
        assert part(source, sink, which) == 0
    assert (sink / "_SUCCESS").exists()
    assert shell.codes_by_key(sink) == shell.codes_by_key(whole)


def test_part_without_a_shard_ends_well(source, tmp_path):
    assert part(source, tmp_path / "codes", f"0/{SHARDS * 3}") == 0
    empty = next(i for i in range(SHARDS * 3) if i >= SHARDS)
    assert part(source, tmp_path / "codes", f"{empty}/{SHARDS * 3}") == 0
    assert len(committed(tmp_path / "codes")) == 1


@pytest.fixture
def growing(tmp_path):
    folder = tmp_path / "growing"
    folder.mkdir()
    for shard in range(3):
        add_shard(folder, shard)
    return folder


def test_parts_share_the_plan_of_the_first_whatever_the_source_gains(growing, tmp_path):
    sink = tmp_path / "codes"
    assert part(growing, sink, "0/2") == 0
    add_shard(growing, 3)
    assert part(growing, sink, "1/2") == 0
    assert (sink / "_SUCCESS").exists()
    assert committed(sink) == ["00000", "00001", "00002"]


def test_parts_told_to_extend_take_in_what_the_source_gained(growing, tmp_path):
    sink = tmp_path / "codes"
    assert part(growing, sink, "0/2") == 0
    add_shard(growing, 3)
    for index in (0, 1):
        assert part(growing, sink, f"{index}/2", "--extend") == 0
    assert (sink / "_SUCCESS").exists()
    assert committed(sink) == ["00000", "00001", "00002", "00003"]


def test_part_whose_shard_has_changed_since_the_plan_is_refused_by_name(growing, tmp_path, capfd):
    sink = tmp_path / "codes"
    assert part(growing, sink, "0/2") == 0
    (left,) = {path.stem for path in growing.glob("*.tar")} - set(committed(sink))
    (growing / f"{left}.tar").write_bytes(tar_of({"other.jpg": jpeg(60, 60)}))
    assert part(growing, sink, "1/2") == 3
    assert f"{left}.tar" in capfd.readouterr().err


def test_parts_of_decode_end_as_a_whole_one_does(whole, tmp_path):
    plain.decode(whole, tmp_path / "whole")
    for index in (1, 0):
        assert not (tmp_path / "parts" / "_SUCCESS").exists()
        words = ["--source", whole, "--sink", tmp_path / "parts", "--format", "png"]
        assert plain.run([["decode", *words, "--part", f"{index}/2"]]) == [0]
    totals = (tmp_path / "parts" / "_SUCCESS").read_bytes()
    assert totals == (tmp_path / "whole" / "_SUCCESS").read_bytes()


@pytest.mark.slow
def test_parts_that_start_at_once_and_are_killed_are_done_by_running_them_again(
    source, whole, tmp_path
):
    sink = tmp_path / "codes"
    processes = [start(source, sink, which) for which in ("0/2", "1/2", "0/2")]
    shell.await_commit(processes[1], sink)
    processes[1].kill()
    said = [process.communicate(timeout=240)[0] for process in processes]
    for process, printed in zip(processes, said, strict=True):
        assert process is processes[1] or printed.endswith("[0]"), printed
    finished = start(source, sink, "1/2").communicate(timeout=240)[0]
    assert finished.endswith("[0]"), finished
    assert (sink / "_SUCCESS").read_bytes() == (whole / "_SUCCESS").read_bytes()
    assert shell.codes_by_key(sink) == shell.codes_by_key(whole)
    count = duckdb.sql(f"SELECT count(*), count(DISTINCT key) FROM '{sink}/data/*.parquet'")
    assert count.fetchall() == [(SHARDS * IMAGES, SHARDS * IMAGES)]
