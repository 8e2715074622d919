import itertools
from types import SimpleNamespace

import pytest

from vqpipe.engine import committer
from vqpipe.engine.committer import GATHER_BYTES, GATHER_ROWS, GATHER_S, Block, Committer, Gathered


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(committer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def commits_of(clock, blocks, seconds, poll_s=0.5):
    """Returns when each commit began and what it took, of blocks at equal distances of time."""
    gathered, found, begun = Gathered(), [], clock.now
    left = [(number * seconds, block) for number, block in enumerate(blocks)]
    while left:
        while left and begun + left[0][0] <= clock.now:
            gathered.add(left.pop(0)[1])
        while taken := gathered.take(at_once=not left):
            found.append((clock.now - begun, taken))
        clock.now += poll_s
    return found


@pytest.mark.parametrize("rows", [1, 30, 128, 256])
@pytest.mark.parametrize("seconds", [0.01, 0.25, 2, 20, 300])
def test_gathered_any_speed_commits_every_block_once_and_within_seconds(clock, rows, seconds):
    blocks = [Block(number, rows, rows * 1000) for number in range(60)]
    found = commits_of(clock, blocks, seconds)
    assert list(itertools.chain.from_iterable(taken for _, taken in found)) == list(range(60))
    came = {number: number * seconds for number in range(60)}
    assert all(when - came[number] <= GATHER_S + 0.5 for when, taken in found for number in taken)


def test_gathered_fast_codecs_commit_thousands_of_rows_at_once(clock):
    blocks = [Block(number, 256, 256_000) for number in range(64)]
    found = commits_of(clock, blocks, 0.05)  # 5,000 images a second
    assert len(found) <= 64 * 256 // GATHER_ROWS + 1


@pytest.mark.usefixtures("clock")
def test_gathered_large_rows_are_committed_by_their_bytes():
    gathered = Gathered()
    for number in range(3):
        assert gathered.take() == []
        gathered.add(Block(number, 10, GATHER_BYTES // 3 + 1))
    assert gathered.take() == [0, 1, 2]
    assert gathered.take(at_once=True) == []


class Store:
    """Commits in Ray's place, which end when they are told to."""

    def __init__(self, monkeypatch):
        self.begun, self.ended = [], []
        monkeypatch.setattr(committer, "ray", SimpleNamespace(wait=self._wait, get=list))

    def launch(self, *blocks):
        self.begun.append(blocks)
        return blocks

    def _wait(self, refs, **_):
        return [ref for ref in refs if ref in self.ended], [
            ref for ref in refs if ref not in self.ended
        ]


@pytest.mark.parametrize("size", [GATHER_BYTES // 10, GATHER_BYTES // 2 + 1, 3 * GATHER_BYTES])
@pytest.mark.parametrize("cores", [1, 8])
def test_committer_slow_store_has_no_more_commits_than_cores_and_none_larger(
    monkeypatch, size, cores
):
    store = Store(monkeypatch)
    commits = Committer(store.launch)
    commits.widen(cores)
    most = max(4, cores)
    for number in range(200):
        commits.add(Block(number, 16, size))
    while not commits.is_idle:
        list(commits.work(at_once=True, wait_s=0))
        assert len(store.begun) - len(store.ended) <= most
        store.ended = store.begun[: len(store.ended) + 1]
    assert commits.is_idle
    assert list(itertools.chain.from_iterable(store.begun)) == list(range(200))
    assert all(len(blocks) * size < GATHER_BYTES + size for blocks in store.begun)


def test_committer_with_blocks_that_wait_for_others_to_be_committed_is_not_idle(monkeypatch):
    store = Store(monkeypatch)
    commits = Committer(store.launch)
    assert commits.is_idle
    commits.add(Block("a", 1, 1))
    assert not commits.is_idle
    assert list(commits.work(at_once=True, wait_s=0)) == []
    store.ended = list(store.begun)
    assert list(commits.work(at_once=True, wait_s=0)) == [("a",)]
    assert commits.is_idle
