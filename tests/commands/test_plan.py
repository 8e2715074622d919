"""`vqpipe plan` as a person meets it; Ray's start is rehearsed by a loop here, but for one test."""

import json
import shutil
from pathlib import Path

import pytest
from infra.demo.samples import build_sources

import vqpipe
from tests import plain, shell
from tests.benchmarks import forecast
from tests.commands.test_dry_run import contents
from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.commands.encode import foresee
from vqpipe.commands.stage_jobs import Encode
from vqpipe.engine import rehearsal
from vqpipe.engine.resources import Resources
from vqpipe.sink.footer import REJECTIONS_BYTES, read_footer
from vqpipe.stages import measure
from vqpipe.stages.measured import StartUp
from vqpipe.stages.sample import take_sample

PHOTOS = 14
MODEL = ("--model", str(shell.CHECKPOINT), "--pixel-range", "signed", "--skip-doctor")
ASKED = (*MODEL, "--resolution", "32")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two tars of photos, each with a file that is none."""
    folder = tmp_path_factory.mktemp("tars")
    for tar in range(2):
        members = {f"{tar}-{i:03d}.jpg": jpeg(60, 50, seed=i) for i in range(PHOTOS)}
        broken = {f"{tar}-x.jpg": b"no photo"}
        (folder / f"{tar}.tar").write_bytes(tar_of(members | broken))
    return str(folder)


@pytest.fixture(scope="module")
def encoded(source, tmp_path_factory):
    """A finished sink of it; no test changes it."""
    sink = str(tmp_path_factory.mktemp("encoded") / "sink")
    words = ["encode", "--source", source, "--sink", sink, "--max-rejected", "9", *ASKED]
    assert plain.run([words]) == [0]
    return sink


@pytest.fixture(autouse=True)
def rehearsed(monkeypatch):
    """Has nothing measured for longer than it takes to see it once, and a loop in Ray's place."""
    monkeypatch.setattr(measure, "_OPENING_S", 0.0)
    monkeypatch.setattr(measure, "_CODING_S", {"cpu": 0.0})
    found = []

    def rehearse(work, _):
        sink = work.writer.sink
        for index, staged in work.todo.items():
            read = work.reader.read(sink.plan, index, staged, 64, 0)
            found.extend((sink.uri, len(table)) for table in read)
        return StartUp(10.0, 1.0, 2.0, 8, 2)

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    return found


def planned(capsys, *words):
    assert cli.main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows_bytes(path):
    """Returns the bytes of an object without the rejections that lie in it."""
    file = storage.stat(str(path))
    return file.size - read_footer(file).origin[REJECTIONS_BYTES]


def test_plan_fresh_sink_counts_images_bytes_and_what_would_be_rejected(
    source, encoded, tmp_path, capsys, rehearsed
):
    sink = tmp_path / "sink"
    said = planned(capsys, "--source", source, "--sink", sink, *ASKED)
    assert (said["images"], said["images_known"]) == (2 * (PHOTOS + 1), True)
    assert said["rows"] == said["good"] == said["measured"]["opening"]["good"] == 2 * PHOTOS
    assert said["gpu_hours"] is None
    (run,) = said["runs"]
    assert run["start_seconds"] > 12.0
    assert run["cost"] == {}
    written = sum(rows_bytes(path) for path in Path(encoded, "data").rglob("*.parquet"))
    assert said["bytes_written"] == pytest.approx(written, rel=0.25)
    assert not sink.exists()
    assert sum(rows for _, rows in rehearsed) == 8
    assert not any(uri.startswith(str(tmp_path)) for uri, _ in rehearsed)


def test_plan_half_finished_sink_counts_what_is_left_and_changes_nothing(
    source, encoded, tmp_path, capsys
):
    sink = tmp_path / "sink"
    shutil.copytree(encoded, sink)
    (sink / "data" / "1.parquet").unlink()
    (sink / "_SUCCESS").unlink()
    before = contents(str(sink))
    said = planned(capsys, "--source", source, "--sink", sink, *ASKED)
    assert (said["shards_left"], said["images"]) == (1, PHOTOS + 1)
    assert contents(str(sink)) == before


def test_plan_finished_sink_says_that_nothing_is_left(source, encoded, capsys):
    words = ["--source", source, "--sink", encoded, *ASKED]
    assert cli.main(["plan", *words]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    said = planned(capsys, *words)
    assert (said["images"], said["runs"]) == (0, [])


def test_plan_of_another_run_ends_with_3(source, encoded, capsys):
    words = ["--source", source, "--sink", encoded, *MODEL, "--resolution", "64"]
    assert cli.main(["plan", *words]) == 3
    assert "resolution" in capsys.readouterr().err


def test_plan_without_a_gpu_says_that_it_knows_nothing_of_gpus(source, capsys):
    assert (
        cli.main(["plan", "--source", source, *ASKED, "--for-gpus", "8", "--gpu-price", "2"]) == 0
    )
    said = capsys.readouterr().out
    assert "not known" in said
    assert "vqpipe submit plan" in said
    assert "on 8 GPU" not in said
    assert "for GPUs" not in said


def test_plan_takes_the_definition_of_encode(source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["encode", "--source", source, "--sink", "x", *ASKED, "--print-job"])
    definition = tmp_path / "job.yaml"
    definition.write_text(capsys.readouterr().out)
    job = cli.parse(["plan", "--job", str(definition), "--for-gpus", "2", "4"])
    assert (job.source, job.sink, job.resolution, job.for_gpus) == (source, "x", 32, (2, 4))


def test_plan_images_that_where_leaves_out_cost_no_codec(source, capsys):
    said = planned(capsys, "--source", source, *ASKED, "--where", "width >= 1000")
    assert said["good"] == 0
    assert said["measured"]["opening"]["left_out"] == 2 * PHOTOS


def test_plan_function_returns_what_json_prints_and_views_are_rows(source):
    said = vqpipe.plan(
        source=source,
        model=str(shell.CHECKPOINT),
        pixel_range="signed",
        skip_doctor=True,
        resolution=32,
        flip="both",
        put_price=5.0,
        storage_price=1e6,
    )
    assert said["images"] == 2 * (PHOTOS + 1)
    assert said["rows"] == 2 * said["good"]
    cost = {"put": 0.0, "storage_month": said["bytes_written"] / 1000}
    assert said["runs"][0]["cost"] == pytest.approx(cost)


@pytest.mark.parametrize(
    "words", [("--for-gpus", "0"), ("--sample", "0"), ("--gpu-price", "-1"), ("--cores", "0")]
)
def test_plan_option_out_of_bounds_exits_4(source, words, capsys):
    assert cli.main(["plan", "--source", source, *ASKED, *words]) == 4
    assert words[0] in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
def test_plan_command_starts_ray_and_leaves_nothing_behind(source):
    said = json.loads(shell.run("plan", "--source", source, *ASKED, "--json").splitlines()[0])
    start = said["measured"]["start_up"]
    assert start["images"] == 8
    assert start["shards"] == 2
    assert start["ready_s"] > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
def test_plan_forecast_of_the_demo_is_within_a_quarter_of_the_run(tmp_path):
    """In turns, three times, and the one in the middle counts: others' work comes and goes."""
    source = str(build_sources(tmp_path)["tars"])
    asked = ["--source", source, "--model", str(shell.CHECKPOINT), "--keep", "txt"]
    rounds = sorted(forecast.compare(asked, tmp_path / "sink") for _ in range(3))
    assert 0.75 <= rounds[1] <= 1.25


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
def test_measure_there_opens_and_encodes_on_the_workers_of_a_cluster(source, tmp_path):
    job = Encode(
        source=source,
        sink=str(tmp_path / "sink"),
        model=str(shell.CHECKPOINT),
        pixel_range="signed",
        skip_doctor=True,
        resolution=32,
    )
    work, _ = foresee(job)
    rows, _ = take_sample(work, 20)
    found = rehearsal.measure_there(rows, work, Resources())
    assert found.opening.images == 20
    assert found.opening.good == len(found.coded)
    assert found.coding.kind == "cpu"
    assert found.start_up.ready_s > 0
