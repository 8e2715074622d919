"""How `vqpipe decode` begins, and what it refuses before anything is written."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shell
from tests.sink import sinks
from tests.sink.runs import encoded_rows, tar_shard
from tests.tokenizers.published import titok
from vqpipe.codec.weights import Weights
from vqpipe.commands import cli, decode
from vqpipe.commands.stage_jobs import Decode
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run

GRID = (8, 8)


@pytest.fixture(scope="module")
def model():
    return Weights.load(str(shell.CHECKPOINT))


@pytest.fixture
def writer(tmp_path, model):
    """A sink of codes of the demo's model, with two of three shards."""
    facts = {
        "codebook_sha256": model.codebook_sha256(),
        "model_options": {"model": str(shell.CHECKPOINT)},
        "kept": {"caption": "string", "score": "float"},
    }
    how = {"codebook_size": model.description.codebook_size, "grid": GRID, "facts": facts}
    writer = sinks.begin(tmp_path / "codes", **how, model_sha256=model.sha256())
    sinks.commit(writer, 0, 4)
    sinks.commit(writer, 1, 4)
    return writer


def refused(writer, capsys, *options, source=None):
    """Returns exit code and message of a command that must leave no sink."""
    sink = f"{writer.sink.uri}-images"
    arguments = ("decode", "--source", source or writer.sink.uri, "--sink", sink, *options)
    code = cli.main([str(argument) for argument in arguments])
    assert not Path(sink).exists()
    return code, " ".join(capsys.readouterr().err.split())


def begin(writer, **options):
    """Returns the shards that a command is about to decode, and what it says before."""
    job = Decode(source=writer.sink.uri, sink=f"{writer.sink.uri}-images", **options)
    prepared = decode._prepare(job)
    return prepared.work.writer.sink.plan.names, dict(prepared.introduction)


def test_decode_into_a_folder_that_a_link_in_its_source_leads_to_exits_4(writer, tmp_path, capsys):
    """The next run would read what this one wrote."""
    source, sink = tmp_path / "others", Path(f"{writer.sink.uri}-images")
    source.mkdir()
    pq.write_table(pa.table({"codes": [[0] * 64]}), source / "a.parquet")
    (source / "more").symlink_to(tmp_path)
    code, said = refused(writer, capsys, "--grid", 8, 8, source=source)
    assert code == 4
    assert f"the sink {sink} is inside the source {source}" in said
    assert f"which {source}/more leads to" in said


def grow(writer, *shards):
    growth = Growth(extend=True, replace_changed=True)
    sink = start_run(writer.sink.uri, writer.sink.run, Plan.of(shards), growth)
    return replace(writer, sink=sink)


@pytest.mark.parametrize("grid", [(4, 16), (16, 16)])
def test_decode_grid_that_is_not_the_runs_is_refused(writer, capsys, grid):
    code, said = refused(writer, capsys, "--grid", *grid)
    assert code == 4
    assert f"--grid is {grid[0]} {grid[1]}" in said
    assert "are 8 x 8: leave --grid out" in said
    assert begin(writer, grid=GRID)[0] == ["a", "b"]


def test_decode_grid_of_a_model_whose_codes_are_a_sequence_is_refused(writer, capsys, tmp_path):
    source = tmp_path / "others"
    source.mkdir()
    (tmp_path / "titok").mkdir()
    model = titok.write(tmp_path / "titok", titok.make_random(True))
    tokens = Weights.load(model).description.layout_of(64, 64).length
    pq.write_table(pa.table({"codes": [[0] * tokens]}), source / "a.parquet")
    code, said = refused(writer, capsys, "--model", model, "--grid", 4, 4, source=source)
    assert code == 4
    assert f"this model's codes of an image are a sequence of {tokens}: leave --grid out" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pixel-range", "unit"), "--pixel-range is unit, and the run used its model with"),
        (("--subfolder", "vqvae"), "--subfolder says more of --model"),
        (("--revision", "main"), "--revision says more of --model"),
    ],
)
def test_decode_options_that_would_do_nothing_or_harm_are_refused(writer, capsys, options, said):
    code, printed = refused(writer, capsys, *options)
    assert code == 4
    assert said in " ".join(printed.split())


def test_decode_codes_and_latents_at_once_are_refused():
    with pytest.raises(ValueError, match="--codes and --latents cannot go together"):
        Decode(source="codes", sink="images", codes="tokens", latents="z")


def test_decode_damaged_first_file_does_not_keep_the_others_from_being_read(tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(b"PAR1")
    column = pa.array([[0] * 64], pa.list_(pa.uint16()))
    pq.write_table(pa.table({"codes": column}), folder / "b.parquet")
    options = {"model": str(shell.CHECKPOINT), "grid": GRID, "pixel_range": "signed"}
    job = Decode(source=str(folder), sink=str(tmp_path / "out"), **options)
    assert decode._prepare(job).work.writer.sink.plan.names == ["a", "b"]


@pytest.mark.parametrize(("kind", "share"), [("png", 1), ("jpeg", 4)])
def test_decode_says_what_memory_the_largest_shard_takes(writer, monkeypatch, kind, share):
    bytes_of_all = 4 * 32 * 32 * 3 // share
    for limit, is_much in ((bytes_of_all + 1, False), (bytes_of_all, True)):
        monkeypatch.setattr(decode, "_MUCH_MEMORY", limit)
        job = Decode(source=writer.sink.uri, sink=f"{writer.sink.uri}-images", format=kind)
        introduction = decode._prepare(job).introduction
        said = [text for name, text in introduction if name == "take care"]
        assert ("the 4 images of shard" in said[-1]) == is_much


def test_decode_lists_of_a_size_that_is_not_the_grids_are_refused(writer, capsys, tmp_path):
    column = pa.array([[0] * 64], pa.list_(pa.uint16(), 64))
    pq.write_table(pa.table({"codes": column}), tmp_path / "a.parquet")
    options = ("--model", shell.CHECKPOINT, "--grid", 16, 16)
    code, said = refused(writer, capsys, *options, source=tmp_path / "a.parquet")
    assert code == 4
    assert "64 numbers a row, and 16 x 16 codes are 256" in said


def test_decode_name_that_is_not_utf_8_is_refused(writer, capsys, tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "caf\udce9.parquet").touch()
    options = ("--model", shell.CHECKPOINT, "--grid", *GRID)
    code, said = refused(writer, capsys, *options, source=folder)
    assert code == 4
    assert "UTF-8" in said


def test_decode_column_to_keep_that_is_named_twice_is_refused(writer, capsys):
    code, said = refused(writer, capsys, "--keep", "score", "score")
    assert code == 4
    assert "--keep names 'score' twice" in said


@pytest.mark.parametrize("name", ["codebook_sha256", "layout", "kept", "model_options"])
def test_decode_run_json_that_lacks_what_codes_need_is_a_mismatch(writer, capsys, name):
    path = Path(writer.sink.uri) / "run.json"
    said = json.loads(path.read_bytes())
    said.pop(name)
    path.write_text(json.dumps(said))
    code, printed = refused(writer, capsys)
    assert code == 3
    assert f"does not say {name}" in printed


def test_decode_object_of_no_shard_is_refused(writer, capsys):
    data = Path(writer.sink.uri) / "data"
    (data / "x.parquet").write_bytes((data / "a.parquet").read_bytes())
    code, said = refused(writer, capsys)
    assert code == 4
    assert "x.parquet" in said


def test_decode_source_that_changed_is_done_again_when_it_is_encoded_again(writer, tmp_path):
    names, said = begin(writer)
    assert names == ["a", "b"]
    assert "not complete" in said["take care"]
    new = grow(writer, tar_shard("a"), tar_shard("b", version="2"), tar_shard("c"))
    assert begin(writer)[0] == ["a", "b"]  # as planned: its codes of before are still there
    job = Decode(source=writer.sink.uri, sink=str(tmp_path / "other"))
    assert decode._prepare(job).work.writer.sink.plan.names == ["a"]
    commit_rows(encoded_rows(new, 1, 4), new)
    names, _ = begin(writer, replace_changed=True)
    assert names == ["a", "b"]
