"""The first samples of a source: how many there are in a shard, and how little is read to know."""

import gzip
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import encoded, jpeg, picture, tar_of
from vqpipe import storage
from vqpipe.rejections import Loss, Reason, Rejection
from vqpipe.schema import Sample, Selection
from vqpipe.sources import kept_schema, list_shards, read_shard, webdataset
from vqpipe.sources.limits import first_samples, first_shards
from vqpipe.stages.read import cut_short

SELECTIONS = (Selection(), Selection(key_until="last-dot"), Selection("seg.png"), Selection("png"))


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def tars():
    image, other = jpeg(seed=1), encoded(picture(9, 9), "PNG")
    plain = {f"{n}.{kind}": image for n in range(5) for kind in ("jpg", "txt", "seg.png")}
    odd = [
        *plain.items(),
        ("a/b.c.jpg", image),
        ("bare", other),
        ("bare2", b"no image"),
        (".hidden.jpg", image),
        ("._mac.jpg", image),
        (link("x.jpg", "0.jpg"), b""),
        ("3.jpg", image),  # a key that came before
        ("t.txt", b"\xff\xfe"),
        ("t.jpg", image),
        ("empty.jpg", b""),
    ]
    data = tar_of(odd)
    members = len(data) - 10_240 * 2
    cut = [data[:end] for end in range(512, members, 1_789)]
    return [
        tar_of(plain),
        data,
        tar_of({}),
        tar_of({"a.txt": b"alone"}),
        tar_of({".a.jpg": image}),
        tar_of({".a": b"x"}),
        b"",
        b"no tar at all" * 100,
        data + tar_of(plain),
        data[: len(data) // 2] + b"x" * 512 + data[len(data) // 2 :],
        gzip.compress(data, mtime=0),
        gzip.compress(data, mtime=0)[:-2000],
        *cut,
    ]


@pytest.mark.fault(18)
@pytest.mark.parametrize("selection", SELECTIONS, ids=range(len(SELECTIONS)))
def test_count_samples_is_what_reading_finds(tmp_path, selection):
    counts = set()
    for number, data in enumerate(tars()):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        (shard,) = list_shards(str(path), "webdataset").shards
        expected = len(list(read_shard(shard, selection, pa.schema([]))))
        assert webdataset.count_samples(shard, selection, 10**6) == expected, number
        assert webdataset.count_samples(shard, selection, 3) == min(3, expected)
        counts.add(expected)
    assert len(counts) > 5


def write(tmp_path, kind, counts):
    """Writes shards with so many samples each; returns the source."""
    for number, count in enumerate(counts):
        images = [jpeg(9, 9, seed=each) for each in range(count)]
        path = tmp_path / f"{number}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), path)
        else:
            path.write_bytes(tar_of({f"{each}.jpg": data for each, data in enumerate(images)}))
    return str(tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_first_samples_are_as_many_as_asked_for(tmp_path, kind):
    counts = (3, 0, 4, 2)
    listing = list_shards(write(tmp_path, kind, counts))
    selection = Selection("image") if kind == "parquet" else Selection()
    kept = kept_schema(listing, selection)
    for most, (shards, cut) in {
        1: (1, ("0", 1)),
        3: (1, None),
        4: (3, ("2", 1)),
        7: (3, None),
        8: (4, ("3", 1)),
        9: (4, None),
        10: (4, None),
    }.items():
        found, last = first_samples(listing, selection, most)
        assert (found.shards, last) == (listing.shards[:shards], cut)
        samples = [list(read_shard(shard, selection, kept)) for shard in found.shards]
        taken = [len(each) for each in samples]
        if last:
            taken[-1] = last[1]
        assert sum(taken) == min(most, sum(counts))
    assert first_shards(listing, 2).shards == listing.shards[:2]
    assert first_shards(listing, 9) == listing


def test_first_samples_of_a_folder_are_its_first_files(tmp_path, monkeypatch):
    monkeypatch.setattr("vqpipe.sources.folder.IMAGES_PER_SHARD", 4)
    for number in range(10):
        Path(tmp_path, f"{number}.jpg").write_bytes(jpeg(9, 9))
    listing = list_shards(str(tmp_path))
    found, last = first_samples(listing, Selection(), 6)
    assert (len(found.shards), last) == (2, ("images-000001", 2))
    assert first_samples(listing, Selection(), 10) == (listing, None)


def test_first_samples_of_damaged_parquet_count_its_rejection(tmp_path):
    source = write(tmp_path, "parquet", (2, 3))
    listing = list_shards(source)
    Path(source, "0.parquet").write_bytes(b"PAR1 nothing PAR1")
    listing = list_shards(source)
    found, last = first_samples(listing, Selection("image"), 2)
    assert (len(found.shards), last) == (2, ("1", 1))


def test_first_samples_do_not_look_at_what_comes_behind(tmp_path, monkeypatch):
    listing = list_shards(write(tmp_path, "tar", (3, 3, 3)))
    opened, real = [], storage.open_file
    monkeypatch.setattr(storage, "open_file", lambda file: opened.append(file.uri) or real(file))
    first_samples(listing, Selection(), 4)
    assert [uri.rpartition("/")[2] for uri in opened] == ["0.tar", "1.tar"]


def test_count_samples_passes_over_the_contents_of_a_plain_tar(tmp_path):
    """A hundred images of a megabyte each, of which a few kilobytes are read."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({f"{number}.jpg": bytes(2**20) for number in range(100)}))
    (shard,) = list_shards(str(path)).shards
    read = []

    class Watched(webdataset.Headers):
        def read(self, member):
            read.append(len(found := super().read(member)))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "Headers", Watched)
        assert webdataset.count_samples(shard, Selection(), 1_000) == 100
    assert read == [0] * 100


@pytest.mark.fault(18)
def test_cut_shard_loses_no_more_than_is_read_of_it():
    def damaged(loss):
        rejection = Rejection(Reason.SHARD_DAMAGED, "cut", loss)
        return [Sample(0, "a", b"x"), Sample(1, None, None, rejection)]

    for loss, expected in {
        Loss(50, "known"): Loss(3, "known"),
        Loss(2, "estimated"): Loss(2, "estimated"),
        Loss(None, "unknown"): Loss(None, "unknown"),
    }.items():
        *_, last = cut_short(iter(damaged(loss)), 4)
        assert last.rejection.loss == expected
    assert [each.row for each in cut_short(iter(damaged(Loss(50, "known"))), 1)] == [0]
