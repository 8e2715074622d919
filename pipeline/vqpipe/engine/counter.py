"""What workers have done so far, in an actor that driver and workers talk to."""

import contextlib
import functools
import time
from collections import Counter as Multiset
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vqpipe.engine.laggards import FACTOR, LEAST_S, Laggard, Laggards
from vqpipe.occupancy import Spent
from vqpipe.stages.attempts import Notes


class Share(NamedTuple):
    """What the workers of one machine have done so far."""

    encoded: int = 0
    """Images through the codecs there."""
    opened: int = 0
    """Images opened there."""


class Tally(NamedTuple):
    """What the workers of one command have done so far."""

    encoded: int = 0
    """Images through the codecs."""
    opened: int = 0
    """Images opened; those of a task that is tried again count again."""
    read: int = 0
    """Samples read."""
    read_bytes: int = 0
    """Bytes of the source that they took, of finished shards all."""
    devices: tuple[str, ...] = ()
    """Names of the devices that codecs run on."""
    codecs: int = 0
    """Codecs that have been at work."""
    warm_up_s: float = 0.0
    """Seconds that the slowest of them took to compile and choose its kernels."""
    failures: int = 0
    """Most processes of one codec in a row that a device failed, no image encoded meanwhile."""
    failure: str = ""
    """What was the matter, the last time."""
    spent: Spent = Spent()
    """What workers spent their time on, and how much of it there was."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory that were in use, and bytes that it has; None if not known."""
    shares: Mapping[str, Share] = MappingProxyType({})
    """Of machines, by name; those that are lost as well."""
    laggards: tuple[Laggard, ...] = ()
    """Shards that take far longer than others, in the order in which that was found."""


class Counter(Notes):
    """An actor that counts what workers do, for display and watchdog, and keeps their ledger.

    No result depends on it: it may be lost.
    """

    def __init__(self, laggards: Laggards | None = None) -> None:
        super().__init__()
        self._laggards = laggards or Laggards()
        self._counts = Tally()
        self._failures: Multiset[str] = Multiset()
        self._part_rows: int | None = None
        self._codecs: set[str] = set()
        self._shares: dict[str, Share] = {}

    def join(self, codec: str, device: str, warm_up_s: float) -> None:
        """Notes the device of one codec that is ready now; one that starts anew keeps its name."""
        self._codecs.add(codec)
        counts = self._counts._replace(codecs=len(self._codecs))
        devices = tuple(sorted({*counts.devices, device}))
        slowest = max(counts.warm_up_s, warm_up_s)
        self._counts = counts._replace(devices=devices, warm_up_s=slowest)

    def add(
        self,
        images: int,
        spent: Spent,
        where: str,
        gpu_memory: tuple[int, int] | None = None,
    ) -> None:
        """Counts images that a codec has encoded, what it spent, and what its GPU holds."""
        counts = self._counts
        self._count_share(where, encoded=images)
        most = max(counts.gpu_memory or (0, 0), gpu_memory or (0, 0)) if gpu_memory else None
        self._counts = counts._replace(
            encoded=counts.encoded + images, gpu_memory=most or counts.gpu_memory
        )
        self.spend(spent)
        if images:
            self._counts = self._counts._replace(failures=0)
            self._failures.clear()

    def spend(self, spent: Spent) -> None:
        """Adds what a worker has spent."""
        self._counts = self._counts._replace(spent=self._counts.spent.plus(spent))

    def opened(self, images: int, spent: Spent, where: str) -> None:
        """Counts images that are opened, and what that took."""
        self._count_share(where, opened=images)
        self._count_opened(images)
        self.spend(spent)

    def _count_opened(self, images: int) -> None:
        self._counts = self._counts._replace(opened=self._counts.opened + images)

    def _count_share(self, where: str, *, encoded: int = 0, opened: int = 0) -> None:
        share = self._shares.get(where, Share())
        self._shares[where] = Share(share.encoded + encoded, share.opened + opened)

    def moved(self, samples: int) -> None:
        """Counts samples that were read, where that alone shows that work goes on."""
        self.saw(samples, 0, Spent())
        self._count_opened(samples)

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec hands on together: what the first that asked would have."""
        self._part_rows = self._part_rows or rows
        return self._part_rows

    def fail(self, codec: str, error: str) -> None:
        """Notes that a codec's process ends because its device fails."""
        self._failures[codec] += 1
        worst = max(self._failures.values())
        self._counts = self._counts._replace(failures=worst, failure=error)

    def saw(self, samples: int, size: int, spent: Spent) -> None:
        """Counts samples that were read, the bytes of the source that they took, and the time."""
        counts = self._counts
        self._counts = counts._replace(
            read=counts.read + samples, read_bytes=counts.read_bytes + size
        )
        self.spend(spent)

    def hand_out(self, shards: list[int], sizes: list[int], where: str) -> None:
        """Notes which shards, of so many bytes, a task on a machine has."""
        self._laggards.hand_out(shards, sizes, where)

    def began(self, shard: int) -> None:
        """Notes that the task which has a shard reads it now."""
        self._laggards.begin(shard, time.monotonic())

    def ended(self, shard: int) -> None:
        """Notes that a task has read a shard to its end."""
        self._laggards.end(shard)

    def is_read(self, shard: int) -> bool:
        """Tells whether any task has."""
        return self._laggards.is_read(shard)

    def again(self, where: str) -> int | None:
        """Returns a shard for a machine to do again; -1 for none so far, None for none ever."""
        given = self._laggards.again(where, time.monotonic())
        return -1 if given is None and not self._laggards.is_over else given

    def read(self, committed: Sequence[int] = ()) -> Tally:
        """Returns the counts so far.

        Args:
            committed: Shards that are committed since the last time.
        """
        now = time.monotonic()
        self._laggards.commit(committed, now)
        self._laggards.look(now)
        found = tuple(self._laggards.found)
        return self._counts._replace(shares=dict(self._shares), laggards=found)


def here() -> str:
    """Returns what the machine of this worker is called: its address, and the end of Ray's id."""
    return _name_machine() if ray.is_initialized() else "this machine"


@functools.cache
def _name_machine() -> str:
    node_id = ray.get_runtime_context().get_node_id()
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address}/{node_id[-_ID_DIGITS:]}"


_ID_DIGITS = 6
"""Of a node's id: one address may have been that of several nodes."""


def make_counter() -> ActorHandle[Any]:
    """Returns a new counter, on the driver's own node: others may be reclaimed."""
    laggards = Laggards(FACTOR, LEAST_S)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    place = {"num_cpus": 0, "scheduling_strategy": here}
    return cast(ActorHandle[Any], ray.remote(Counter).options(**place).remote(laggards))


class RemoteLedger:
    """The counter's ledger as a worker sees it; work goes on without one that does not answer."""

    def __init__(self, counter: ActorHandle[Any]) -> None:
        self._counter = counter
        self._answers = True

    def begin(self, what: str) -> int:
        """Notes a beginning, for sure; returns how many earlier ones have no end."""
        if self._answers:
            try:
                return cast(int, ray.get(self._counter.begin.remote(what), timeout=_ANSWER_S))
            except ray.exceptions.RayError:  # its node is gone, or nothing moves there
                self._answers = False
        return 0

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec of this run hands on together, given what it would."""
        with contextlib.suppress(ray.exceptions.RayError):
            return cast(int, ray.get(self._counter.agree.remote(rows), timeout=_ANSWER_S))
        return rows

    def end(self, what: str) -> None:
        """Notes an end, some time."""
        if self._answers:
            self._counter.end.remote(what)


_ANSWER_S = 30.0
