"""How many requests a run makes of a store, held against one that counts them."""

import io
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import plain
from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.inspection.requests import Load, Requests, count_sink, count_source

BLOCK = 64
"""Rows of a block of `tests.plain`."""


def tars(rejected=0, images=3):
    members = {f"{i:03d}.jpg": jpeg(40, 40, seed=i) for i in range(images)}
    bad = {f"x{i}.jpg": b"no image" for i in range(rejected)}
    return "tar", tar_of(members | bad)


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [jpeg(40, 40, seed=i) for i in range(3)]}), buffer)
    return "parquet", buffer.getvalue()


KINDS = {
    "tars, of which each rejects": (5, tars(1), Load("webdataset", 5, 5, 0, 5, 0, 0)),
    "a tar in three pieces": (
        1,
        tars(images=2 * BLOCK + 1),
        Load("webdataset", 1, 1, 0, 0, 3, 1),
    ),
    "Parquet": (3, parquet(), Load("parquet", 3, 3, 0, 0, 0, 0)),
    "a folder": (4, ("jpg", jpeg(40, 40)), Load("folder", 1, 4, 0, 0, 0, 0)),
}


def encode_counting(bucket, proxy, count, file):
    """Returns the requests of encoding so many copies of a file."""
    extension, data = file
    for i in range(count):
        storage.publish(f"{bucket}/source/{i:03d}.{extension}", data)
    before = len(proxy.log)
    options = ("--max-rejected", "1000", "--pixel-range", "signed", "--skip-doctor")
    plain.encode(f"{bucket}/source", f"{bucket}/sink", *options, resolution=16)
    return count_kinds(proxy.log[before:])


def count_kinds(log):
    kinds = Counter("list" if "list-type" in path else method.lower() for method, path, _ in log)
    return Requests(**{name: kinds[name] for name in ("get", "head", "put", "list")})


@pytest.mark.s3
@pytest.mark.parametrize(("count", "file", "load"), KINDS.values(), ids=KINDS)
def test_requests_of_a_run_are_those_that_a_server_gets(bucket, proxy, count, file, load):
    found = encode_counting(bucket, proxy, count, file)
    summary_before = Requests(get=1)  # looked for where no codec was at work, as in `tests.plain`
    expected = count_source(load) + count_sink(load) + summary_before
    assert replace(found, head=0, list=0) == replace(expected, head=0, list=0)
    assert abs(found.head - expected.head) <= 1  # of an area that is empty one asks more
    assert abs(found.list - expected.list) <= 1


def test_requests_that_are_billed_alike_are_added_up():
    assert Requests(get=1, head=2, put=4, list=8).reads == 3
    assert Requests(get=1, head=2, put=4, list=8).writes == 12


def test_requests_of_a_large_shard_are_one_more_for_every_8_mib():
    small, large = (Load("webdataset", 1, 1, size, 0, 0, 0) for size in (10**6, 10**9))
    assert count_source(large).get - count_source(small).get == 10**9 // (8 * 2**20)


def test_requests_of_many_shards_list_them_by_the_thousand():
    few, many = (Load("webdataset", n, n, 0, 0, 0, 0) for n in (999, 100_000))
    assert count_sink(many).list - count_sink(few).list == 300
    assert count_source(many).list - count_source(few).list == 100


def test_requests_of_many_shards_have_those_for_adding_them_up_on_the_way():
    many = Load("webdataset", 2048, 2048, 0, 0, 0, 0)
    few = replace(many, shards=255)
    assert count_sink(few).head == count_sink(replace(many, shards=1)).head
    added = count_sink(many).head - count_sink(few).head
    assert added == 2 * 2048
