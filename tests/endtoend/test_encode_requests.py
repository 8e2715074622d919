"""How many requests a shard costs on an S3 store, which bills them."""

from collections import Counter

import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from vqpipe import storage

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.soak]


def requests_of(bucket, proxy, shards):
    """Returns the requests of encoding so many tars, by method and kind of what they are of."""
    members = {f"{i}.jpg": jpeg(50, 40, seed=i) for i in range(3)}
    for shard in range(shards):
        storage.publish(f"{bucket}/of-{shards}/source/{shard:03d}.tar", tar_of(members))
    before = len(proxy.log)
    shell.encode(f"{bucket}/of-{shards}/source", f"{bucket}/sink-{shards}")
    return Counter(_kind(method, path) for method, path, _ in proxy.log[before:])


def _kind(method, path):
    key, _, query = path.partition("?")
    inside = key.split("/", 3)[-1] if "sink" in key else key.split("/")[-1]
    kind = "tar" if key.endswith(".tar") else inside.split("/")[0] if "/" in inside else inside
    return f"{method} {kind}{' list' if 'list-type' in query else ''}"


def test_encode_requests_are_four_a_shard_and_nothing_else_grows(bucket, proxy):
    few, many = (requests_of(bucket, proxy, shards) for shards in (4, 12))
    more = {kind: many[kind] - few[kind] for kind in many | few}
    each = {"HEAD tar": 8, "GET tar": 8, "PUT data": 8, "GET data": 8}
    assert {kind: count for kind, count in more.items() if count} == each
