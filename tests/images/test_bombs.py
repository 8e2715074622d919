"""Small files that stand for far more, or say what is not so: each is bounded in memory and time.

Memory is what a process of its own has used at most, beyond what it had at its start.
"""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import tar_of
from tests.sources import thrift
from vqpipe.errors import ConfigError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, keys, list_shards, parquet, read_shard, webdataset

BLOCK = 512
MEGABYTE = 2**20


def member(name, size=0, kind=b"0", **places):
    """Returns the header of a member; `places` are bytes for offsets `at_NUMBER`."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[100:108], block[257:265] = b"0000644\0", b"ustar  \0"
    block[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block[156:157] = kind
    for place, data in places.items():
        at = int(place.removeprefix("at_"))
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def extended(body, kind=b"x"):
    return member(b"header", len(body), kind) + padded(body)


def record(keyword, value):
    """Returns `length keyword=value`, the length its own digits included."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def long_name(name):
    return extended(name + b"\0", b"L") + member(b"short")


def digits():
    """A pattern of `tarfile` takes four seconds for each (CVE-2024-6232)."""
    for i in range(100):
        yield extended(record(b"comment", b"1" * 65_000)) + member(b"%d.jpg" % i)


def endless_digits():
    yield extended(b"1" * 65_536) + member(b"a.jpg")


def global_headers():
    for i in range(3_000):
        yield extended(record(b"k%d" % i, b"v" * 65_000), b"g") + member(b"%d.jpg" % i)


def long_keys():
    for i in range(3_000):
        yield long_name(b"%d" % i + b"n" * 65_000 + b".jpg")


def members_of_one_key():
    for i in range(30_000):
        yield member(b"a.%d" % i)


def sparse_map():
    yield member(b"a.jpg", kind=b"S", at_482=b"\1")
    block = b"00000000001\0" * 42 + b"\1" + bytes(7)
    for _ in range(200):
        yield block * 1_000


def headers_of_headers():
    for _ in range(2_000):
        yield extended(record(b"comment", b"x" * 60_000))


def claims_of_100_gb():
    yield member(b"a.jpg") + member(b"b.mp4", 100 * 2**30)
    yield bytes(10 * MEGABYTE)


def zeros_after_the_end():
    yield padded(tar_of({"a.jpg": b"x"})) + bytes(2**10 * BLOCK)


def sparse_of_pax():
    body = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
    body += record(b"GNU.sparse.name", b"a.jpg") + record(b"GNU.sparse.realsize", b"%d" % 2**29)
    yield extended(body) + member(b"GNUSparseFile.0/a.jpg", BLOCK) + padded(b"1\n0\n1\n")
    yield tar_of({"b.jpg": b"x"})


TARS = {
    digits: (100, None),
    endless_digits: (1, Reason.SHARD_DAMAGED),
    global_headers: (3_000, None),
    long_keys: (3_000, None),
    members_of_one_key: (30, Reason.DUPLICATE_KEY),
    sparse_map: (1, Reason.SHARD_DAMAGED),
    headers_of_headers: (1, Reason.SHARD_DAMAGED),
    claims_of_100_gb: (2, Reason.SHARD_DAMAGED),
    zeros_after_the_end: (2, Reason.SHARD_DAMAGED),
    sparse_of_pax: (2, None),
}
"""What comes out: how many samples, and the reason for which the last one is rejected."""


def write_tar(make, path):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in make():
            file.write(piece)
        file.write(bytes(2 * BLOCK))
    if make is zeros_after_the_end:
        zeros = gzip.compress(bytes(64 * MEGABYTE))
        with path.open("ab") as file:
            file.write(zeros * 20)


def write_with(encoding, value, rows):
    """Returns a writer of one value, again and again."""

    def write(path):
        if encoding is None:
            column = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value]))
            how = {"dictionary_pagesize_limit": 2**30, "store_schema": False}
        else:
            column = pa.array([value] * rows)
            how = {"use_dictionary": False, "column_encoding": {"jpg": encoding}}
        pq.write_table(
            pa.table({"jpg": column}), path, compression="zstd", data_page_size=2**31 - 1, **how
        )

    return write


def by_hand(*arguments):
    return lambda path: path.write_bytes(thrift.file(*arguments))


def one_page(values, claimed, *, count=None, **header):
    """Returns a file of one page of values, whose footer and page header claim what they like."""
    data = pa.compress(thrift.plain(values), "zstd", asbytes=True)
    header = {"size": len(thrift.plain(values))} | header
    data = thrift.page(data, count or claimed, **header)
    chunk = thrift.chunk(stored=len(data), size=len(data), values=claimed)
    return thrift.file([thrift.column()], [thrift.row_group([chunk], claimed)], claimed, data)


def same_page_many_times(path):
    """Row groups cost some 60 bytes each, whatever they point to."""
    data = thrift.page(thrift.plain([bytes(MEGABYTE)]), 1)
    chunk = thrift.chunk(stored=len(data), size=len(data), values=1, codec=0)
    groups = [thrift.row_group([chunk], 1)] * 2_000
    path.write_bytes(thrift.file([thrift.column()], groups, len(groups), data))


def deep_schema(path):
    branches = [thrift.branch(b"x", 1)] * 100_000
    path.write_bytes(thrift.raw_file([*branches, thrift.column()], [], 0))


def many_columns(path):
    columns = [thrift.column(b"%d" % i) for i in range(100_000)]
    path.write_bytes(thrift.file([thrift.column(), *columns], [], 0))


def huge_footer(path):
    groups = [thrift.row_group([thrift.chunk()], 0)] * 500_000
    path.write_bytes(thrift.file([thrift.column()], groups, 0))


def liar(*arguments, **options):
    return lambda path: path.write_bytes(one_page(*arguments, **options))


BIG = bytes(30 * MEGABYTE)
PARQUETS = {
    "one value of a dictionary 100 times": (write_with(None, BIG, 100), 36, Reason.SHARD_DAMAGED),
    "one value as the prefix of 20": (write_with("DELTA_BYTE_ARRAY", BIG, 20), 20, None),
    "a page that grows from 1 KB": (write_with("PLAIN", BIG, 1), 1, None),
    "one page in 2,000 row groups": (same_page_many_times, 1133, Reason.SHARD_DAMAGED),
    "a schema of depth 100,000": (deep_schema, 0, None),
    "100,000 columns": (many_columns, 0, None),
    "a footer of 20 MB": (huge_footer, 0, None),
    "more rows in the footer than in pages": (liar([b"1", b"2"], 1000), 3, Reason.SHARD_DAMAGED),
    "2**62 rows in the footer": (liar([b"1"], 2**62, count=1), 2, Reason.SHARD_DAMAGED),
    "a negative number of rows": (liar([b"1"], -5, count=1), 1, Reason.SHARD_DAMAGED),
    "a page of 2 GiB, it says": (liar([b"1"], 1, size=2**31 - 1), 1, Reason.SHARD_DAMAGED),
    "a page of negative size": (liar([b"1"], 1, stored=-1), 1, Reason.SHARD_DAMAGED),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came out of each file, and what it took."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = {}
    for make in TARS:
        paths[make] = folder / f"{make.__name__}.tar.gz"
        write_tar(make, paths[make])
    for number, (name, (write, _, _)) in enumerate(PARQUETS.items()):
        paths[name] = folder / f"{number}.parquet"
        write(paths[name])
    command = [sys.executable, "-m", "tests.images.peak", *paths.values()]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout
    return dict(zip(paths, map(json.loads, lines.splitlines()), strict=True))


REFUSED = {"a schema of depth 100,000", "a footer of 20 MB"}
"""Before anything is planned; a file of 100,000 columns has a column of images, and no rows."""

MOST_MB = {"one value of a dictionary 100 times": 400, "one value as the prefix of 20": 400}
MOST_MB |= {"a page that grows from 1 KB": 200, "100,000 columns": 400}
MOST_MB |= {"a page of 2 GiB, it says": 2_300}  # Arrow takes what a page claims, 2 GiB at most


@pytest.mark.fault(23)
@pytest.mark.parametrize("make", TARS, ids=lambda make: make.__name__)
def test_read_shard_tar_bomb_is_bounded(found, make):
    samples, reason = TARS[make]
    got = found[make]
    assert (got["error"], got["samples"], got["reason"]) == (None, samples, reason)
    assert got["peak_mb"] < 64
    assert len(got["message"] or "") <= 500


@pytest.mark.fault(24)
@pytest.mark.parametrize("name", PARQUETS)
def test_read_shard_parquet_bomb_is_bounded(found, name):
    _, samples, reason = PARQUETS[name]
    got = found[name]
    assert (got["samples"], got["reason"]) == (samples, reason)
    assert (got["error"] is not None) == (name in REFUSED)
    assert len(got["message"] or "") <= 500
    assert len(str(got["error"])) < 3_000
    assert got["peak_mb"] < MOST_MB.get(name, 64)


@pytest.mark.fault(23)
def test_read_shard_sparse_member_is_rejected_and_the_next_one_read(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(sparse_of_pax()))
    first, second = read(path)
    assert (first.key, first.rejection.reason) == ("a", Reason.CORRUPT)
    assert "sparse" in first.rejection.message
    assert (second.key, second.data) == ("b", b"x")


@pytest.mark.fault(23, 24)
@pytest.mark.parametrize("source", [webdataset, parquet])
def test_read_shard_of_more_samples_than_can_be_is_refused_by_name(tmp_path, monkeypatch, source):
    monkeypatch.setattr(keys, "MAX_SAMPLES", 3)
    if source is webdataset:
        path = tmp_path / "a.tar"
        path.write_bytes(tar_of({f"{i}.jpg": b"x" for i in range(5)}))
    else:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"jpg": [b"x"] * 5}), path)
    with pytest.raises(ConfigError, match=path.name):
        read(path, Selection("jpg" if source is parquet else None))


@pytest.mark.fault(24)
def test_read_shard_parquet_key_or_text_of_17_mib_is_rejected(tmp_path):
    huge = "k" * (17 * MEGABYTE)
    columns = {"id": [huge, "b", "c"], "text": ["t", huge, "t"], "jpg": [b"1", b"2", b"3"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    samples = read(tmp_path / "a.parquet", Selection("jpg", "id", ("text",)))
    reasons = [(sample.key, sample.rejection and sample.rejection.reason) for sample in samples]
    assert reasons == [("a/00000000", "bad_metadata"), ("b", "bad_metadata"), ("c", None)]
    assert all(len(sample.rejection.message) < 200 for sample in samples[:2])


def read(path, selection=None):
    selection = selection or Selection()
    listing = list_shards(str(path))
    schema = kept_schema(listing, selection)
    return [sample for shard in listing.shards for sample in read_shard(shard, selection, schema)]


def test_keys_hold_a_hash_of_each_key():
    seen = keys.Keys()
    names = ["", "a", "é", "n" * 2**16]
    assert [seen.add(name) for name in names] == [True] * 4
    assert [seen.add(name) for name in names] == [False] * 4
    assert "a" in seen
    assert "b" not in seen
