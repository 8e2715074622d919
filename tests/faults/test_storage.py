"""What an S3 store does on bad days, shown on every verb, on one commit and on every source."""

import functools
import gzip
import io
import re
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import tar_of
from tests.shell import CHECKPOINT
from tests.storage.fault_proxy import SHARES, Faults
from tests.storage.promises import (
    READ_AHEAD_BYTES,
    SHORT,
    VERBS,
    check_every_verb,
    check_lost_answer_of_replace_if,
    check_short_body,
    check_two_shards,
    commit_two_shards,
    large,
    make_reads_small,
)
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.errors import SourceChangedError, StorageError
from vqpipe.schema import Selection
from vqpipe.sink.run import check_creates_once
from vqpipe.sources import kept_schema, list_shards, read_shard
from vqpipe.storage import retries, s3

pytestmark = pytest.mark.s3

STORM = Faults(refuse=0.1, drop=0.1, lose=0.1, cut=0.1, shorten=0.1)
LARGE = large(4)
IMAGES = {f"{i:03d}": np.random.default_rng(i).bytes(READ_AHEAD_BYTES // 4) for i in range(9)}


@pytest.fixture(autouse=True)
def small_reads(monkeypatch):
    make_reads_small(monkeypatch)


def split(uri):
    return dict(zip(("Bucket", "Key"), uri.removeprefix("s3://").split("/", 1), strict=True))


@pytest.fixture(scope="module")
def truth(s3_server):
    """Reads and writes objects without the proxy and without our code."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server)

    class Truth:
        def read(self, uri):
            return client.get_object(**split(uri))["Body"].read()

        def write(self, uri, data):
            client.put_object(**split(uri), Body=data)

        def names(self, bucket):
            found = client.list_objects_v2(Bucket=bucket.removeprefix("s3://"))
            return [each["Key"] for each in found.get("Contents", [])]

        def fetch(self, bucket, folder):
            for name in self.names(bucket):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.read(f"{bucket}/{name}"))

    return Truth()


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=[pytest.mark.soak] * (share in {"drop", "cut"}))
        for share in SHARES
    ],
)
def test_every_verb_store_that_fails_a_third_of_requests_recovers(bucket, proxy, truth, share):
    proxy.faults = Faults(**{share: 0.33})
    check_every_verb(bucket, truth, lambda: truth.names(bucket), LARGE)
    assert proxy.account[share] > 2


@pytest.mark.fault(10)
@pytest.mark.parametrize("done", ["refuse", "InternalError", "drop", "cut"])
def test_every_verb_every_first_request_fails_recovers(bucket, proxy, truth, done):
    proxy.faults = Faults(first=done)
    check_every_verb(bucket, truth, lambda: truth.names(bucket), b"content" * 1000)
    assert proxy.account[done] > 6


@pytest.mark.fault(10)
def test_store_that_refuses_two_of_three_never_uses_retries_up(bucket, proxy, monkeypatch):
    """botocore's own ladder gives every request of a process up after some dozens of these."""
    monkeypatch.setattr(retries, "_LONGEST_PAUSE_S", 0.01)
    proxy.faults = Faults(refuse=0.66)
    for number in range(150):
        storage.publish(f"{bucket}/{number}", b"x")
    assert len(storage.list_files(bucket)) == 150
    assert proxy.account["refuse"] > 200


@pytest.mark.fault(10)
@pytest.mark.parametrize("publish", [storage.publish, storage.replace])
def test_publish_lost_answer_gives_the_one_object(bucket, proxy, truth, publish):
    proxy.faults = Faults(first="lose")
    publish(f"{bucket}/a", LARGE)
    assert proxy.account["lose"] > 0
    assert truth.names(bucket) == ["a"]
    assert truth.read(f"{bucket}/a") == LARGE


@pytest.mark.fault(10)
def test_replace_if_lost_answer_is_told_from_another_writer(bucket, proxy, truth):
    check_lost_answer_of_replace_if(f"{bucket}/a", truth, proxy)
    assert any(method == "PUT" and done == "lose" for method, _, done in proxy.log)


@pytest.mark.fault(10)
@pytest.mark.parametrize("publish", [storage.publish, storage.replace])
def test_publish_in_parts_lost_answers_give_the_one_object(
    bucket, proxy, truth, publish, monkeypatch
):
    monkeypatch.setattr(s3, "_PUT_BYTES", 10 * 2**20)
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * 2**20)  # S3 takes no smaller parts
    data = LARGE * 11
    proxy.faults = Faults(first="lose")
    publish(f"{bucket}/a", data)
    assert any(method == "POST" and done == "lose" for method, _, done in proxy.log)
    assert truth.names(bucket) == ["a"]
    assert truth.read(f"{bucket}/a") == data


@pytest.mark.fault(10)
@pytest.mark.parametrize(("read", "done"), SHORT)
def test_read_body_that_is_always_short_is_an_error_and_never_data(
    bucket, proxy, truth, read, done, monkeypatch
):
    truth.write(f"{bucket}/a", LARGE)
    check_short_body(f"{bucket}/a", proxy, read, done, monkeypatch)


@pytest.mark.fault(15)
@pytest.mark.parametrize("done", ["NotImplemented", "MethodNotAllowed", "InvalidArgument"])
def test_store_that_refuses_conditions_is_worked_with_and_said(
    bucket, proxy, truth, tmp_path, done
):
    """Ceph, Swift's and others' gateways do so; some others ignore the header, as rclone does."""
    proxy.faults = Faults(conditional=done)
    check_every_verb(bucket, truth, lambda: truth.names(bucket), b"content" * 1000)
    writer = commit_two_shards(bucket)
    assert not check_creates_once(writer.sink)
    assert proxy.account[done] > 1
    proxy.faults = Faults()
    truth.fetch(bucket, tmp_path)
    check_two_shards(writer, tmp_path)


@pytest.mark.fault(12)
def test_publish_refused_for_its_credentials_is_not_taken_for_a_store_without_conditions(
    bucket, proxy
):
    proxy.faults = Faults(always="ExpiredToken")
    with pytest.raises(StorageError, match="credentials"):
        storage.publish(f"{bucket}/a", b"first")
    proxy.faults = Faults()
    storage.publish(f"{bucket}/a", b"first")
    assert storage.creates_once(f"{bucket}/a", b"first")


@pytest.mark.fault(10)
def test_commit_in_a_storm_is_exactly_once(bucket, proxy, truth, tmp_path):
    proxy.faults = STORM
    writer = commit_two_shards(bucket)
    proxy.faults = Faults()
    truth.fetch(bucket, tmp_path)
    check_two_shards(writer, tmp_path)


def parquet_of(images):
    table = pa.table({"id": list(images), "jpg": list(images.values())})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=2, compression="none", use_dictionary=False)
    return buffer.getvalue()


def tar(images):
    return tar_of({f"{name}.jpg": image for name, image in images.items()})


SOURCES = {
    "tar": lambda images: {"a.tar": tar(images)},
    "tar.gz": lambda images: {"a.tar.gz": gzip.compress(tar(images), 1)},
    "parquet": lambda images: {"a.parquet": parquet_of(images)},
    "folder": lambda images: {f"{name}.jpg": image for name, image in images.items()},
}


@pytest.fixture(params=SOURCES)
def source(request, bucket, truth):
    """URI of nine large images, in a bucket and in one of the layouts."""
    for name, data in SOURCES[request.param](IMAGES).items():
        truth.write(f"{bucket}/source/{name}", data)
    return f"{bucket}/source"


def selection_of(listing):
    return Selection("jpg" if listing.format == "parquet" else None)


def read_all(listing, selection=None):
    selection = selection or selection_of(listing)
    kept = kept_schema(listing, selection)
    return [sample for shard in listing.shards for sample in read_shard(shard, selection, kept)]


@pytest.mark.fault(10)
def test_source_in_a_storm_is_read_whole(source, proxy):
    proxy.faults = STORM
    samples = read_all(list_shards(source))
    assert [sample.data for sample in samples] == list(IMAGES.values())
    assert {sample.rejection for sample in samples} == {None}


@pytest.mark.fault(11, 12)
@pytest.mark.parametrize("done", ["SlowDown", "ExpiredToken"])
def test_source_of_a_store_that_turns_away_is_an_error_and_no_rejection(
    source, proxy, done, monkeypatch
):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.5)
    listing = list_shards(source)
    schema = kept_schema(listing, selection_of(listing))
    proxy.after("GET .*source/", functools.partial(setattr, proxy, "faults", Faults(always=done)))
    samples = []
    words = {"SlowDown": "no good answer"}.get(done, "credentials")
    with pytest.raises(StorageError, match=words):
        samples += read_shard(listing.shards[0], selection_of(listing), schema)
    assert len(samples) < len(IMAGES)
    assert [sample.data for sample in samples] == list(IMAGES.values())[: len(samples)]


@pytest.mark.fault(16)
@pytest.mark.parametrize("moment", ["before", "while"])
def test_source_replaced_is_an_error_that_names_it(source, proxy, truth, moment):
    listing = list_shards(source)
    schema = kept_schema(listing, selection_of(listing))
    uri = listing.shards[0].files[-1].uri

    def change():
        truth.write(uri, truth.read(uri)[::-1])

    if moment == "before":
        change()
    else:
        proxy.after("GET .*source/", change)
    with pytest.raises(SourceChangedError, match=uri):
        list(read_shard(listing.shards[0], selection_of(listing), schema))


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("done", "words"),
    [("SlowDown", "SlowDown|503"), ("drop", "ConnectionClosed|EndpointConnection")],
)
def test_every_verb_store_that_never_answers_is_an_error_soon(
    bucket, proxy, done, words, monkeypatch
):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.3)
    proxy.faults = Faults(always=done)
    for verb, call in VERBS.items():
        with pytest.raises(StorageError) as caught:
            call(f"{bucket}/a")
        assert caught.match(f"{bucket}/a.*no good answer.*({words})"), verb


@pytest.mark.fault(11)
@pytest.mark.parametrize("command", ["encode", "inspect"])
def test_command_store_that_never_answers_exits_4_soon(bucket, proxy, command, monkeypatch, capsys):
    monkeypatch.setattr(retries, "START_PATIENCE_S", 0.5)
    monkeypatch.setattr(retries._State, "has_answered", False)
    monkeypatch.setattr(retries._State, "is_hurried", False)
    proxy.faults = Faults(always="SlowDown")
    places = {
        "encode": [f"--source={bucket}/source", f"--sink={bucket}/sink", f"--model={CHECKPOINT}"],
        "inspect": [f"{bucket}/sink"],
    }
    start = time.monotonic()
    assert cli.main([command, *places[command]]) == 4
    assert time.monotonic() - start < retries.PATIENCE_S / 2
    errors = capsys.readouterr().err
    assert bucket in errors
    assert re.search("no good answer.*(503|SlowDown)", errors)


@pytest.mark.fault(12)
@pytest.mark.parametrize("done", ["AccessDenied", "ExpiredToken"])
def test_every_verb_refused_access_is_an_error_about_credentials(bucket, proxy, done):
    proxy.faults = Faults(always=done)
    for verb, call in VERBS.items():
        with pytest.raises(StorageError) as caught:
            call(f"{bucket}/a")
        assert caught.match(f"{bucket}/a.*credentials"), verb
    assert proxy.account.total() <= len(VERBS) + 1  # nothing twice; a HEAD may ask for the region


@pytest.mark.fault(13)
def test_publish_upload_that_breaks_off_leaves_nothing(bucket, proxy, truth, monkeypatch):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.5)
    proxy.faults = Faults(always="drop")
    with pytest.raises(StorageError):
        storage.publish(f"{bucket}/a", LARGE)
    assert truth.names(bucket) == []
