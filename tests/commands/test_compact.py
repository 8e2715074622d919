"""`vqpipe compact` with every part but Ray's; order is numpy's arithmetic, rows are DuckDB's."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import plain
from tests.codec import models
from tests.makers import jpeg, tar_of
from tests.sink import sinks
from tests.sink.damage import rewrite
from tests.sink.runs import KEPT, encoded_rows
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.permutation import Permutation
from vqpipe.sink import success, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import HISTOGRAM, pack_histogram
from vqpipe.sink.parts import data_types, read_part
from vqpipe.sink.run import load_run, open_sink
from vqpipe.sink.snapshot import take_snapshot
from vqpipe.stages import compact, neighbours

COUNTS = {"a": 5, "b/c": 1, "d": 0, "e": 12, "f": 3}
"""Samples of each shard; a shard without any is there, too, all of it rejected."""
REJECTED = {"a": (1,), "d": (0,), "e": (0, 11)}


def make(sink, counts=COUNTS, rejected=REJECTED, **how):
    """Makes a complete sink of codes; returns its writer."""
    writer = sinks.begin(sink, tuple(counts), **how)
    for index, name in enumerate(writer.sink.plan.names):
        bad = rejected.get(name, ())
        total = max(counts[name], len(bad))
        commit_rows(encoded_rows(writer, index, total, rejected=bad), writer)
    sinks.end(writer)
    return writer


def run(source, sink, rows, *options):
    """Returns the exit code of a compaction in this process."""
    return plain.run([["compact", source, sink, "--rows-per-file", rows, *options]])[-1]


def refused(capsys, *words, expect=3):
    """Returns what a compaction that is refused says."""
    capsys.readouterr()
    assert run(*words) == expect
    return " ".join(capsys.readouterr().err.split())


def files_of(sink):
    return sorted(Path(sink, "data").rglob("*.parquet"))


def in_order(sink, columns=None):
    """Returns the rows of all files, by name, one behind the other, by pyarrow."""
    return pa.concat_tables([pq.ParquetFile(file).read(columns) for file in files_of(sink)])


def numbered(sink, views):
    """Returns shard, row and view of every row of a sink of encode, in the order of a snapshot."""
    found = []
    for file in sorted(files_of(sink), key=lambda file: str(file.relative_to(Path(sink, "data")))):
        name = str(file.relative_to(Path(sink, "data")))[: -len(".parquet")]
        table = pq.ParquetFile(file).read(["row", "view"])
        found += [(name, row["row"], row["view"]) for row in table.to_pylist()]
    assert len(found) % views == 0
    return found


def same_rows(source, sink, column="shard"):
    """Checks by DuckDB that all rows of a sink of encode are in another one, each just once."""
    base = f"{source}/data/"
    query = f"""
        WITH a AS (
            SELECT * EXCLUDE (filename), filename[{len(base) + 1}:-9] AS "{column}"
            FROM read_parquet('{base}**/*.parquet', filename = true)
        ), b AS (SELECT * FROM read_parquet('{sink}/data/*.parquet'))
        SELECT
            (SELECT count(*) FROM a), (SELECT count(*) FROM b),
            (SELECT count(*) FROM (FROM a EXCEPT ALL FROM b)),
            (SELECT count(*) FROM (FROM b EXCEPT ALL FROM a))
    """
    before, after, lost, gained = duckdb.sql(query).fetchall()[0]
    assert (lost, gained) == (0, 0)
    assert before == after > 0
    return after


def content(sink):
    return {file.name: file.read_bytes() for file in files_of(sink)}


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("rows", [1, 4, 7, 18, 1000])
def test_compact_puts_rows_into_files_of_as_many_in_the_order_of_the_source(tmp_path, rows, views):
    make(tmp_path / "codes", count=views)
    assert run(tmp_path / "codes", tmp_path / "flat", rows) == 0
    total = same_rows(tmp_path / "codes", tmp_path / "flat")
    per_file = -(-rows // views) * views
    sizes = [pq.read_metadata(file).num_rows for file in files_of(tmp_path / "flat")]
    assert sizes == [min(per_file, total - first) for first in range(0, total, per_file)]
    count = len(sizes)
    names = [f"part-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    assert [file.name for file in files_of(tmp_path / "flat")] == names
    found = in_order(tmp_path / "flat", ["shard", "row", "view"]).to_pylist()
    assert [tuple(row.values()) for row in found] == numbered(tmp_path / "codes", views)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("seed", [0, 7])
def test_compact_shuffled_has_at_each_place_the_sample_that_the_permutation_puts_there(
    tmp_path, seed, views
):
    make(tmp_path / "codes", count=views)
    assert run(tmp_path / "codes", tmp_path / "mixed", 4, "--shuffle", seed) == 0
    total = same_rows(tmp_path / "codes", tmp_path / "mixed")
    samples = total // views
    drawn = Permutation(samples, seed).at(np.arange(samples))
    assert not np.array_equal(drawn, np.arange(samples))
    source = np.array(numbered(tmp_path / "codes", views), object).reshape(samples, views, 3)
    expected = source[drawn].reshape(-1, 3).tolist()
    found = in_order(tmp_path / "mixed", ["shard", "row", "view"]).to_pylist()
    assert [list(row.values()) for row in found] == expected


@pytest.mark.parametrize("options", [(), ("--shuffle", 5)], ids=["in order", "shuffled"])
def test_compact_leaves_a_sink_that_every_reader_takes(tmp_path, capsys, options):
    make(tmp_path / "codes", count=2)
    assert run(tmp_path / "codes", tmp_path / "flat", 8, *options) == 0
    flat = tmp_path / "flat"
    for name in ("run.json", "plan.parquet", "_SUCCESS", "README.md", "summary.json"):
        assert (flat / name).exists(), name
    assert cli.main(["verify", str(flat)]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(flat), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["stage"], said["ready"]["answer"]) == ("compact", "yes")
    reader = said["reader"]
    assert reader["codes_per_image"] == 6
    assert (reader["rows_per_file"], reader["shard_column"]) == (8, "shard")
    assert reader["source_totals"]["rejected_by_reason"] == {"corrupt": 4}
    assert reader["source_run"]["fingerprint"] == load_run(str(tmp_path / "codes")).fingerprint
    snapshot = take_snapshot(str(flat))
    assert snapshot.rows.sum() == snapshot.samples * 2
    assert [*data_types(snapshot).names[-3:]] == ["caption", "score", "shard"]
    read = pa.concat_tables([each for i in range(len(snapshot)) for each in read_part(snapshot, i)])
    assert read.equals(in_order(flat))
    loaded = datasets.load_dataset(str(flat), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["shard"][:] == read["shard"].to_pylist()
    assert loaded["codes"][:] == read["codes"].to_pylist()


def test_compact_footers_count_what_their_rows_hold_and_add_up_to_the_source(tmp_path):
    writer = make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 5, "--shuffle", 1) == 0
    before = totals.read_totals(writer.sink)
    flat = str(tmp_path / "flat")
    after = totals.read_totals(open_sink(flat, load_run(flat)))
    codes = np.concatenate(in_order(flat, ["codes"])["codes"].to_pylist())
    assert after.histogram.tolist() == np.bincount(codes, minlength=16).tolist()
    assert after.histogram.tolist() == before.histogram.tolist()
    assert (after.good, after.rows) == (before.good, before.rows)
    summary = json.loads((tmp_path / "flat" / "summary.json").read_bytes())
    assert summary["compacted"] == before.good
    assert summary["codebook_usage"] == round(before.codebook_usage, 6)


def test_compact_keeps_all_that_is_known_of_the_run_that_made_the_codes(tmp_path):
    writer = make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 5) == 0
    source = json.loads((tmp_path / "codes" / "run.json").read_bytes())
    said = json.loads((tmp_path / "flat" / "run.json").read_bytes())
    assert said["identity"]["encode"] == source["identity"]
    assert said["identity"]["codes"] == source["fingerprint"]
    assert said["source_run"]["created"] == source["created"]
    assert said["source_run"]["versions"] == source["versions"]
    assert said["source_run"]["plan_sha256"] == source["plan_sha256"]
    changed = {"fingerprint", "identity", "plan_sha256", "created", "versions"}
    assert {name: said[name] for name in source.keys() - changed} == {
        name: source[name] for name in source.keys() - changed
    }
    expected = json.loads(json.dumps(totals.read_totals(writer.sink).to_dict()))
    assert said["source_totals"] == expected


def spoil(monkeypatch, after):
    """Has the process die, as far as it can tell, when so many files are committed."""
    real, done = compact.publish_shard, []

    def publish(*given):
        if len(done) == after:
            raise KeyboardInterrupt
        real(*given)
        done.append(given[0].name)

    monkeypatch.setattr(compact, "publish_shard", publish)
    return done


@pytest.mark.parametrize("options", [(), ("--shuffle", 2)], ids=["in order", "shuffled"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_compact_that_is_stopped_and_run_again_is_as_if_it_had_not_been(
    tmp_path, monkeypatch, options, after
):
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "whole", 4, *options) == 0
    with monkeypatch.context() as patch:
        done = spoil(patch, after)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "codes", tmp_path / "flat", 4, *options)
    there = {file.name: file.stat().st_mtime_ns for file in files_of(tmp_path / "flat")}
    assert sorted(there) == sorted(f"{name}.parquet" for name in done)
    assert not (tmp_path / "flat" / "_SUCCESS").exists()
    assert run(tmp_path / "codes", tmp_path / "flat", 4, *options) == 0
    assert content(tmp_path / "flat") == content(tmp_path / "whole")
    for name, moment in there.items():
        assert (tmp_path / "flat" / "data" / name).stat().st_mtime_ns == moment
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0


def test_compact_makes_a_file_that_is_lost_again_and_nothing_else(tmp_path):
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    before = content(tmp_path / "flat")
    lost = files_of(tmp_path / "flat")[2]
    lost.unlink()
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    assert content(tmp_path / "flat") == before


def test_compact_whose_snapshot_is_lost_takes_it_again_and_one_of_others_is_refused(
    tmp_path, capsys
):
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    make(codes)
    assert run(codes, flat, 4) == 0
    (kept,) = (flat / "snapshot").iterdir()
    before = kept.read_bytes()
    kept.unlink()
    assert run(codes, flat, 4) == 0
    assert kept.read_bytes() == before
    make(tmp_path / "other", {"a": 3, "b": 9}, {})
    assert run(tmp_path / "other", tmp_path / "else", 4) == 0
    (strange,) = (tmp_path / "else" / "snapshot").iterdir()
    kept.write_bytes(strange.read_bytes())
    assert "is a snapshot of another run" in refused(capsys, codes, flat, 4)
    assert cli.main(["verify", str(flat)]) == 1
    fewer = pq.read_table(io.BytesIO(before)).slice(1)
    pq.write_table(fewer, kept)
    assert "is not the snapshot that the run began with" in refused(capsys, codes, flat, 4)
    assert cli.main(["verify", str(flat)]) == 1


def test_compact_of_two_at_once_is_that_of_one(tmp_path, monkeypatch):
    """Another command commits all files while this one is about to write its first."""
    make(tmp_path / "codes")
    real = neighbours.write_file

    def write_file(*given):
        monkeypatch.setattr(neighbours, "write_file", real)
        assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
        real(*given)

    monkeypatch.setattr(neighbours, "write_file", write_file)
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    same_rows(tmp_path / "codes", tmp_path / "flat")
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0


def test_compact_with_other_choices_into_a_sink_that_is_there_is_refused(tmp_path, capsys):
    make(tmp_path / "codes")
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    assert run(codes, flat, 4) == 0
    assert "rows_per_file: the sink has 4" in refused(capsys, codes, flat, 5)
    assert "shuffle: the sink has None" in refused(capsys, codes, flat, 4, "--shuffle", 0)
    make(tmp_path / "other", {"a": 3}, {})
    assert "source: the sink has" in refused(capsys, tmp_path / "other", flat, 4)
    assert "stage: the sink has 'encode'" in refused(capsys, codes, tmp_path / "other", 4)


def test_compact_of_a_source_with_changed_gone_or_new_shards_is_refused_by_name(tmp_path, capsys):
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    make(codes)
    assert run(codes, flat, 4) == 0
    kept = (codes / "data" / "a.parquet").read_bytes()
    (codes / "data" / "a.parquet").write_bytes(kept + b" ")
    assert "1 were made again: a" in refused(capsys, codes, flat, 4)
    (codes / "data" / "a.parquet").unlink()
    assert "1 are gone: a" in refused(capsys, codes, flat, 4)
    (codes / "data" / "a.parquet").write_bytes(kept)
    (codes / "data" / "g.parquet").write_bytes(kept)
    assert "1 are new: g" in refused(capsys, codes, flat, 4)
    (codes / "data" / "g.parquet").unlink()
    assert run(codes, flat, 4) == 0


def test_compact_of_an_object_that_was_replaced_by_one_of_its_size_names_it(tmp_path, capsys):
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    make(codes)
    assert run(codes, flat, 4) == 0
    for file in files_of(flat)[:1]:
        file.unlink()
    path = codes / "data" / "a.parquet"
    size, table = path.stat().st_size, pq.read_table(path)
    turned = table.set_column(3, "codes", table["codes"].take(list(range(len(table)))[::-1]))
    rewrite(path, lambda _: turned)
    assert path.stat().st_size == size
    said = refused(capsys, codes, flat, 4)
    assert f"{path} is not the object that it was" in said


def test_compact_of_a_damaged_object_commits_no_file_of_it(tmp_path, capsys):
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    make(codes)
    path = codes / "data" / "e.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    said = refused(capsys, codes, flat, 4, expect=4)
    assert f"{path} is damaged" in said
    assert len(files_of(flat)) == 1  # of the shards before it
    assert not (flat / "_SUCCESS").exists()


def test_compact_of_an_incomplete_source_is_refused_unless_it_is_allowed(tmp_path, capsys):
    codes, flat = tmp_path / "codes", tmp_path / "flat"
    writer = sinks.begin(codes, ("a", "b", "c"))
    sinks.commit(writer, 0, 6)
    sinks.commit(writer, 2, 6)
    said = refused(capsys, codes, flat, 4, expect=2)
    assert "1 of 3 shards are not there (b)" in said
    assert not flat.exists()
    assert run(codes, flat, 4, "--allow-incomplete") == 0
    before = content(flat)
    assert same_rows(codes, flat) == 12
    sinks.commit(writer, 1, 6)
    assert "1 are new: b" in refused(capsys, codes, flat, 4)
    assert run(codes, flat, 4, "--allow-incomplete") == 0
    assert content(flat) == before
    assert "1 shard(s) more than when this sink was begun" in capsys.readouterr().err
    assert run(codes, tmp_path / "later", 4) == 0
    assert same_rows(codes, tmp_path / "later") == 18


def test_compact_of_a_source_without_rows_or_codes_is_refused(tmp_path, capsys):
    make(tmp_path / "codes", {"a": 1}, {"a": (0,)})
    said = refused(capsys, tmp_path / "codes", tmp_path / "flat", 4, expect=4)
    assert "has no rows" in said
    sinks.decode(tmp_path / "images")
    said = refused(capsys, tmp_path / "images", tmp_path / "flat", 4)
    assert "is a sink of vqpipe decode" in said
    said = refused(capsys, tmp_path / "nothing", tmp_path / "flat", 4, expect=4)
    assert "no run.json" in said
    said = refused(capsys, tmp_path / "codes" / "data", tmp_path / "flat", 4, expect=4)
    assert f"folder of {tmp_path}/codes, which is one" in said
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize(
    ("source", "sink", "said"),
    [
        ("a", "a", "is the source itself"),
        ("a", "a/b", "is inside the source"),
        ("a/b", "a", "is inside the sink"),
    ],
)
def test_compact_into_its_source_or_around_it_is_refused(tmp_path, capsys, source, sink, said):
    make(tmp_path / source)
    before = sorted(tmp_path.rglob("*"))
    assert said in refused(capsys, tmp_path / source, tmp_path / sink, 4, expect=4)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("names", [["shard"], ["shard", "source_shard"]])
def test_compact_where_a_kept_column_is_called_shard_names_its_own_another_way(tmp_path, names):
    kept = pa.schema([pa.field("caption", pa.string()), pa.field("score", pa.float32())])
    renamed = dict(zip(("caption", "score"), names, strict=False))
    fields = [each.with_name(renamed.get(each.name, each.name)) for each in kept]
    writer = sinks.begin(tmp_path / "codes", ("a", "b"), kept=pa.schema(fields))
    for index in range(2):
        table = encoded_rows_of(writer, index, 5, renamed)
        commit_rows(table, writer)
    sinks.end(writer)
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    own = {1: "source_shard", 2: "source_shard_2"}[len(names)]
    same_rows(tmp_path / "codes", tmp_path / "flat", own)
    table = in_order(tmp_path / "flat")
    assert table[own].to_pylist() == ["a"] * 5 + ["b"] * 5
    assert table["shard"].to_pylist() == [f"caption {i}" for i in range(5)] * 2
    assert load_run(str(tmp_path / "flat")).facts.shard_column == own
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0


def encoded_rows_of(writer, index, count, renamed):
    """Returns rows whose kept columns have other names than `encoded_rows` gives them."""
    product = writer.product
    plainly = encoded_rows(_Named(writer, KEPT), index, count)
    names = [f"kept.{renamed.get(name[5:], name[5:])}" if name.startswith("kept.") else name
             for name in plainly.column_names]  # fmt: skip
    return plainly.rename_columns(names).cast(product.rows)


class _Named:
    """A writer as `encoded_rows` takes it, with other kept columns."""

    def __init__(self, writer, kept):
        self.sink, self.product = writer.sink, replace(writer.product, kept=kept)


def test_compact_of_what_was_compacted_keeps_shards_and_rows_of_the_first_source(tmp_path):
    make(tmp_path / "codes", count=2)
    assert run(tmp_path / "codes", tmp_path / "one", 8, "--shuffle", 3) == 0
    assert run(tmp_path / "one", tmp_path / "two", 12) == 0
    same_rows(tmp_path / "codes", tmp_path / "two")
    assert in_order(tmp_path / "two").equals(in_order(tmp_path / "one"))
    first, second = (load_run(str(tmp_path / name)) for name in ("one", "two"))
    assert second.identity.codes == first.fingerprint
    assert second.encoding == first.encoding == load_run(str(tmp_path / "codes")).identity
    assert cli.main(["verify", str(tmp_path / "two")]) == 0
    assert cli.main(["inspect", str(tmp_path / "two")]) == 0


@pytest.mark.s3
@pytest.mark.parametrize("options", [(), ("--shuffle", 5)], ids=["in order", "shuffled"])
def test_compact_from_and_to_s3_gives_the_same_files(tmp_path, bucket, options):
    make(tmp_path / "codes")
    for file in (tmp_path / "codes").rglob("*"):
        if file.is_file():
            to = f"{bucket}/codes/{file.relative_to(tmp_path / 'codes')}"
            storage.publish(to, file.read_bytes())
    assert run(f"{bucket}/codes", f"{bucket}/flat", 4, *options) == 0
    assert cli.main(["verify", f"{bucket}/flat"]) == 0
    assert run(tmp_path / "codes", tmp_path / "flat", 4, *options) == 0
    listed = storage.list_files(f"{bucket}/flat/data")
    rows = [pq.read_table(io.BytesIO(storage.read(file.uri))) for file in listed]
    assert pa.concat_tables(rows).equals(in_order(tmp_path / "flat"))
    storage.delete(listed[1].uri)
    assert run(f"{bucket}/codes", f"{bucket}/flat", 4, *options) == 0
    assert storage.read(listed[1].uri)


def test_compact_of_many_tiny_shards_takes_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    names = {f"s{i:04d}": 3 for i in range(400)}
    make(tmp_path / "codes", names, {})
    assert run(tmp_path / "codes", tmp_path / "flat", 200) == 0
    assert run(tmp_path / "codes", tmp_path / "mixed", 200, "--shuffle", 1) == 0
    for name in ("flat", "mixed"):
        assert same_rows(tmp_path / "codes", tmp_path / name) == 1200
        assert len(files_of(tmp_path / name)) == 6
        sizes = sum(file.stat().st_size for file in files_of(tmp_path / name))
        assert sizes < sum(file.stat().st_size for file in files_of(tmp_path / "codes")) / 10


CHOICES = {
    "grids": ("--buckets", "32", "--flip", "both"),
    "latents": ("--views", "five-crop", "--latents", "both", "--resolution", "32"),
    "grids and latents": ("--buckets", "32", "--latents", "quantized", "--latents-dtype"),
    "no codes": ("--latents", "both", "--drop-codes", "--resolution", "32"),
    "no codes, grids": ("--latents", "pre", "--drop-codes", "--buckets", "32"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A source of two tars with captions, and a model that takes a millisecond for an image."""
    home = tmp_path_factory.mktemp("photos")
    (home / "source").mkdir()
    shapes = [(90, 60), (50, 80), (70, 70), (120, 40), (64, 48)]
    images = [jpeg(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    opened = [Image.open(io.BytesIO(each)).convert("RGB") for each in images]
    models.write_tiny(home / "model", opened)
    for shard in range(2):
        members = {"0.jpg": b"broken", "0.txt": b"none"}
        for i, image in enumerate(images[shard:], start=1):
            members |= {f"{i}.jpg": image, f"{i}.txt": f"caption {shard} {i}".encode()}
        (home / "source" / f"{shard}.tar").write_bytes(tar_of(members))
    return home


@pytest.fixture(scope="module")
def encoded(photos):
    """Sinks of those photos, by what they hold."""
    for name, options in CHOICES.items():
        extra = ("float32",) if options[-1] == "--latents-dtype" else ()
        words = ["encode", "--source", photos / "source", "--sink", photos / name]
        words += ["--model", photos / "model", "--pixel-range", "signed", "--skip-doctor"]
        words += ["--keep", "txt", "--max-rejected", 0.5, *options, *extra]
        assert plain.run([words]) == [0]
    return photos


@pytest.mark.parametrize("options", [(), ("--shuffle", 5)], ids=["in order", "shuffled"])
@pytest.mark.parametrize("name", CHOICES)
def test_compact_of_every_kind_of_rows_loses_none_of_them(encoded, tmp_path, name, options, capsys):
    assert run(encoded / name, tmp_path / "flat", 5, *options) == 0
    same_rows(encoded / name, tmp_path / "flat")
    first = pq.read_schema(files_of(encoded / name)[0])
    found = pq.read_schema(files_of(tmp_path / "flat")[0])
    assert found.names == [*first.names, "shard"]
    for field in first:
        assert found.field(field.name).equals(field, check_metadata=True), field.name
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "flat"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ready"]["answer"] in {"yes", "with care"}
    assert ("codebook_usage" in said) == (not name.startswith("no codes"))
    assert cli.main(["inspect", str(tmp_path / "flat")]) == 0


@pytest.mark.parametrize("name", ["grids", "latents"])
def test_decode_of_a_compacted_sink_gives_the_images_of_its_source(encoded, tmp_path, name):
    """Keys that several shards have are told apart by the shard."""
    assert run(encoded / name, tmp_path / "flat", 15, "--shuffle", 4) == 0
    model = ("--model", encoded / "model", "--format", "png", "--layout", "parquet")
    for source, sink in ((encoded / name, "images"), (tmp_path / "flat", "again")):
        words = ["decode", "--source", source, "--sink", tmp_path / sink, *model]
        assert plain.run([words]) == [0]
    before = {
        f"{row['key']}/{Path(file).stem}": row["image"]
        for file in files_of(tmp_path / "images")
        for row in pq.read_table(file, columns=["key", "image"]).to_pylist()
    }
    rows = in_order(tmp_path / "again", ["key", "image"]).to_pylist()
    assert {row["key"]: row["image"] for row in rows} == before
    assert len(rows) == len(before)


def test_compact_keeps_the_names_of_classes_that_datasets_shows(photos, tmp_path):
    said = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    images = [jpeg(50, 50, seed=seed) for seed in range(4)]
    table = pa.table({"image": images, "id": list("abcd"), "label": [0, 1, None, 1]})
    (tmp_path / "source").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": said}), tmp_path / "source" / "a.parquet"
    )
    words = ["encode", "--source", tmp_path / "source", "--sink", tmp_path / "codes", "--key", "id"]
    words += ["--model", photos / "model", "--pixel-range", "signed", "--skip-doctor"]
    assert plain.run([[*words, "--keep", "label", "--resolution", 32]]) == [0]
    assert run(tmp_path / "codes", tmp_path / "flat", 3, "--shuffle", 1) == 0
    found = datasets.load_dataset(
        str(tmp_path / "flat"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.features["label"].names == ["cat", "dog"]
    by_key = dict(zip(found["key"], found["label"], strict=True))
    assert by_key == {"a": 0, "b": 1, "c": None, "d": 1}


def test_evaluate_of_a_compacted_sink_names_the_one_that_its_rows_are_from(tmp_path, capsys):
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--source", str(tmp_path / "flat")]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert f"give the sink that they are from, which was {tmp_path / 'codes'}" in said


def test_diff_of_a_sink_and_its_compaction_shows_what_was_chosen_and_equal_codes(tmp_path, capsys):
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4, "--shuffle", 6) == 0
    capsys.readouterr()
    assert cli.main(["diff", str(tmp_path / "codes"), str(tmp_path / "flat"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["jensen_shannon"] == 0
    assert said["fields"].keys() == {
        *("stage", "shard_column"),
        *(f"compact.{name}" for name in ("source", "codes", "snapshot", "rows_per_file")),
        "compact.shuffle",
    }
    assert "other files" in said["codes"]["why_not"]
    assert cli.main(["diff", str(tmp_path / "flat"), str(tmp_path / "codes")]) == 0


def test_diff_of_two_compactions_in_one_order_compares_codes(tmp_path, capsys):
    make(tmp_path / "codes")
    for name in ("one", "two"):
        assert run(tmp_path / "codes", tmp_path / name, 4, "--shuffle", 6) == 0
    capsys.readouterr()
    assert cli.main(["diff", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["codes"]["equal"] == 1.0
    assert said["codes"]["samples"] == 18


def test_compact_in_which_codes_are_lost_is_not_marked_as_complete(tmp_path, capsys):
    """A file with other rows than it should have, sound by itself, as a bug of ours might leave."""
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    first, second, *_ = files_of(tmp_path / "flat")
    table = pq.ParquetFile(second).read()
    counts = np.bincount(np.concatenate(table["codes"].to_pylist()), minlength=16)
    rewrite(first, lambda _: table, {HISTOGRAM: pack_histogram(counts)})
    capsys.readouterr()
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 1
    assert "codes occur in it more or less often" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["verify", str(tmp_path / "flat"), "--json"]) == 1
    breaches = {each["check"] for each in json.loads(capsys.readouterr().out)["breaches"]}
    assert {"rows", "same"} <= breaches


def swap_rows(table):
    return table.take([1, 0, *range(2, len(table))])


def repeat_a_row(table):
    return table.take([0, 0, *range(2, len(table))])


def rename_a_shard(table):
    names = table["shard"].to_pylist()
    return table.set_column(
        table.column_names.index("shard"), "shard", pa.array(["other", *names[1:]], pa.string())
    )


def lose_a_row(table):
    return table.slice(1)


@pytest.mark.parametrize("change", [swap_rows, repeat_a_row, rename_a_shard, lose_a_row])
@pytest.mark.parametrize("options", [(), ("--shuffle", 5)], ids=["in order", "shuffled"])
def test_verify_of_a_compacted_sink_finds_rows_that_do_not_belong_where_they_are(
    tmp_path, capsys, change, options
):
    make(tmp_path / "codes", {"a": 20, "b": 20}, {})
    assert run(tmp_path / "codes", tmp_path / "flat", 10, *options) == 0
    rewrite(files_of(tmp_path / "flat")[1], change)
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "flat"), "--json"]) == 1
    breaches = {each["check"] for each in json.loads(capsys.readouterr().out)["breaches"]}
    assert "rows" in breaches


def test_verify_of_a_compacted_sink_needs_its_snapshot_and_not_its_source(tmp_path, capsys):
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    shutil.rmtree(tmp_path / "codes")
    assert cli.main(["verify", str(tmp_path / "flat")]) == 0
    (kept,) = (tmp_path / "flat" / "snapshot").iterdir()
    data = kept.read_bytes()
    kept.write_bytes(data[:-10])
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "flat"), "--json"]) == 1
    breaches = json.loads(capsys.readouterr().out)["breaches"]
    assert [(each["check"], each["where"]) for each in breaches] == [("plan", str(kept))]


def test_compact_counts_of_codes_are_checked_before_success(tmp_path):
    """`mark_success` refuses by itself, whatever calls it."""
    make(tmp_path / "codes")
    assert run(tmp_path / "codes", tmp_path / "flat", 4) == 0
    sink = open_sink(str(tmp_path / "flat"), load_run(str(tmp_path / "flat")))
    found = totals.read_totals(sink)
    found.histogram[0] += 1
    with pytest.raises(success.AccountingError, match="more or less often"):
        success.mark_success(sink, found)
