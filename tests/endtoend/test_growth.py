"""Sources that grow or change, and rejected samples that get another chance, as a user does it."""

import json
import os

import duckdb
import numpy as np
import pytest

from tests import shell
from tests.makers import encoded, jpeg, picture, tar_of
from vqpipe.commands import cli

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def members(numbers, size=(60, 40)):
    return {f"{i:03d}.jpg": jpeg(*size, seed=i) for i in numbers}


def encode(root, *options, **how):
    return shell.encode(root / "source", root / "sink", *options, **how)


def refused(root, capsys, *options):
    """Returns what a command says that ends with 3, and is over before Ray starts."""
    places = ("--source", root / "source", "--sink", root / "sink", "--model", shell.CHECKPOINT)
    arguments = ("encode", *places, "--resolution", 64, *options)
    assert cli.main([str(argument) for argument in arguments]) == 3
    return capsys.readouterr().err


def objects(root):
    return {path: path.stat().st_mtime_ns for path in (root / "sink" / "data").rglob("*.parquet")}


def planned(root):
    query = "SELECT name, generation FROM read_parquet(?) ORDER BY name"
    return dict(duckdb.sql(query, params=[str(root / "sink" / "plan.parquet")]).fetchall())


@pytest.mark.soak
@pytest.mark.fault(16)
def test_encode_a_source_that_grew_and_changed_encodes_just_that(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for name, numbers in (("a", range(4)), ("b", range(4, 9)), ("c", range(9, 12))):
        (source / f"{name}.tar").write_bytes(tar_of(members(numbers)))
    encode(tmp_path)
    run_json = (tmp_path / "sink" / "run.json").read_bytes()
    before = objects(tmp_path)

    (source / "new.tar").write_bytes(tar_of(members(range(12, 18))))
    (source / "b.tar").write_bytes(tar_of(members(range(30, 33))))
    said = refused(tmp_path, capsys)
    assert all(w in said for w in ("1 new: new", "--extend", "1 changed: b", "--replace-changed"))
    assert "--replace-changed" in refused(tmp_path, capsys, "--extend")
    assert objects(tmp_path) == before
    assert (tmp_path / "sink" / "_SUCCESS").exists()

    encode(tmp_path, "--extend", "--replace-changed")
    after = objects(tmp_path)
    same = {path.stem for path in before if before[path] == after[path]}
    assert same == {"a", "c"}
    assert planned(tmp_path) == {"a": 0, "b": 1, "c": 0, "new": 1}
    assert (tmp_path / "sink" / "run.json").read_bytes() == run_json
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "sink"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generations"] == [2, 2]
    found = shell.codes_by_key(tmp_path / "sink")
    shell.encode(source, tmp_path / "fresh")
    assert found == shell.codes_by_key(tmp_path / "fresh")
    assert sorted(map(int, found)) == [*range(4), *range(9, 18), *range(30, 33)]
    assert cli.main(["verify", str(tmp_path / "sink")]) == 0
    (source / "a.tar").unlink()
    assert "1 gone: a" in refused(tmp_path, capsys, "--extend", "--replace-changed")


@pytest.mark.soak
def test_encode_a_folder_that_gained_images_encodes_just_these(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(3, 9):
        (source / f"{i}.jpg").write_bytes(jpeg(60, 40, seed=i))
    encode(tmp_path)
    before = objects(tmp_path)
    (source / "0.jpg").write_bytes(jpeg(60, 40, seed=0))  # before the others, by name
    assert "1 new: images-000001" in refused(tmp_path, capsys)
    encode(tmp_path, "--extend")
    assert objects(tmp_path).items() > before.items()
    assert set(shell.codes_by_key(tmp_path / "sink")) == {f"{i}.jpg" for i in (0, *range(3, 9))}
    assert cli.main(["verify", str(tmp_path / "sink")]) == 0


@pytest.mark.soak
def test_encode_retry_rejected_tries_exactly_those_again(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    large = encoded(picture(200, 150, 7), "PNG")
    (source / "a.tar").write_bytes(
        tar_of({**members(range(4)), "large.png": large, "x.jpg": b"no image", **members([9])})
    )
    (source / "b.tar").write_bytes(tar_of(members(range(20, 24))))
    encode(tmp_path, "--max-pixels", 10_000, "--max-rejected", 0.5)
    before = objects(tmp_path)
    first = shell.codes_by_key(tmp_path / "sink")
    assert "large" not in first
    assert "max_pixels" in refused(tmp_path, capsys, "--max-pixels", 100_000)

    again = ("--retry-rejected", "--max-pixels", 100_000, "--max-rejected", 0.5)
    assert "try again" in encode(tmp_path, *again)
    summary = json.loads((tmp_path / "sink" / "summary.json").read_bytes())
    assert summary["images_this_run"] == 2
    after = objects(tmp_path)
    assert [path.stem for path in before if before[path] != after[path]] == ["a"]
    found = shell.codes_by_key(tmp_path / "sink")
    assert {key: found[key] for key in first} == first
    assert set(found) - set(first) == {"large"}
    rejected = shell.rows(tmp_path / "sink", "rejected")
    assert [(row["key"], row["reason"]) for row in rejected] == [("x", "not_an_image")]
    assert cli.main(["verify", str(tmp_path / "sink")]) == 0
    query = "SELECT row FROM read_parquet(?) ORDER BY row"
    stored = duckdb.sql(query, params=[str(tmp_path / "sink" / "data" / "a.parquet")]).fetchall()
    assert np.array(stored)[:, 0].tolist() == [0, 1, 2, 3, 4, 6]

    assert cli.main(["verify", str(tmp_path / "sink"), "--deep", "--share", "1"]) == 0
    os.remove(tmp_path / "sink" / "_SUCCESS")  # as if it had died there
    encode(tmp_path, "--max-pixels", 10_000, "--max-rejected", 0.5)
    assert objects(tmp_path) == after
