"""Whole runs in which the codec, the reader or the machine fails."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import shell
from tests.endtoend import failing
from tests.endtoend.test_encode import reference_codes
from tests.makers import jpeg, tar_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SIDE = 64


def run(codec, source, sink, *options, expect=0, site=None):
    """Runs `vqpipe encode` with a codec of `tests.endtoend.failing`; returns what it printed."""
    path = os.pathsep.join(map(str, filter(None, (site, os.getcwd()))))
    places = ("--source", source, "--sink", sink, "--model", shell.CHECKPOINT)
    how = ("--resolution", SIDE, "--skip-doctor", "--pixel-range", "signed", *options)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.endtoend.failing",
            codec,
            "encode",
            *map(str, (*places, *how)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": path},
    )
    try:
        printed, _ = process.communicate(timeout=280)
    finally:
        process.kill()
    assert process.returncode == expect, printed
    return printed


def photos(*names, first_seed=0):
    return {name: jpeg(70, 64, seed=first_seed + i) for i, name in enumerate(names)}


def check_rows(sink, good, bad):
    """Checks all codes by diffusers, and rejections by key or, where there is none, shard's row."""
    assert shell.codes_by_key(sink) == reference_codes(
        {name.rpartition(".")[0]: data for name, data in good.items()}, SIDE
    )
    found = shell.rows(sink, "rejected")
    assert {(row["key"], row["row"]): row["reason"] for row in found} == bad
    assert all(row["message"] and "\n" not in row["message"] for row in found)
    return {row["key"]: row["message"] for row in found}


@pytest.mark.soak
def test_encode_image_that_the_codec_cannot_and_shards_that_the_reader_cannot(tmp_path):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    site = failing.write_site(tmp_path / "site")
    red = {"red.png": failing.plain(failing.RAISES)}
    first = {**photos("a0.jpg", "a1.jpg"), **red, **photos("a3.jpg", first_seed=3)}
    (source / "a.tar").write_bytes(tar_of(first))
    names = ("b0.jpg", "b1.jpg", "kills.jpg", "b3.jpg")
    (source / "b.tar").write_bytes(tar_of(photos(*names, first_seed=10)))
    names = ("c0.jpg", "raises.jpg", "c2.jpg")
    (source / "c.tar").write_bytes(tar_of(photos(*names, first_seed=20)))
    allow = "--allow-damaged-shards"
    run("Poisoned", source, sink, "--max-rejected", 3, allow, site=site)
    before = photos("b0.jpg", "b1.jpg", first_seed=10) | photos("c0.jpg", first_seed=20)
    good = {name: data for name, data in first.items() if name not in red} | before
    reasons = {("red", 2): "codec_failed", (None, 2): "shard_damaged", (None, 1): "shard_damaged"}
    messages = check_rows(sink, good, reasons)
    assert "no code for red" in messages["red"]
    damage = {r["row"]: r["message"] for r in shell.rows(sink, "rejected") if r["key"] is None}
    assert "SIGSEGV" in damage[2]
    assert "LookupError" in damage[1]
    assert (sink / "_SUCCESS").exists()


@pytest.mark.soak
def test_encode_image_that_kills_the_codec_costs_itself_alone(tmp_path):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    good = photos(*(f"{i}.jpg" for i in range(6)))
    green = {"green.png": failing.plain(failing.KILLS)}
    (source / "a.tar").write_bytes(tar_of({**good, **green}))
    run("Poisoned", source, sink, "--max-rejected", 1)
    messages = check_rows(sink, good, {("green", 6): "codec_crashed"})
    assert "3 times" in messages["green"]


@pytest.mark.soak
def test_encode_process_that_dies_after_parts_of_a_table_went_on_leaves_no_row_out(tmp_path):
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    good = photos(*(f"{i:02d}.jpg" for i in range(30)))
    names = sorted(good)
    green = {"green.png": failing.plain(failing.KILLS)}
    members = {name: good[name] for name in names[:17]} | green
    (source / "a.tar").write_bytes(tar_of(members | {name: good[name] for name in names[17:]}))
    run("Slow", source, sink, "--max-rejected", 1)
    check_rows(sink, good, {("green", 17): "codec_crashed"})


@pytest.fixture
def twelve(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.tar").write_bytes(tar_of(photos(*(f"{i}.jpg" for i in range(12)))))
    return tmp_path


@pytest.mark.parametrize(
    ("codec", "code", "words"),
    [
        ("Broken", 4, "plain input.*no codes today"),
        pytest.param("Sick", 5, "device.*illegal memory access", marks=[pytest.mark.soak]),
        pytest.param("NotFinite", 4, "12 images.*float32", marks=[pytest.mark.soak]),
        pytest.param("OutOfMemory", 4, "memory.*nothing left", marks=[pytest.mark.soak]),
        pytest.param("Unmade", 4, "no compiler here", marks=[pytest.mark.soak]),
        pytest.param("Killed", 5, "dies whatever it is given", marks=[pytest.mark.soak]),
    ],
)
@pytest.mark.fault(27)
def test_encode_failure_that_is_not_the_inputs_rejects_nothing(twelve, codec, code, words):
    source, sink = twelve / "source", twelve / "sink"
    printed = run(codec, source, sink, "--max-rejected", 1000, expect=code)
    assert re.search(words, printed)
    assert "Traceback" not in printed
    assert {path.name for path in sink.iterdir()} <= {"run.json", "plan.parquet", "plans"}
    if codec == "Broken":
        run("Sound", source, sink)
        assert len(shell.codes_by_key(sink)) == 12


@pytest.mark.fault(30)
@pytest.mark.soak
@pytest.mark.parametrize("budget", [50, 0.1])
def test_encode_too_many_rejections_end_the_run_early(tmp_path, budget):
    total, source, sink = 20_000, tmp_path / "source", tmp_path / "sink"
    source.mkdir()
    for shard in range(100):
        bad = {f"{shard}-{i}.jpg": b"<html>" if i % 4 else b"" for i in range(total // 100)}
        (source / f"{shard:03d}.tar").write_bytes(tar_of(bad))
    printed = shell.encode(source, sink, "--max-rejected", budget, expect=2)
    error = printed[printed.index("error:") :]
    assert re.search(rf"--max-rejected {budget}\b", error)
    assert re.search(r"\d not_an_image, [\d,]+ empty", error)
    rejected = shell.rows(sink, "rejected", "key, row, reason")
    assert len(rejected) < total / 2
    summary = json.loads((sink / "summary.json").read_bytes())
    assert summary["rejected_by_reason"].keys() <= {"not_an_image", "empty"}
    # The end may come between the two objects of a shard, of which that in data/ is the commit.
    committed = {path.stem.removeprefix("0").removeprefix("0") for path in sink.glob("data/*")}
    assert summary["rejected"] == sum(row["key"].split("-")[0] in committed for row in rejected)
    assert not (sink / "_SUCCESS").exists()
    assert not shell.rows(sink, columns="key, row")
