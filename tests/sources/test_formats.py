import gzip
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.makers import encoded, jpeg, picture, tar_of
from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sources import contents, find_image, kept_schema, list_shards, read_shard

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JXL")


def image(kind, **options):
    return encoded(picture(24, 16), kind, **options)


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([jpeg()], pa.binary())}), buffer)
    return buffer.getvalue()


def fill(folder, **files):
    for name, data in files.items():
        storage.publish(f"{folder}/{name}", data)


def read(listing, **selected):
    selection = find_image(listing, Selection(**selected))
    kept = kept_schema(listing, selection)
    return [sample for shard in listing.shards for sample in read_shard(shard, selection, kept)]


@pytest.mark.parametrize(
    "name",
    [
        *("a.jfif", "a.JPE", "a.jfi", "a.pjpeg", "a.pjp", "a.jif", "a.avif", "a.jxl"),
        *("a.heic", "a.HEIF", "a.hif"),
        *("a.jpg_large", "a.jpg-large", "a.jpeg_large", "a.jpg_orig", "a.JPG:large", "a.png_large"),
    ],
)
def test_list_shards_every_name_of_an_image_is_one(tmp_path, name):
    fill(tmp_path / "folder", **{name: b"content"})
    fill(tmp_path / "tars", **{"x.tar": tar_of({name: b"content"})})
    for folder in ("folder", "tars"):
        (sample,) = read(list_shards(f"{tmp_path}/{folder}"))
        assert sample.data == b"content"


def test_read_shard_of_a_sample_with_several_images_prefers_as_before(tmp_path):
    names = ["a.jpg_large", "a.heic", "a.jxl", "a.gif", "a.avif", "a.webp", "a.png", "a.jfif"]
    names += ["a.jpg"]
    for count in range(1, len(names) + 1):
        fill(
            tmp_path / str(count),
            **{"x.tar": tar_of({name: name.encode() for name in names[:count]})},
        )
        (sample,) = read(list_shards(f"{tmp_path}/{count}"))
        assert sample.data == names[count - 1].encode()


@pytest.mark.parametrize(
    "files",
    [
        {"a.tar": b"x", "b.jpg": b"x"},
        {"a.tar": b"x", "a.parquet": b"x", "b.jpg": b"x"},
        {"a.tar": b"x", "a.parquet": b"x", "b.parquet": b"x"},
        {"a.tgz": b"x", "deep/a.parquet": b"x"},
        {"a.tar": b"x", "photo": image("JPEG")},
        {"a.jpg": b"x", "archive": tar_of({"a.jpg": b"x"})},
    ],
)
def test_list_shards_of_several_formats_is_refused_unless_the_format_is_set(tmp_path, files):
    fill(tmp_path, **files)
    with pytest.raises(ConfigError, match=r"several formats.*--format"):
        list_shards(str(tmp_path))
    for fmt in ("webdataset", "folder"):
        try:
            listing = list_shards(str(tmp_path), fmt)
        except ConfigError:
            assert fmt == "folder"
            assert not any(name.endswith("jpg") for name in files)
        else:
            taken = sum(len(shard.files) for shard in listing.shards)
            assert listing.format == fmt
            assert taken + sum(listing.ignored.values()) == len(files)


@pytest.mark.parametrize("kind", KINDS)
def test_list_shards_images_without_an_extension_are_found_by_what_they_begin_with(tmp_path, kind):
    files = {f"n01440764_{i}": image(kind) for i in range(3)}
    fill(tmp_path, **files, LICENSE=b"text")
    listing = list_shards(str(tmp_path))
    assert listing.format == "folder"
    found = {sample.key: sample.data for sample in read(listing)}
    assert found == {**files, "LICENSE": b"text"}  # it is rejected as what it is, not passed over


@pytest.mark.parametrize(
    ("data", "fmt"), [(tar_of({"a.jpg": b"x"}), "webdataset"), (parquet(), "parquet")]
)
def test_list_shards_tars_and_parquet_without_an_extension_are_found(tmp_path, data, fmt):
    fill(tmp_path, **{"part-0": data, "part-1": data})
    listing = list_shards(str(tmp_path))
    assert (listing.format, len(read(listing))) == (fmt, 2)


def test_list_shards_bare_images_beside_named_ones_are_taken_and_text_is_not(tmp_path):
    fill(tmp_path / "a", **{"a.jpg": jpeg(), "b": jpeg()})
    fill(
        tmp_path / "b",
        **{"a.jpg": jpeg(), "README": b"BM, the text", "LICENSE": b"", "x.txt": b"x"},
    )
    assert [sample.key for sample in read(list_shards(f"{tmp_path}/a"))] == ["a.jpg", "b"]
    listing = list_shards(f"{tmp_path}/b")
    assert [sample.key for sample in read(listing)] == ["a.jpg"]
    assert listing.ignored == {"(no extension)": 2, ".txt": 1}


def test_list_shards_looks_into_few_files_and_finds_images_behind_many_texts(tmp_path, monkeypatch):
    opened = []
    read_bytes = storage.open_file
    monkeypatch.setattr(storage, "open_file", lambda file: opened.append(file) or read_bytes(file))
    for i in range(200):
        fill(tmp_path, **{f"{i:03d}": b"text" if i < 100 else jpeg()})
    assert sum(len(shard.files) for shard in list_shards(str(tmp_path)).shards) == 200
    assert len(opened) <= 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [lambda data: data, gzip.compress])
def test_read_shard_tar_member_without_an_extension_is_the_image_if_it_is_one(tmp_path, kind, wrap):
    members = [
        ("bare", image(kind)),
        ("bare.txt", b"caption"),
        ("named", image(kind)),
        ("named.png", b"png"),
        ("text", b"no image"),
        ("text.json", b"{}"),
    ]
    fill(tmp_path, **{"x.tar": wrap(tar_of(members))})
    bare, named, text = read(list_shards(str(tmp_path)), keep=("txt",))
    assert (bare.key, bare.data, bare.kept) == (
        "bare",
        image(kind),
        {"txt": pa.array(["caption"])},
    )
    assert named.data == b"png"
    assert text.rejection.reason == Reason.NO_IMAGE


def test_read_shard_tar_member_without_an_extension_is_not_asked_where_the_image_is_named(tmp_path):
    fill(tmp_path, **{"x.tar": tar_of([("a", jpeg()), ("a.png", b"png"), ("b", jpeg())])})
    a, b = read(list_shards(str(tmp_path)), image="png")
    assert a.data == b"png"
    assert b.rejection.reason == Reason.NO_IMAGE


@pytest.mark.parametrize("kind", KINDS)
def test_is_image_knows_what_pillow_writes(kind):
    for mode in ("RGB", "L"):
        data = encoded(Image.fromarray(picture(32, 32)).convert(mode), kind)
        assert contents.is_image(data[: contents.HEAD_BYTES])


def test_is_image_takes_neither_text_nor_sound_nor_video_nor_noise():
    others = [
        b"",
        b"BM is how a note may begin, with a number or without",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        tar_of({"a.jpg": jpeg()}),
        parquet(),
        np.random.default_rng(0).bytes(512),
    ]
    assert not any(contents.is_image(data[: contents.HEAD_BYTES]) for data in others)


def test_list_shards_nothing_taken_says_what_there_is(tmp_path):
    fill(tmp_path, **{"a.hdr": b"x", "b.hdr": b"x", "README": b"x"})
    with pytest.raises(ConfigError, match=r"2 \.hdr, 1 \(no extension\)"):
        list_shards(str(tmp_path))


def test_list_shards_tar_formats_without_an_extension_are_found(tmp_path):
    for number, kind in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        fill(tmp_path / str(number), x=tar_of({"a.jpg": b"x"}, kind))
        assert list_shards(f"{tmp_path}/{number}").format == "webdataset"
