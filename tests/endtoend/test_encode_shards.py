"""Many shards, each read and opened by one process, and few, which several share."""

import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from vqpipe.engine import capacity
from vqpipe.engine.portions import SHARDS_A_CORE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak]


def test_encode_codes_are_the_same_however_many_shards_there_are(tmp_path):
    shards = int(SHARDS_A_CORE * capacity.cores()) + 1
    images = {f"{i:03d}.jpg": jpeg(50 + i, 40, seed=i) for i in range(2 * shards)}
    images["007.jpg"] = b"<html>"
    names = sorted(images)
    for folder in ("many", "one"):
        (tmp_path / folder).mkdir()
    for shard in range(shards):
        members = {name: images[name] for name in names[2 * shard : 2 * shard + 2]}
        (tmp_path / "many" / f"{shard:03d}.tar").write_bytes(tar_of(members))
    (tmp_path / "one" / "0.tar").write_bytes(tar_of(images))
    found = {}
    for folder in ("many", "one"):
        shell.encode(tmp_path / folder, tmp_path / f"{folder}-sink", "--max-rejected", "1")
        found[folder] = shell.codes_by_key(tmp_path / f"{folder}-sink")
        assert [row["key"] for row in shell.rows(tmp_path / f"{folder}-sink", "rejected")] == [
            "007"
        ]
    assert len(found["many"]) == 2 * shards - 1
    assert found["many"] == found["one"]
