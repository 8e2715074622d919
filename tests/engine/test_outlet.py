import threading
import time
from types import SimpleNamespace

import pytest

from vqpipe.engine import outlet
from vqpipe.engine.outlet import Outlet


class Executor(threading.Thread):
    """Makes blocks in a thread of its own, as Ray Data does, until it is shut down."""

    def __init__(self, blocks, pause_s=0.0):
        super().__init__(daemon=True)
        self._left, self._pause_s = blocks, pause_s
        self._is_shut = threading.Event()
        self.out = []

    def run(self):
        while self._left and not self._is_shut.is_set():
            self._left -= 1
            self.out.append(self._left)
            time.sleep(self._pause_s)

    def shutdown(self, *, force):
        assert not force  # what its tasks do is nobody's any more
        self._is_shut.set()


class Dataset:
    def __init__(self, executor, fails=None):
        self._executor, self._fails = executor, fails

    def iter_internal_ref_bundles(self):
        callback = outlet._Remembered()
        callback.before_execution_starts(self._executor)
        self._executor.start()
        while self._executor.is_alive() or self._executor.out:
            if self._executor.out:
                number = self._executor.out.pop(0)
                metadata = SimpleNamespace(num_rows=number, size_bytes=10 * number)
                yield SimpleNamespace(blocks=[SimpleNamespace(ref=number, metadata=metadata)])
            time.sleep(0.001)
        if self._fails:
            raise self._fails


def drain(found):
    blocks, has_ended = [], False
    while not has_ended:
        some, has_ended = found.take(0.1)
        blocks += some
    return blocks


def test_outlet_hands_over_every_block_with_rows_in_order_and_then_the_end():
    found = Outlet(Dataset(Executor(50)))  # the last one, 0, has no rows
    blocks = drain(found)
    assert [block.ref for block in blocks] == list(range(49, 0, -1))
    assert [block.rows for block in blocks] == list(range(49, 0, -1))
    assert sum(block.size for block in blocks) == 10 * sum(range(50))
    found.close()


def test_outlet_raises_what_ended_the_graph():
    found = Outlet(Dataset(Executor(3), fails=OSError("no disk")))
    with pytest.raises(OSError, match="no disk"):
        drain(found)
    found.close()


@pytest.mark.parametrize("blocks", [0, 5, 10**9])
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
@pytest.mark.parametrize("taken", [0, 1])
def test_outlet_closed_at_any_time_leaves_no_thread_at_work(blocks, pause_s, taken):
    """Those that wait for room, for the next block, or for nothing any more."""
    before, executor = threading.active_count(), Executor(blocks, pause_s)
    found = Outlet(Dataset(executor))
    time.sleep(0.1)
    for _ in range(taken):
        found.take(0.0)
    found.close()
    assert not executor.is_alive()
    assert threading.active_count() == before


def test_outlet_closed_before_its_graph_has_begun_leaves_no_thread_at_work(monkeypatch):
    begins = threading.Event()

    class Late(Dataset):
        def iter_internal_ref_bundles(self):
            begins.wait()
            yield from super().iter_internal_ref_bundles()

    executor = Executor(10**9, 0.01)
    found = Outlet(Late(executor))
    monkeypatch.setattr(outlet, "_PATIENCE_S", 0.1)
    found.close()
    begins.set()
    found._thread.join(10)
    assert not found._thread.is_alive()  # it has looked, and gone
    executor.shutdown(force=False)
