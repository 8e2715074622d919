"""Reads that stand still: given up, and tried again by other means."""

import threading

import numpy as np
import pytest

from tests.storage.fault_proxy import Faults
from vqpipe import storage
from vqpipe.errors import SourceChangedError, StorageError
from vqpipe.storage import courier, local, reader, retries
from vqpipe.storage.courier import Courier

DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def hurried(monkeypatch):
    """Waits for no read longer than some tenths of a second."""
    monkeypatch.setattr(courier, "SILENT_S", 0.3)
    monkeypatch.setattr(courier, "SLOWEST_BYTES_PER_S", 2**40)
    monkeypatch.setattr(reader, "_BUFFER_BYTES", 2**16)
    monkeypatch.setattr(reader, "_READ_AHEAD_BYTES", 2**16)


@pytest.fixture
def disk(monkeypatch):
    """A disk on which some reads hang until the test is over; returns whether to hang, by read."""
    over, hangs, seen = threading.Event(), [], []
    real = local.OpenFile.read

    def read(self, size=-1):
        seen.append(threading.current_thread())
        if hangs and hangs.pop(0):
            over.wait(60)
        return real(self, size)

    monkeypatch.setattr(local.OpenFile, "read", read)
    yield hangs
    over.set()
    for thread in set(seen):
        thread.join(60)


def stored(folder):
    path = folder / "a.tar"
    path.write_bytes(DATA)
    return storage.stat(str(path))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("hangs", [[True], [False, True], [True, True, False, True]])
def test_open_file_on_a_disk_where_a_read_hangs_reads_all_of_it(tmp_path, disk, hangs):
    disk.extend(hangs)
    with storage.open_file(stored(tmp_path)) as opened:
        assert opened.read() == DATA
        opened.seek(1000)
        assert opened.read(100) == DATA[1000:1100]
    assert disk == []


@pytest.mark.usefixtures("hurried")
def test_open_file_on_a_disk_that_hangs_for_good_is_an_error_that_names_it(
    tmp_path, disk, monkeypatch
):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.5)
    file = stored(tmp_path)
    with storage.open_file(file) as opened:
        disk.extend([True] * 20)
        with pytest.raises(StorageError, match=r"a\.tar.*did not come within"):
            opened.read()


@pytest.mark.usefixtures("hurried")
def test_open_file_replaced_while_a_read_hangs_is_source_changed(tmp_path, disk):
    file = stored(tmp_path)
    with storage.open_file(file) as opened:
        disk.append(True)
        (tmp_path / "b.tar").write_bytes(DATA[::-1])
        (tmp_path / "b.tar").rename(tmp_path / "a.tar")
        with pytest.raises(SourceChangedError, match=r"a\.tar"):
            opened.read()


@pytest.mark.s3
@pytest.mark.usefixtures("hurried")
def test_open_file_of_a_store_whose_answer_trickles_reads_all_of_it(bucket, proxy):
    storage.publish(f"{bucket}/a.tar", DATA)
    file = storage.stat(f"{bucket}/a.tar")
    with storage.open_file(file) as opened:
        assert opened.read(10) == DATA[:10]
        proxy.faults = Faults(always="trickle")
        proxy.after(r"GET .*a\.tar", lambda: setattr(proxy, "faults", Faults()))
        assert opened.read() == DATA[10:]
    assert proxy.account["trickle"] == 1


def test_courier_raises_what_the_request_raises():
    def fail():
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        Courier().fetch(fail, 0)


def test_courier_makes_requests_by_one_thread_in_turn():
    carrier = Courier()
    threads = {carrier.fetch(threading.get_ident, 0) for _ in range(20)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    carrier.close()
