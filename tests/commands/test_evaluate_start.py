"""What `vqpipe evaluate` decides before anything is decoded."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.sink import sinks
from tests.sink.runs import start
from vqpipe.commands import evaluate
from vqpipe.commands.stage_jobs import Evaluate
from vqpipe.errors import ConfigError
from vqpipe.sink.plan import Plan
from vqpipe.sources import folder, list_shards
from vqpipe.sources.names import relative_path


def pick(writer):
    codes = writer.sink
    return evaluate._pick(Evaluate(source=writer.sink.uri, samples=10), codes)


def other_codes(rows):
    for row in rows:
        row["codes"] = row["codes"] and [1] * 6


def test_pick_is_of_the_objects_as_they_are(tmp_path):
    """Scores of codes that have been made again must not pass for those of the new ones."""
    writer = sinks.begin(tmp_path)
    for index in range(3):
        sinks.commit(writer, index, 20)
    before = pick(writer)
    assert pick(writer).sha256() == before.sha256()
    Path(writer.sink.uri, "data", "b.parquet").unlink()
    sinks.commit(writer, 1, 20, change=other_codes)
    after = pick(writer)
    assert after.quotas == before.quotas
    assert after.sha256() != before.sha256()


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """Shards of a folder that has gained an image which sorts before all others."""
    monkeypatch.setattr(folder, "IMAGES_PER_SHARD", 2)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).write_bytes(name.encode())
    planned = list_shards(str(photos)).shards
    (photos / "0.jpg").write_bytes(b"new")
    return photos, list_shards(str(photos), planned=planned).shards


def paths(shards):
    return {s.name: [relative_path(s.root, file.uri) for file in s.files] for s in shards}


def test_images_of_a_folder_that_moved_are_found_in_the_shards_that_they_were_in(
    extended, tmp_path
):
    photos, shards = extended
    writer = start(tmp_path / "sink", format="folder")
    codes = replace(writer.sink, plan=Plan.of(shards))
    moved = photos.rename(tmp_path / "moved")
    job = Evaluate(source=writer.sink.uri, images=str(moved))
    quotas = dict.fromkeys(paths(shards), 1)
    found = evaluate._find_images(job, codes, quotas)
    assert paths(found) == paths(shards)
    assert all(file.uri.startswith(str(moved)) for shard in found for file in shard.files)
    with pytest.raises(ConfigError, match="has no shard images-000099"):
        evaluate._find_images(job, codes, {**quotas, "images-000099": 1})
