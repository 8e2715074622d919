"""A dry run: what it says, what it refuses, and that it leaves everything as it was."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import vqpipe
from tests import plain, shell
from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.errors import IncompleteError

PHOTOS, MOST_ROWS = 70, 64
"""Of a tar; rows of a block of `tests.plain`, so that a tar is more than one."""


def source_of(place, tars=2):
    uri = storage.join_uri(place, "source")
    for tar in range(tars):
        members = {f"{tar}-{i:03d}.jpg": jpeg(40, 40, seed=i) for i in range(PHOTOS)}
        storage.publish(storage.join_uri(uri, f"{tar:03d}.tar"), tar_of(members))
    return uri


def asked(source, sink, *options):
    model = ("--model", str(shell.CHECKPOINT), "--pixel-range", "signed", "--skip-doctor")
    places = ("--source", source, "--sink", sink, "--resolution", "16")
    return ["encode", *places, *model, *options]


def contents(sink):
    """Returns every object of a sink with its bytes."""
    return {file.uri: storage.read(file.uri) for file in storage.list_files(sink)}


def half_finish(source, sink, monkeypatch):
    """Commits the first tar and stages a block of the second."""
    real, calls = plain.commit_rows, iter(range(100))

    def commit(*given):
        if next(calls) == 3:
            raise IncompleteError("stopped")
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(plain, "commit_rows", commit)
        assert plain.run([asked(source, sink)]) == [2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Source and finished sink; no test changes either."""
    place = str(tmp_path_factory.mktemp("finished"))
    source, sink = source_of(place, 1), f"{place}/sink"
    assert plain.run([asked(source, sink)]) == [0]
    return source, sink


@pytest.mark.s3
def test_dry_run_half_finished_sink_is_left_as_it_was_and_asked_for_nothing_but_reading(
    bucket, proxy, monkeypatch, capsys
):
    source, fresh, half = source_of(bucket), f"{bucket}/fresh", f"{bucket}/half"
    half_finish(source, half, monkeypatch)
    before, requests = contents(half), len(proxy.log)
    assert any("/staging/" in uri for uri in before)
    assert cli.main(asked(source, half, "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "1 of 2 shard(s)" in said
    assert "it would go on" in said
    assert cli.main(asked(source, fresh, "--dry-run")) == 0
    assert "this would begin one" in capsys.readouterr().out
    asked_for = {method for method, _, _ in proxy.log[requests:]}
    storage.publish(f"{source}/002.tar", tar_of({"a.jpg": jpeg(40, 40)}))
    requests = len(proxy.log)
    assert cli.main(asked(source, half, "--dry-run")) == 3
    assert cli.main(asked(source, half, "--dry-run", "--extend")) == 0
    assert "2 of 3 shard(s)" in capsys.readouterr().out
    asked_for |= {method for method, _, _ in proxy.log[requests:]}
    assert asked_for == {"GET", "HEAD"}
    assert contents(half) == before
    assert not storage.list_files(fresh)


def test_dry_run_new_sink_has_nothing_in_it_and_says_how_much_there_is(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.jpg").write_bytes(jpeg(40, 40, seed=i))
    sink = tmp_path / "sink"
    result = vqpipe.encode(
        source=photos, sink=sink, model=str(shell.CHECKPOINT), resolution=16, dry_run=True
    )
    assert result.totals == {"shards_planned": 1, "shards_left": 1, "images_left": 3}
    assert not sink.exists()
    assert cli.main(asked(str(photos), str(sink), "--dry-run")) == 0
    assert "this would begin one" in capsys.readouterr().out


def test_dry_run_finished_sink_keeps_its_success(finished, capsys):
    source, sink = finished
    before = contents(sink)
    assert cli.main(asked(source, sink, "--dry-run", "--retry-rejected")) == 0
    assert contents(sink) == before
    assert "0 of 1 shard(s)" in capsys.readouterr().out


REFUSED = {
    "another resolution": (("--resolution", "64"), 3),
    "no such model": (("--model", "nowhere"), 4),
    "a model of no such size": (("--resolution", "33"), 4),
    "no GPU": (("--device", "cuda"), 4),
    "no cluster": (("--address", "127.0.0.1:1"), 4),
}


@pytest.mark.parametrize(("options", "code"), REFUSED.values(), ids=REFUSED)
def test_dry_run_of_what_a_run_refuses_ends_as_it_would(finished, options, code, capsys):
    source, sink = finished
    before = contents(sink)
    assert cli.main(asked(source, sink, *options, "--dry-run")) == code
    assert "error: " in capsys.readouterr().err
    assert contents(sink) == before


def test_dry_run_source_that_has_changed_ends_with_3_and_would_be_taken_in(tmp_path, capsys):
    source, sink = source_of(str(tmp_path), 1), str(tmp_path / "sink")
    assert plain.run([asked(source, sink)]) == [0]
    Path(source, "000.tar").write_bytes(tar_of({"a.jpg": jpeg(40, 40)}))
    assert cli.main(asked(source, sink, "--dry-run")) == 3
    before = contents(sink)
    assert cli.main(asked(source, sink, "--dry-run", "--replace-changed")) == 0
    assert "1 of 1 shard(s)" in capsys.readouterr().out
    assert contents(sink) == before


def test_dry_run_decode_writes_nothing(tmp_path, finished, capsys):
    _, sink = finished
    images = tmp_path / "images"
    assert cli.main(["decode", "--source", sink, "--sink", str(images), "--dry-run"]) == 0
    assert not images.exists()
    said = capsys.readouterr().out
    rows = pq.read_metadata(f"{sink}/data/000.parquet").num_rows
    assert f"images left       {rows}\n" in said
