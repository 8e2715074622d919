"""What only the source can show: that codes are those of the right image."""

import itertools
import json
import shutil

import pytest

from tests import plain, shell
from tests.makers import jpeg, tar_of
from tests.sink.damage import rewrite, set_column
from tests.sink.runs import tar_shard
from vqpipe.commands import cli
from vqpipe.inspection.reencode import pick_shards
from vqpipe.sink.plan import Plan


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoded")
    (root / "source").mkdir()
    for shard in range(3):
        images = {f"{shard}{i}.jpg": jpeg(60, 40, seed=10 * shard + i) for i in range(5)}
        texts = {f"{shard}{i}.txt": f"text {i}".encode() for i in range(5)}
        members = {**images, f"{shard}7.jpg": b"no image", **texts}
        (root / "source" / f"{shard}.tar").write_bytes(tar_of(dict(sorted(members.items()))))
    plain.encode(root / "source", root / "sink", "--keep", "txt", "--max-rejected", 0.5)
    return root


@pytest.fixture
def sink(encoded, tmp_path):
    shutil.copytree(encoded / "sink", tmp_path / "sink")
    return tmp_path / "sink"


def verify(sink, capsys, *options):
    """Returns exit code and what was found, all shards encoded again."""
    capsys.readouterr()
    code = cli.main(["verify", str(sink), "--json", "--deep", "--share", "1", *options])
    return code, json.loads(capsys.readouterr().out or "null")


def swap(values):
    values[0], values[1] = values[1], values[0]


def test_verify_deep_of_a_sound_sink_finds_equal_codes(sink, capsys):
    code, found = verify(sink, capsys)
    assert code == 0
    assert found["deep"] == {"shards": 3, "views": 15, "codes": 15 * 256, "unlike": 0}
    assert cli.main(["verify", str(sink), "--deep"]) == 0
    assert "0 of 1,280 codes differ, in 5 views of 1 shard(s)" in capsys.readouterr().out


def test_verify_deep_of_drafted_photos_finds_equal_codes(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    images = {f"{i}.jpg": jpeg(301, 263, seed=i) for i in range(3)}
    (tmp_path / "source" / "a.tar").write_bytes(tar_of(images))
    for name, options in (("plain", ()), ("drafted", ("--draft",))):
        plain.encode(tmp_path / "source", tmp_path / name, *options)
        code, found = verify(tmp_path / name, capsys)
        assert (code, found["deep"]["views"], found["deep"]["unlike"]) == (0, 3, 0)
    assert shell.codes_by_key(tmp_path / "plain") != shell.codes_by_key(tmp_path / "drafted")


def claim(value):
    """Returns a change that has the first two rows say a value which is not theirs."""

    def change(values):
        values[:2] = [value, value]

    return change


CLAIMS = {"crop": [0, 0, 1, 1], "flip": True, "width": 61, "height": 41}
SWAPPED = [("codes", swap, "codes_again"), ("key", swap, "source_again")]
CLAIMED = [(column, claim(value), "source_again") for column, value in CLAIMS.items()]


@pytest.mark.parametrize(("column", "change", "check"), SWAPPED + CLAIMED)
def test_verify_deep_alone_catches_rows_that_are_not_their_images(
    sink, capsys, column, change, check
):
    rewrite(sink / "data" / "1.parquet", set_column(column, change))
    (sink / "_SUCCESS").unlink()  # it knows the sizes of files
    assert cli.main(["verify", str(sink)]) == 2
    capsys.readouterr()
    code, found = verify(sink, capsys)
    assert code == 1
    assert {each["check"] for each in found["breaches"]} == {check}
    assert len(found["breaches"]) == 2
    assert all(each["where"].endswith("data/1.parquet") for each in found["breaches"])


def test_verify_deep_source_that_is_another_is_refused_by_name(encoded, sink, capsys):
    path = encoded / "source" / "2.tar"
    original, times = path.read_bytes(), path.stat()
    try:
        path.write_bytes(tar_of({"20.jpg": jpeg(60, 40)}))
        assert verify(sink, capsys)[0] == 3
    finally:
        path.write_bytes(original)
        shutil.os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify(sink, capsys)[0] == 0


def test_verify_deep_with_another_model_is_refused(sink, capsys, tmp_path):
    from vqpipe.vqgan import VQModel

    VQModel(block_out_channels=(64,), num_vq_embeddings=16).save_pretrained(tmp_path / "other")
    assert verify(sink, capsys, "--model", str(tmp_path / "other"))[0] == 3
    assert verify(sink, capsys, "--model", str(shell.CHECKPOINT))[0] == 0


def test_pick_shards_larger_share_holds_the_smaller():
    plan = Plan.of(tar_shard(f"{i:03d}") for i in range(100))
    done = list(range(0, 100, 2))
    picks = [set(pick_shards(plan, done, share)) for share in (0.001, 0.1, 0.5, 1)]
    assert [len(pick) for pick in picks] == [1, 5, 25, 50]
    assert all(a <= b <= set(done) for a, b in itertools.pairwise(picks))
