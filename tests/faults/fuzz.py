"""Reads what Hypothesis makes of files of one kind, for some seconds, in this process.

    python -m tests.faults.fuzz tar 30 folder     ends with 0, or with what went wrong

The file that was being read is left in the folder, and a process that hangs or wants more memory
than it may is ended.
"""

import gzip
import io
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from tests.makers import encoded, jpeg, picture, tar_of
from tests.sources import thrift
from vqpipe.errors import VqpipeError
from vqpipe.images import FORMATS, Compressed, Preprocess, View, open_image, square
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Rejection
from vqpipe.schema import Selection
from vqpipe.sink.ranges import Staged
from vqpipe.sources import find_image, kept_schema, list_shards, read_shard
from vqpipe.stages.read import read_rows

MEMORY_BYTES = 6 * 2**30  # a page of Parquet may claim 2 GiB, as may its dictionary
EXAMPLE_S = 60
HOW = Preprocess(square(16), max_pixels=250_000)
NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**n + d for n in (7, 8, 15, 16, 24, 31, 32, 62) for d in (-1, 0, 1)]),
)


@st.composite
def mutated(draw, originals):
    """Draws one of some files with bytes changed, cut out, put in or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.one_of(st.integers(0, len(data)), st.integers(0, 64).map(lambda n: -n)))
        what = draw(st.sampled_from(["set", "set", "bit", "insert", "cut", "repeat", "end"]))
        _edit(data, at % (len(data) + 1), what, draw(st.binary(min_size=1, max_size=8)))
    return bytes(data)


def _edit(data, at, what, drawn):
    if what == "set":
        data[at : at + len(drawn)] = drawn
    elif what == "bit" and at < len(data):
        data[at] ^= 1 << drawn[0] % 8
    elif what == "insert":
        data[at:at] = drawn
    elif what == "cut":
        del data[at : at + drawn[0]]
    elif what == "repeat":
        data[at:at] = data[at : at + 4 * drawn[0]]
    elif what == "end":
        del data[at:]


NAMES = [b"a.jpg", b"a.txt", b"b.png", b"./c/d.JPG", b".x", b"../e.gif", b"f", b""]
TYPES = [b"0"] * 6 + [b"x", b"x", b"g", b"L", b"K", b"S", b"1", b"2", b"5", b"7", b"\0", b"X", b"?"]
SPARSE = [b"GNU.sparse." + word for word in (b"map", b"size", b"realsize", b"name", b"major")]
RECORDS = st.tuples(
    st.sampled_from([b"path", b"size", b"linkpath", *SPARSE, b"mtime", b"hdrcharset", b""]),
    st.one_of(st.binary(max_size=40), NUMBERS.map(lambda n: b"%d" % n)),
    st.sampled_from([0, 0, 0, 0, 1, -1, 1000, -1000]),
)


@st.composite
def tar_members(draw):
    """Draws members whose headers are valid in form and may lie in everything else."""
    parts = []
    for _ in range(draw(st.integers(0, 8))):
        name = draw(st.one_of(st.sampled_from(NAMES), st.binary(max_size=100)))
        kind = draw(st.sampled_from(TYPES))
        if kind in {b"x", b"g", b"X"}:
            body = b"".join(_record(*record) for record in draw(st.lists(RECORDS, max_size=4)))
        else:
            body = draw(st.binary(max_size=1200))
        size = draw(st.one_of(st.just(len(body)), NUMBERS))
        parts.append(_header(name, kind, size, draw(st.binary(max_size=155))))
        parts.append(body + bytes(-len(body) % 512))
    end = draw(st.sampled_from([b"", bytes(1024), bytes(512), b"trailing"]))
    return b"".join(parts) + end


def _record(keyword, value, lie):
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % (length + lie) + rest


def _header(name, kind, size, sparse):
    block = bytearray(512)
    block[: len(name[:100])] = name[:100]
    block[100:108], block[257:265] = b"0000644\0", b"ustar  \0"
    octal = 0 <= size < 8**11
    block[124:136] = b"%011o\0" % size if octal else size.to_bytes(12, "big", signed=True)
    if size >= 8**11:
        block[124] = 0x80
    block[156:157] = kind
    block[345 : 345 + len(sparse)] = sparse
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@st.composite
def parquet_by_hand(draw):
    """Draws a file whose pages and footer agree in nothing but form."""
    values = draw(st.lists(st.binary(max_size=30), max_size=5))
    page = thrift.page(
        thrift.plain(values),
        draw(st.one_of(st.just(len(values)), NUMBERS.map(_as_int32))),
        stored=draw(st.one_of(st.none(), NUMBERS.map(_as_int32))),
    )
    sizes = [draw(st.one_of(st.just(known), NUMBERS)) for known in (4, len(page), len(values))]
    codec = draw(st.integers(0, 8))
    chunk = thrift.chunk(at=sizes[0], stored=sizes[1], size=len(page), values=sizes[2], codec=codec)
    rows = draw(st.one_of(st.just(len(values)), NUMBERS))
    groups = [thrift.row_group([chunk] * draw(st.integers(0, 3)), rows, len(page))]
    columns = [thrift.column(optional=draw(st.booleans()))]
    groups = groups * draw(st.integers(0, 4))
    return thrift.file(columns, groups, draw(st.one_of(st.just(rows), NUMBERS)), page)


def _as_int32(number):
    return min(number, 2**31 - 1)


def parquet_files():
    rows = 40
    images = [jpeg(20, 20, seed=i)[: 200 + i] for i in range(rows)]
    columns = {
        "jpg": images,
        "id": [f"key {i}" for i in range(rows)],
        "n": list(range(rows)),
    }
    table = pa.table(columns)
    struct = pa.table({"image": [{"bytes": image, "path": "x"} for image in images]})
    ways = [
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "row_group_size": 7},
        {"compression": "snappy", "data_page_version": "2.0", "write_page_checksum": True},
        {"use_dictionary": False, "column_encoding": {"jpg": "DELTA_BYTE_ARRAY"}},
    ]
    for number, way in enumerate(ways):
        buffer = io.BytesIO()
        pq.write_table(struct if number == 1 else table, buffer, **way)
        yield buffer.getvalue()


def tar_files():
    members = {}
    for i in range(6):
        members |= {f"{i}.jpg": jpeg(16, 16, seed=i), f"{i}.txt": b"text %d" % i}
    members["n" * 150 + ".png"] = b"long name"
    plain = tar_of(members)
    yield plain
    yield gzip.compress(plain)
    yield tar_of(members, kind=1)  # GNU


def image_files():
    small = picture(40, 30)
    for kind in FORMATS:
        yield encoded(small, kind)
    yield encoded(small, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    yield encoded(Image.fromarray(small).convert("CMYK"), "JPEG")
    yield encoded(Image.fromarray(small).convert("P"), "PNG", transparency=0)
    yield encoded(small[..., 0].astype(np.uint16) * 257, "PNG")
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"):
        image = Image.fromarray(small).convert("1" if compression == "group4" else "RGB")
        yield encoded(image, "TIFF", compression=compression)
    yield encoded(small, "WEBP", lossless=True)
    frames = [Image.fromarray(picture(40, 30, seed=i)) for i in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "MPO"):
        yield encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def read(path, selection):
    """Reads a file as a run does, and checks that every sample is accounted for."""
    try:
        listing = list_shards(str(path), max_shard_bytes=2**12)
        selection = find_image(listing, selection)
        kept = kept_schema(listing, selection)
        for index, shard in enumerate(listing.shards):
            samples = read_shard(shard, selection, kept)
            check(list(read_rows(samples, index, Staged(), kept, 5)))
    except VqpipeError:
        return


def check(tables):
    found = [row for table in tables for row in table.to_pylist()]
    if [row["row"] for row in found] == [-1]:
        assert found[0]["total"] == 0
        return
    assert [row["row"] for row in found] == list(range(len(found)))
    assert [row["total"] for row in found] == [None] * (len(found) - 1) + [len(found)]
    for row in found:
        assert (row["image"] is None) == (row["reason"] is not None)
        assert row["key"] is not None or row["reason"] == "shard_damaged"
        assert row["reason"] is None or 0 < len(row["message"]) <= 600
    keys = [row["key"] for row in found if row["reason"] is None]
    assert len(set(keys)) == len(keys)


def read_tar(data, folder):
    path = folder / "fuzzed.tar"
    path.write_bytes(data)
    read(path, Selection())
    read(path, Selection(keep=("txt",)))


def read_parquet(data, folder):
    path = folder / "fuzzed.parquet"
    path.write_bytes(data)
    read(path, Selection())
    read(path, Selection(image="jpg"))
    read(path, Selection(image="jpg", key="id", keep=("n",)))


def read_image(data, folder):
    (folder / "fuzzed.image").write_bytes(data)
    found = open_image(data, HOW)
    assert isinstance(found, View | Rejection)
    if isinstance(found, View):
        assert found.pixels.shape == (16, 16, 3)
        assert 0 < found.width * found.height <= HOW.max_pixels


def read_sandboxed(images, folder):
    (folder / "fuzzed.images").write_bytes(b"|".join(images))
    found = _sandbox.open(Compressed.of(images))
    assert [each for each in found if not isinstance(each, tuple | Rejection)] == []
    for image, each, pixels in zip(images, found, found.pixels, strict=True):
        assert isinstance(each, tuple) or not pixels.any()
        if isinstance(each, Rejection) and not image:
            assert each.reason == "empty"


_sandbox = Sandbox(HOW, time_limit_s=20)


def kinds():
    images = mutated(list(image_files()))
    return {
        "tar": (st.one_of(mutated(list(tar_files())), tar_members()), read_tar),
        "parquet": (st.one_of(mutated(list(parquet_files())), parquet_by_hand()), read_parquet),
        "image": (images, read_image),
        "sandbox": (st.lists(images, max_size=6), read_sandboxed),
    }


def main(kind, seconds, folder):
    warnings.simplefilter("ignore")  # Pillow's, about the damage made here
    strategy, read_one = kinds()[kind]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    ends, rounds, count = time.monotonic() + float(seconds), 0, 0

    def one(data):
        nonlocal count
        signal.alarm(EXAMPLE_S)  # ends the process
        read_one(data, Path(folder))
        signal.alarm(0)
        count += 1

    how = settings(
        max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    while time.monotonic() < ends:
        seed(rounds)(how(given(strategy)(one)))()
        rounds += 1
    _sandbox.close()
    print(count, "examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
