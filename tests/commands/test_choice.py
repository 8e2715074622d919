"""Runs of which a part of the source is taken: whole commands, but for the graph on Ray."""

import io
import json
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import plain, shell
from tests.makers import encoded, jpeg, picture, tar_of
from tests.sink.runs import query, visible
from vqpipe.commands import cli, launch
from vqpipe.inspection import reencode
from vqpipe.sink.commit import commit_rows
from vqpipe.stages.read import SampleReader

ROWS = 7


@pytest.fixture(autouse=True)
def _in_a_plain_loop(monkeypatch):
    def work(_, __, prepared, progress, ___):
        plain.work(prepared)
        for index in prepared.work.todo:
            progress.commit(index)

    monkeypatch.setattr(launch, "_work", work)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three Parquet files, of which image sizes are a column too; two images are damaged."""
    base = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(3)
    for number in range(3):
        sizes = rng.integers(20, 50, (ROWS, 2)).tolist()
        images = [jpeg(*size, seed=row) for row, size in enumerate(sizes)]
        images[2] = b"<html>" if number else images[2]
        columns = {
            "id": [f"{number}-{row}" for row in range(ROWS)],
            "image": pa.array(images, pa.binary()),
            "w": [size[0] for size in sizes],
            "h": [size[1] for size in sizes],
            "score": [None, 0.1, 0.9, float("nan"), 0.5, 0.3, 0.7],
            "caption": ["a", None, "b", "a", "c", "a", "b"],
            "row": list(range(ROWS)),
            "label kind": pa.array(["x", "y", "x", "x", "y", "x", None]).dictionary_encode(),
        }
        pq.write_table(pa.table(columns), base / f"{number}.parquet", row_group_size=3)
    return base


def encode(source, sink, *options, key="id", expect=0):
    keys = ["--key", key] if key else []
    words = ["encode", "--source", source, "--sink", sink, "--model", shell.CHECKPOINT, *keys]
    fixed = ["--resolution", "32", "--skip-doctor", "--pixel-range", "signed", "--audit", "0"]
    code = cli.main([*map(str, words), *fixed, "--max-rejected", "0.9", *options])
    assert code == expect


def said(*words):
    with redirect_stdout(io.StringIO()) as out:
        assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(out.getvalue())


def success(sink):
    return json.loads(Path(sink, "_SUCCESS").read_bytes())


def keys_where(source, sql):
    rows = duckdb.sql(f"SELECT id FROM read_parquet('{source}/*.parquet') WHERE {sql} ORDER BY 1")
    return [row[0] for row in rows.fetchall()]


def keys_in(sink, folder):
    return [row[0] for row in query(sink, folder, "DISTINCT key")]


WHERE = {
    "w >= 30 and score < 0.8": "w >= 30 AND score < 0.8 AND NOT isnan(score)",
    "score is None or caption in ['b', 'c']": "score IS NULL OR caption IN ('b', 'c')",
    "not caption == 'a' and column['label kind'] == 'x'": """NOT caption = 'a'
        AND "label kind" = 'x'""",
    "row / 2 >= 1 and 20 < w <= h": "row / 2 >= 1 AND 20 < w AND w <= h",
}


@pytest.mark.parametrize("where", WHERE)
def test_where_on_columns_takes_the_keys_that_sql_does(source, tmp_path, where):
    encode(source, tmp_path, "--where", where)
    wanted = keys_where(source, WHERE[where])
    assert sorted(keys_in(tmp_path, "data") + keys_in(tmp_path, "rejected")) == wanted
    assert keys_in(tmp_path, "left_out") == keys_where(source, f"id NOT IN {(*wanted, '')}")
    assert said("verify", tmp_path)["breaches"] == []


def test_where_on_size_takes_the_images_that_have_it(source, tmp_path):
    """What is no image has no size, and stays a rejection."""
    where = "width >= 35 and height / width < 0.9"
    encode(source, tmp_path, "--where", f"{where} and score is not None", "--views", "five-crop")
    sql = "w >= 35 AND h / w < 0.9 AND score IS NOT NULL AND octet_length(image) > 6"
    assert keys_in(tmp_path, "data") == keys_where(source, sql)
    assert query(tmp_path, "data", "DISTINCT view") == [(view,) for view in range(5)]
    assert keys_in(tmp_path, "rejected") == ["1-2", "2-2"]
    found = success(tmp_path)
    assert found["samples"] == 3 * ROWS == found["encoded"] + found["rejected"] + found["left_out"]
    by = found["left_out_by"]
    assert by["score is not None"] == 3
    assert set(by) == {"score is not None", "width >= 35", "height / width < 0.9"}
    assert sum(by.values()) == found["left_out"] == len(keys_in(tmp_path, "left_out"))
    seen = said("inspect", tmp_path)
    assert (seen["left_out"], seen["left_out_by"]) == (found["left_out"], by)
    assert "left out" in Path(tmp_path, "README.md").read_text()


def test_where_counts_for_no_limit_of_rejections(source, tmp_path):
    encode(source, tmp_path, "--where", "w > 1000", "--max-rejected", "0")
    assert said("inspect", tmp_path)["ready"]["answer"] == "no"
    assert (success(tmp_path)["encoded"], success(tmp_path)["left_out"]) == (0, 3 * ROWS)
    assert visible(tmp_path, "rejected") == []
    assert said("verify", tmp_path)["breaches"] == []


def test_where_however_spaced_is_one_run_and_another_is_another(source, tmp_path, capsys):
    encode(source, tmp_path, "--where", "w>30 and   (h<45)")
    encode(source, tmp_path, "--where", "(w > 30) and h < 45")
    encode(source, tmp_path, "--where", "w > 31 and h < 45", expect=3)
    encode(source, tmp_path, expect=3)
    assert "where: the sink has 'w > 30 and h < 45'" in capsys.readouterr().err


def test_where_retry_leaves_alone_what_was_left_out(source, tmp_path):
    where = ("--where", "width > 30 and caption is not None")
    encode(source, tmp_path, *where, "--max-pixels", "1200")
    before, wanted = query(tmp_path, "left_out", "*"), "w > 30 AND caption IS NOT NULL"
    large = keys_where(source, f"{wanted} AND w * h > 1200")
    assert keys_in(tmp_path, "rejected") == sorted({*large, "1-2", "2-2"})
    encode(source, tmp_path, *where, "--max-pixels", "9999", "--retry-rejected")
    assert query(tmp_path, "left_out", "*") == before != []
    assert keys_in(tmp_path, "rejected") == ["1-2", "2-2"]
    assert keys_in(tmp_path, "data") == keys_where(source, f"{wanted} AND octet_length(image) > 6")
    assert said("verify", tmp_path, "--deep", "--share", 1)["breaches"] == []


def test_where_evaluate_and_diff_go_on(source, tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    encode(source, one, "--where", "width > 30 and w < 45")
    encode(source, other)
    assert cli.main(["evaluate", "--source", str(one)]) == 0
    measured = json.loads((one / "evaluation.json").read_bytes())
    assert measured["samples"] == success(one)["encoded"]
    codes = said("diff", one, other)["codes"]
    assert codes["samples"] == success(one)["encoded"]
    assert codes["samples_unlike"] == 0


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("nothing > 1", "no column 'nothing'; columns: id (string)"),
        ("caption > 5", "caption is string, and 5 is int64"),
        ("width == 'a'", "width is int32, and 'a' is string"),
        ("width", "where true or false is wanted"),
        ("__import__('os')", "functions cannot be used"),
    ],
)
def test_where_that_does_not_go_with_the_source_is_refused(source, tmp_path, capsys, where, part):
    encode(source, tmp_path, "--where", where, expect=4)
    assert part in capsys.readouterr().err
    assert not Path(tmp_path, "run.json").exists()


def test_where_of_tars_asks_for_what_is_kept(tmp_path, capsys):
    source, sink = tmp_path / "tars", tmp_path / "sink"
    source.mkdir()
    members = {f"{n}.{kind}": value for n in range(4) for kind, value in
               (("jpg", jpeg(20 + n, 30)), ("txt", b"ab"[n % 2:][:1]))}  # fmt: skip
    members["9.jpg"] = jpeg()  # without a text
    (source / "a.tar").write_bytes(tar_of(members))
    encode(source, sink, "--where", "txt == 'a'", key=None, expect=4)
    assert "nothing is; name columns with --keep first" in capsys.readouterr().err
    encode(source, sink, "--where", "txt == 'a' and width > 20", "--keep", "txt", key=None)
    assert keys_in(sink, "data") == ["2"]
    assert query(sink, "left_out", "key, why") == [
        ("0", "width > 20"), ("1", "txt == 'a'"), ("3", "txt == 'a'"), ("9", "txt == 'a'")
    ]  # fmt: skip


def test_where_of_a_folder_asks_for_sizes_of_upright_images(tmp_path, capsys):
    source, sink = tmp_path / "images", tmp_path / "sink"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (source / "lying.jpg").write_bytes(encoded(picture(60, 30), "JPEG", exif=exif))
    (source / "wide.jpg").write_bytes(encoded(picture(60, 30), "JPEG"))
    encode(source, sink, "--where", "caption == 'a'", key=None, expect=4)
    assert "drop them, or ask for width and height" in capsys.readouterr().err
    encode(source, sink, "--where", "width < height", key=None)
    assert query(sink, "data", "key, width, height") == [("lying.jpg", 30, 60)]


class Killed(BaseException):
    """Ends a command as a signal would."""


def test_where_run_that_dies_amid_its_commits_is_completed_by_the_next(
    source, tmp_path, monkeypatch
):
    options = ("--where", "width > 30 and caption != 'c'", "--views", "five-crop", "--limit", "16")
    encode(source, tmp_path / "whole", *options)
    for after in (1, 4, 7):
        sink, left = tmp_path / str(after), iter(range(after))

        def commit(table, writer, left=left):
            for start in range(0, len(table), 2 * 5):  # two samples at a time, staged
                if next(left, None) is None:
                    raise Killed
                commit_rows(table.slice(start, 2 * 5), writer)

        with monkeypatch.context() as patch:
            patch.setattr(plain, "commit_rows", commit)
            try:
                encode(source, sink, *options)
            except Killed:
                assert not Path(sink, "_SUCCESS").exists()
        encode(source, sink, *options)
        for folder in ("data", "left_out", "rejected"):
            assert query(sink, folder, "*") == query(tmp_path / "whole", folder, "*")
        assert visible(sink, "staging") == []


def test_verify_deep_finds_what_is_left_out_and_should_not_be(source, tmp_path, monkeypatch):
    encode(source, tmp_path, "--where", "width > 30 and score < 0.8", "--limit", "10")
    deep = said("verify", tmp_path, "--deep", "--share", 1)
    assert (deep["breaches"], deep["deep"]["shards"]) == ([], 2)
    assert (deep["deep"]["views"], deep["deep"]["unlike"]) == (success(tmp_path)["encoded"], 0)

    def of_no_condition(run, selection, kept):
        return SampleReader(selection, kept, cut=run.facts.limit_last)

    monkeypatch.setattr(reencode, "reader_of", of_no_condition)
    assert cli.main(["verify", str(tmp_path), "--deep", "--share", "1", "--json"]) == 1


@pytest.mark.parametrize(("limit", "shards"), [(7, 1), (8, 2), (99, 3)])
def test_limit_takes_as_many_samples_and_no_more(source, tmp_path, limit, shards):
    encode(source, tmp_path, "--limit", str(limit), "--where", "w > 25")
    found = success(tmp_path)
    assert (found["samples"], found["shards"]) == (min(limit, 3 * ROWS), shards)
    keys = [key for folder in ("data", "rejected", "left_out") for key in keys_in(tmp_path, folder)]
    assert sorted(keys) == keys_where(source, "true")[:limit]
    assert said("verify", tmp_path)["breaches"] == []


def test_limit_of_shards_and_images_is_what_both_allow(source, tmp_path):
    encode(source, tmp_path / "a", "--limit-shards", "2")
    assert success(tmp_path / "a")["samples"] == 2 * ROWS
    encode(source, tmp_path / "b", "--limit-shards", "1", "--limit", "9")
    assert success(tmp_path / "b")["samples"] == ROWS
    encode(source, tmp_path / "b", expect=3)


def write_tars(source, names, count=3):
    source.mkdir(exist_ok=True)
    for name in names:
        members = {f"{name}{n}.jpg": jpeg(30, 20, seed=n) for n in range(count)}
        (source / f"{name}.tar").write_bytes(tar_of(members))


def test_limit_goes_on_with_its_own_shards_when_the_source_has_grown(tmp_path, capsys):
    source, sink = tmp_path / "tars", tmp_path / "sink"
    write_tars(source, "bd")
    options = ("--limit", "5")
    encode(source, sink, *options, key=None)
    assert keys_in(sink, "data") == ["b0", "b1", "b2", "d0", "d1"]
    assert "the first 5 images: 2 of 2 shard(s), the last one cut at row 2" in (
        capsys.readouterr().err
    )
    for name in ("_SUCCESS", "data/d.parquet"):
        Path(sink, name).unlink()
    write_tars(source, "ace", 1)
    encode(source, sink, *options, key=None)
    assert keys_in(sink, "data") == ["b0", "b1", "b2", "d0", "d1"]
    assert "2 of 5 shard(s), the last one cut at row 2" in capsys.readouterr().err
    assert json.loads(Path(sink, "run.json").read_bytes())["limit_last"] == ["d", 2]
    for growth in ("--extend", "--replace-changed"):
        encode(source, sink, *options, growth, key=None, expect=4)
        assert f"{growth} takes in more of a source" in capsys.readouterr().err


def test_limit_does_not_read_what_comes_behind(tmp_path):
    source, sink = tmp_path / "tars", tmp_path / "sink"
    write_tars(source, "abc")
    with tarfile.open(source / "a.tar") as tar:
        assert len(tar.getnames()) == 3
    (source / "c.tar").write_bytes(b"what reading would reject" * 1000)
    encode(source, sink, "--limit", "4", key=None)
    assert (success(sink)["samples"], success(sink)["damaged_shards"]) == (4, 0)
