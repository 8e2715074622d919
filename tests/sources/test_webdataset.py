import gzip
import io
import pickle
import subprocess
import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.errors import ConfigError, SourceChangedError
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, list_shards, read_shard, webdataset

BLOCK = 512


@pytest.fixture
def read(tmp_path):
    """Reads the bytes of one tar into a list of samples."""

    def read(data, selection=None, name="shard.tar"):
        selection = selection or Selection()
        (tmp_path / name).write_bytes(data)
        listing = list_shards(str(tmp_path / name), "webdataset")
        (shard,) = listing.shards
        return list(read_shard(shard, selection, kept_schema(listing, selection)))

    return read


def reasons(samples):
    return [(sample.key, sample.rejection and sample.rejection.reason) for sample in samples]


def header(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def with_size_field(block, field):
    """Returns a header block with other bytes in its size field and a correct checksum."""
    block = block[:124] + field + block[136:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def test_read_shard_members_with_one_key_are_one_sample(read):
    image, other = jpeg(seed=1), jpeg(seed=2)
    members = {"a.txt": b"text", "a.jpg": image, "a.json": b"{}", "b.jpg": other}
    first, second = read(tar_of(members), Selection(keep=("txt", "json")))
    assert (first.row, first.key, first.data) == (0, "a", image)
    assert first.kept == {"txt": pa.array(["text"]), "json": pa.array(["{}"])}
    assert (second.row, second.key, second.data, second.kept) == (1, "b", other, {})


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train/0001.jpg", "train/0001"),
        ("./train/0001.JPG", "train/0001"),
        ("v1.0/a.jpeg", "v1.0/a"),
        ("../../etc/a.png", "../../etc/a"),
        ("/absolute/a.webp", "/absolute/a"),
        ("n" * 4000 + ".jpg", "n" * 4000),
        ("emoji 🎉\n.gif", "emoji 🎉\n"),
    ],
)
def test_read_shard_key_is_the_path_up_to_the_first_dot(read, name, key):
    assert reasons(read(tar_of({name: b"x"}))) == [(key, None)]


@pytest.mark.fault(26)
def test_read_shard_name_that_is_not_utf8_is_escaped(read):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(header(name, size=1), io.BytesIO(b"x"))
        assert reasons(read(buffer.getvalue())) == [("caf\\xe9", None)]


def test_read_shard_several_images_takes_the_preferred_extension(read):
    (sample,) = read(tar_of({"a.gif": b"gif", "a.jpg": b"jpg", "a.png": b"png"}))
    assert sample.data == b"jpg"


def test_read_shard_selected_extension_is_the_image(read):
    members = {"a.jpg": b"photo", "a.seg.png": b"mask", "b.jpg": b"photo"}
    first, second = read(tar_of(members), Selection(image="seg.png"))
    assert first.data == b"mask"
    assert second.rejection.reason == Reason.NO_IMAGE


def test_read_shard_images_that_are_not_taken_are_counted(read):
    members = {"a.jpg": b"1", "a.png": b"2", "a.seg.png": b"3", "a.txt": b"4", "b.jpg": b"5"}
    assert [sample.passed_over for sample in read(tar_of(members))] == [2, 0]


def test_read_shard_sample_of_many_images_of_which_none_is_taken_is_no_single_loss(read):
    members = {"a.left.png": b"1", "a.right.png": b"2", "a.json": b"3", "b.jpg": b"4"}
    first, second = read(tar_of(members))
    assert first.rejection.loss == Loss(2, "known")
    assert second.rejection is None


def test_read_shard_longer_extension_is_no_image_unless_selected(read):
    assert reasons(read(tar_of({"a.seg.png": b"mask"}))) == [("a", Reason.NO_IMAGE)]


@pytest.mark.fault(23)
def test_read_shard_sample_without_image_names_what_there_is(read):
    (sample,) = read(tar_of({"a.txt": b"text", "a.json": b"{}"}))
    assert sample.rejection.reason == Reason.NO_IMAGE
    assert ".txt, .json" in sample.rejection.message


@pytest.mark.fault(23)
def test_read_shard_interleaved_members_are_named(read):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.jpg", b"4")]
    samples = read(tar_of(members))
    duplicate = Reason.DUPLICATE_KEY
    assert reasons(samples) == [("a", None), ("b", None), ("a", duplicate), ("b", duplicate)]
    assert "side by side" in samples[2].rejection.message


@pytest.mark.fault(23)
def test_read_shard_same_member_twice_in_a_row_is_a_duplicate(read):
    samples = read(tar_of([("a.jpg", b"1"), ("a.jpg", b"2")]))
    assert reasons(samples) == [("a", None), ("a", Reason.DUPLICATE_KEY)]
    assert samples[0].data == b"1"


def test_read_shard_hidden_files_and_folders_are_no_samples(read):
    folder = header("train", type=tarfile.DIRTYPE)
    members = [(folder, b""), ("train/._a.jpg", b"finder"), (".b.txt", b""), ("train/a.jpg", b"x")]
    assert reasons(read(tar_of(members))) == [("train/a", None)]


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_read_shard_link_or_device_is_rejected_and_not_followed(read, kind):
    link = header("b.jpg", type=kind, linkname="/etc/passwd")
    beside = header("a.txt", type=kind, linkname="a.jpg")
    samples = read(tar_of([("a.jpg", b"x"), (beside, b""), (link, b"")]))
    assert reasons(samples) == [("a", None), ("b", Reason.NO_IMAGE)]
    assert "b.jpg is a link" in samples[1].rejection.message


def test_read_shard_kept_text_that_is_not_utf8_is_rejected(read):
    samples = read(tar_of({"a.jpg": b"x", "a.txt": b"\xff\xfe"}), Selection(keep=("txt",)))
    assert reasons(samples) == [("a", Reason.BAD_METADATA)]
    assert reasons(read(tar_of({"a.jpg": b"x", "a.txt": b"\xff\xfe"}))) == [("a", None)]


@pytest.mark.fault(25)
def test_read_shard_pickles_are_never_loaded(read):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    array = io.BytesIO()
    np.save(array, np.array([Bomb()], dtype=object), allow_pickle=True)
    bombs = dict.fromkeys(["pkl", "pickle", "pt", "pth", "pyd", "cls"], pickle.dumps(Bomb()))
    bombs |= {"npy": array.getvalue(), "npz": array.getvalue()}
    members = {"a.jpg": b"x"} | {f"a.{name}": data for name, data in bombs.items()}
    assert reasons(read(tar_of(members))) == [("a", None)]
    (sample,) = read(tar_of(members), Selection(image="pkl"))
    assert sample.data == bombs["pkl"], "bytes like any other"
    (sample,) = read(tar_of(members), Selection(keep=("npy",)))
    assert sample.rejection.reason == Reason.BAD_METADATA


@pytest.mark.fault(25)
def test_read_shard_members_not_wanted_stay_out_of_memory(tmp_path):
    (tmp_path / "shard.tar").write_bytes(tar_of({"a.jpg": b"x", "a.mp4": bytes(64 * 2**20)}))
    (shard,) = list_shards(str(tmp_path)).shards
    tracemalloc.start()
    try:
        samples = list(webdataset.read_shard(shard, Selection(), kept_schema_of()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reasons(samples) == [("a", None)]
    assert peak < 32 * 2**20


def kept_schema_of(*names):
    return webdataset.kept_schema((), Selection(keep=names))


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_read_shard_is_equal_on_every_read(read, compress):
    data = compress(tar_of({f"{i:03d}.jpg": jpeg(seed=i) for i in range(20)}))
    name = "shard.tar" if compress is bytes else "shard.tar.gz"
    samples = read(data, name=name)
    assert [sample.row for sample in samples] == list(range(20))
    assert samples == read(data, name=name)
    assert samples[7].data == jpeg(seed=7)


def test_read_shard_gzip_of_several_parts_is_read_whole(read):
    data = tar_of({f"{i}.jpg": b"x" for i in range(9)})
    parts = gzip.compress(data[:3000]) + gzip.compress(data[3000:])
    assert len(read(parts, name="shard.tgz")) == 9


@pytest.mark.fault(23)
def test_read_shard_empty_tar_has_no_samples(read):
    assert read(tar_of({})) == []


@pytest.mark.fault(23)
@pytest.mark.parametrize("data", [b"<html>503</html>" * 100, b"", b"short", b"\x1f\x8bno gzip"])
def test_read_shard_no_tar_at_all_is_one_rejection(read, data):
    assert reasons(read(data)) == [(None, Reason.SHARD_DAMAGED)]


def two_samples():
    """Returns a tar of three blocks a member, one of header, two of image, and no end mark."""
    data = tar_of({"a.jpg": b"A" * 600, "b.jpg": b"B" * 600})
    return data[: 6 * BLOCK]


@pytest.mark.fault(22)
def test_read_shard_without_end_mark_may_be_cut(read):
    samples = read(two_samples())
    assert reasons(samples) == [("a", None), ("b", None), (None, Reason.SHARD_DAMAGED)]
    assert samples[2].rejection.loss == Loss(None, "unknown")
    assert "end mark" in samples[2].rejection.message


@pytest.mark.fault(22)
@pytest.mark.parametrize("cut", [4 * BLOCK, 4 * BLOCK + 1, 4 * BLOCK + 599])
def test_read_shard_cut_inside_a_member_names_its_key(read, cut):
    samples = read(two_samples()[:cut])
    assert reasons(samples) == [("a", None), ("b", Reason.SHARD_DAMAGED)]
    assert "'b.jpg' at byte 2048" in samples[1].rejection.message


@pytest.mark.fault(22)
def test_read_shard_cut_inside_a_header_is_one_rejection_without_key(read):
    samples = read(two_samples()[: 3 * BLOCK + 100])
    assert reasons(samples) == [("a", None), (None, Reason.SHARD_DAMAGED)]


@pytest.mark.fault(23)
def test_read_shard_damaged_header_is_not_taken_for_the_end(read):
    data = bytearray(two_samples())
    data[3 * BLOCK + 5] ^= 0xFF
    assert reasons(read(bytes(data))) == [("a", None), (None, Reason.SHARD_DAMAGED)]


@pytest.mark.fault(23)
def test_read_shard_hole_of_zeros_is_not_taken_for_the_end(read):
    data = tar_of({"a.jpg": b"A" * 600, "b.jpg": b"B" * 600})
    data = data[: 3 * BLOCK] + bytes(2 * BLOCK) + data[3 * BLOCK :]
    assert reasons(read(data)) == [("a", None), ("b", None)]


def many(count=20, size=600):
    """Returns a tar of so many samples of three blocks each, and no end mark."""
    data = tar_of({f"{i:02d}.jpg": bytes([i + 1]) * size for i in range(count)})
    return data[: 3 * BLOCK * count]


@pytest.mark.fault(22)
def test_read_shard_damage_in_the_middle_loses_what_the_bytes_left_hold(read):
    data = bytearray(many() + bytes(2 * BLOCK))
    data[3 * 5 * BLOCK + 5] ^= 0xFF
    *kept, last = read(bytes(data))
    assert len(kept) == 5
    assert last.rejection.loss == Loss(16, "estimated"), "15 samples and the end mark's blocks"


@pytest.mark.fault(22)
def test_read_shard_damage_in_the_middle_of_a_gzip_loses_what_the_bytes_left_hold(read):
    noise = np.random.default_rng(0)
    whole = tar_of({f"{i:03d}.jpg": noise.bytes(9000) for i in range(200)})
    data = bytearray(gzip.compress(whole, compresslevel=1))
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    *kept, last = read(bytes(data), name="shard.tar.gz")
    assert last.rejection.lost_by == "estimated"
    assert abs(len(kept) + last.rejection.lost - 200) <= 5


@pytest.mark.fault(22)
@pytest.mark.parametrize("cut", [3 * 5 * BLOCK + 100, 3 * 5 * BLOCK + 700, 3 * 5 * BLOCK])
def test_read_shard_cut_loses_an_unknown_number(read, cut):
    *kept, last = read(many()[:cut])
    assert [sample.key for sample in kept] == [f"{i:02d}" for i in range(5)]
    assert last.rejection.loss == Loss(None, "unknown")


@pytest.mark.fault(22)
@pytest.mark.parametrize("size", [10**9, 2**32], ids=["readable", "larger_than_is_read"])
def test_read_shard_absurd_size_in_a_large_tar_is_no_cut(read, size):
    data = many()
    at = 3 * 5 * BLOCK
    damage = with_size_field(data[at : at + BLOCK], b"%011o\0" % size)
    *kept, last = read(data[:at] + damage + data[at + BLOCK :] + bytes(2 * BLOCK))
    assert sum(sample.rejection is None for sample in kept) == 5
    assert last.rejection.loss == Loss(16, "estimated")


@pytest.mark.fault(22)
def test_read_shard_made_at_full_size_and_never_filled_is_damaged(read):
    zeros = 8 * 2**20
    *kept, last = read(many(count=20) + bytes(zeros))
    assert len(kept) == 20
    assert last.rejection.lost_by == "estimated"
    assert last.rejection.lost == pytest.approx(zeros / (3 * BLOCK), rel=0.01)


@pytest.mark.parametrize(
    "end",
    [
        bytes(BLOCK),  # one of the two blocks that POSIX wants
        bytes(2 * BLOCK),  # Go's archive/tar, Rust's tar, node's tar-stream
        bytes(2 * BLOCK) + b"\n",
        bytes(2 * BLOCK) + b"-- uploaded by hand --\n" * 40,
        bytes(10_240),  # GNU tar, Python's tarfile and with it webdataset, img2dataset
        bytes(2 * BLOCK) + bytes(range(1, 256)) * 30,  # a record whose rest was never cleared
        bytes(2**20),  # GNU tar with --blocking-factor 2048
        bytes(100),  # cut within the end mark: nothing is lost
    ],
    ids=["one", "two", "newline", "text", "record", "stale", "factor", "part"],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_read_shard_end_as_writers_leave_it_is_no_damage(read, end, compress):
    samples = read(compress(many(count=3) + end))
    assert reasons(samples) == [("00", None), ("01", None), ("02", None)]


@pytest.mark.parametrize("rest", [b"\n", bytes(512), b"rubbish" * 100])
def test_read_shard_bytes_after_a_gzip_are_no_damage(read, rest):
    data = gzip.compress(many(count=3) + bytes(2 * BLOCK))
    assert reasons(read(data + rest)) == [("00", None), ("01", None), ("02", None)]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_read_shard_tars_that_were_joined_are_read_whole(read, compress):
    parts = [{"a.jpg": b"1"}, {"b.jpg": b"2", "a.jpg": b"3"}, {}, {"c.jpg": b"4"}]
    samples = read(b"".join(compress(tar_of(members)) for members in parts))
    duplicate = Reason.DUPLICATE_KEY
    assert reasons(samples) == [("a", None), ("b", None), ("a", duplicate), ("c", None)]
    assert [sample.data for sample in samples] == [b"1", b"2", None, b"4"]


@pytest.mark.parametrize("between", [b"\n", b"x" * 20_000])
def test_read_shard_tars_joined_so_that_the_second_is_hidden_are_damaged(read, between):
    *kept, last = read(tar_of({"a.jpg": b"1" * 600}) + between + tar_of({"b.jpg": b"2"}))
    assert reasons(kept) == [("a", None)]
    assert last.rejection.reason == Reason.SHARD_DAMAGED
    assert last.rejection.lost >= 1


def test_read_shard_tars_joined_by_gnu_tar_are_read_whole(read, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
        command = ["tar", "-C", tmp_path, "-cf", tmp_path / f"{name}.tar", f"{name}.jpg"]
        subprocess.run(command, check=True)
    subprocess.run(["tar", "-Af", tmp_path / "a.tar", tmp_path / "b.tar"], check=True)
    assert reasons(read((tmp_path / "a.tar").read_bytes())) == [("a", None), ("b", None)]


@pytest.mark.fault(22)
def test_read_shard_damage_before_kept_text_gives_up_that_sample_only(read):
    data = tar_of({"a.jpg": b"1", "a.txt": b"one", "b.jpg": b"2", "b.txt": b"two"})
    samples = read(data[: 6 * BLOCK + 7], Selection(keep=("txt",)))
    assert reasons(samples) == [("a", None), ("b", Reason.SHARD_DAMAGED)]


@pytest.mark.fault(22)
def test_read_shard_cut_gzip_is_noticed(read):
    data = gzip.compress(tar_of({"a.jpg": b"x"}))
    for cut in (8, len(data) // 2):
        samples = read(data[:-cut], name="shard.tar.gz")
        assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED


@pytest.mark.fault(23)
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "field",
    [
        b"\xff" * 11 + b"\x00",  # -256, as GNU's base-256 stores it
        b"\xff" * 10 + b"\xfe\x00",  # -512: back to the header itself, CVE-2025-8194
        b"\x80" + bytes(6) + b"\x02" + bytes(4),  # 8 GiB
        b"\x80" + b"\x7f" * 11,  # more than any file holds
    ],
)
@pytest.mark.parametrize("name", ["b.jpg", "b.mp4"])
def test_read_shard_absurd_member_size_ends_in_bounded_time(read, field, name):
    data = tar_of({"a.jpg": b"x", name: b"y", "c.jpg": b"z"})
    data = data[: 2 * BLOCK] + with_size_field(data[2 * BLOCK : 3 * BLOCK], field) + data[1536:]
    samples = read(data)
    assert reasons(samples)[0] == ("a", None)
    assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED
    assert len(samples) <= 3


@pytest.mark.fault(23)
@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", ["-512", "-1", str(2**70), "9" * 5000])
def test_read_shard_absurd_pax_size_ends_in_bounded_time(read, size):
    info = header("b.jpg", pax_headers={"size": size})
    samples = read(tar_of([("a.jpg", b"x"), (info, b"y"), ("c.jpg", b"z")]))
    assert reasons(samples)[0] == ("a", None)
    assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED
    assert len(samples) <= 3


@pytest.mark.fault(23)
@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_read_shard_huge_extended_header_is_not_read(read, kind):
    block = tar_of([("a.jpg", b"x")])[:BLOCK]
    block = with_size_field(block[:156] + kind + block[157:], b"%011o\0" % 2**32)
    assert reasons(read(block + bytes(4096))) == [(None, Reason.SHARD_DAMAGED)]


@pytest.mark.fault(23)
def test_read_shard_sparse_member_of_8_gib_is_rejected_unread(read):
    block = bytearray(tar_of([(header("a.jpg", type=tarfile.GNUTYPE_SPARSE), b"")])[:BLOCK])
    block[483:495] = b"\x80" + bytes(6) + b"\x02" + bytes(4)  # the size after expansion
    data = with_size_field(bytes(block), b"%011o\0" % 0) + tar_of({"b.jpg": b"x"})
    samples = read(data)
    assert reasons(samples) == [("a", Reason.CORRUPT), ("b", None)]
    assert str(8 * 2**30) in samples[0].rejection.message


def test_read_shard_replaced_since_listing_flies(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({"a.jpg": b"x"}))
    (shard,) = list_shards(str(tmp_path)).shards
    (tmp_path / "a.tar").write_bytes(tar_of({"b.jpg": b"x"}) + bytes(BLOCK))
    with pytest.raises(SourceChangedError):
        list(read_shard(shard, Selection(), kept_schema_of()))


@pytest.mark.s3
def test_read_shard_replaced_while_reading_flies(bucket):
    data = tar_of({f"{i}.jpg": bytes(2**20) for i in range(20)})
    storage.publish(f"{bucket}/a.tar", data)
    (shard,) = list_shards(bucket).shards
    samples = read_shard(shard, Selection(), kept_schema_of())
    next(samples)
    storage.replace(f"{bucket}/a.tar", data + bytes(BLOCK))
    with pytest.raises(SourceChangedError):
        list(samples)


@pytest.mark.parametrize(
    "selection", [Selection(key="id"), Selection(keep=("jpg",)), Selection(keep=("key",))]
)
def test_kept_schema_selection_that_cannot_work_is_config_error(tmp_path, selection):
    (tmp_path / "a.tar").write_bytes(tar_of({"a.jpg": b"x"}))
    with pytest.raises(ConfigError):
        kept_schema(list_shards(str(tmp_path)), selection)
