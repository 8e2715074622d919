import pytest

from vqpipe import storage
from vqpipe.storage import Usage, used


@pytest.fixture
def since():
    """Returns what has been asked for since the test began."""
    before = used()
    return lambda: used().since(before)


def test_used_is_what_was_read_and_written(base, since):
    uri = storage.join_uri(base, "a")
    storage.publish(uri, b"x" * 1000)
    file = storage.stat(uri)
    with storage.open_file(file) as opened:
        assert len(opened.read()) == 1000
    assert storage.read(uri) == b"x" * 1000
    assert storage.read_tail(file, 10) == b"x" * 10
    found = since()
    assert (found.read_bytes, found.written_bytes) == (2010, 1000)
    assert found.wait_s > 0
    is_remote = not storage.is_on_disk(uri)
    assert found.requests >= 5 if is_remote else found.requests == 0


def test_used_leaves_out_what_was_there_already(tmp_path, since):
    uri = storage.join_uri(str(tmp_path), "a")
    storage.publish(uri, b"one")
    assert not storage.publish(uri, b"another")
    assert since().written_bytes == 3


def test_used_counts_the_wait_for_a_request_that_fails(tmp_path, since):
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join_uri(str(tmp_path), "none"))
    assert since().wait_s > 0
    assert since().read_bytes == 0


@pytest.mark.s3
def test_used_counts_a_request_that_is_repeated_each_time(bucket, proxy, since):
    from tests.storage.fault_proxy import Faults

    uri = storage.join_uri(bucket, "a")
    storage.publish(uri, b"x")
    before = since().requests
    assert storage.read(uri) == b"x"
    plain = since().requests - before
    proxy.faults = Faults(first="refuse")
    storage.publish(storage.join_uri(bucket, "b"), b"x")
    proxy.faults = Faults()
    assert plain >= 1
    assert since().requests - before - plain >= 2


def test_usage_since_an_earlier_look_is_the_difference():
    before, more = Usage(1.0, 2, 3, 4), Usage(0.5, 1, 10, 20)
    assert before.plus(more).since(before) == more
