"""What workers have done so far, in an actor that driver and workers talk to."""

import time
from collections import Counter as Multiset
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vqpipe.engine.laggards import FACTOR, LEAST_S, Laggard, Laggards
from vqpipe.engine.report import Ended, Report
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
        self._sum = Report()
        self._failures: Multiset[str] = Multiset()
        self._part_rows: int | None = None
        self._codecs: set[str] = set()
        self._shares: dict[str, Share] = {}

    def join(self, codec: str, device: str, warm_up_s: float) -> bool:
        """Notes the device of one codec that is ready now; tells whether it was so before.

        One whose process is started anew keeps its name.
        """
        is_again = codec in self._codecs
        self._codecs.add(codec)
        counts = self._counts._replace(codecs=len(self._codecs))
        devices = tuple(sorted({*counts.devices, device}))
        slowest = max(counts.warm_up_s, warm_up_s)
        self._counts = counts._replace(devices=devices, warm_up_s=slowest)
        return is_again

    def tell(self, report: Report, where: str) -> None:
        """Adds what a worker has done on a machine; on one without a name, for no display."""
        self._sum = self._sum.plus(report)
        if where and (report.encoded or report.opened):
            share = self._shares.get(where, Share())
            self._shares[where] = Share(
                share.encoded + report.encoded, share.opened + report.opened
            )
        if report.encoded:
            self._failures.clear()
            self._counts = self._counts._replace(failures=0)

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec hands on together: what the first that asked would have."""
        self._part_rows = self._part_rows or rows
        return self._part_rows

    def fail(self, codec: str, error: str) -> None:
        """Notes that a codec's process ends because its device fails."""
        self._failures[codec] += 1
        worst = max(self._failures.values())
        self._counts = self._counts._replace(failures=worst, failure=error)

    def hand_out(self, shards: list[int], sizes: list[int], where: str) -> None:
        """Notes which shards, of so many bytes, a task on a machine has."""
        self._laggards.hand_out(shards, sizes, where)

    def begin_shard(self, said: tuple[int, str, Ended | None]) -> int:
        """Notes that the task which has a shard reads it now; answers as `begin` does.

        Args:
            said: Place of the shard in the plan, what it is begun as, and the shard before it.
        """
        shard, what, ended = said
        if ended:
            self.end_shard(ended)
        self._laggards.begin(shard, time.monotonic())
        return self.begin(what)

    def end_shard(self, ended: Ended) -> None:
        """Notes the end of what `begin_shard` noted, and adds what was done."""
        if ended.is_read:
            self._laggards.end(ended.shard)
        self.end(ended.what)
        self.tell(ended.report, ended.where)

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
        shares = dict(self._shares)
        return self._counts._replace(**self._sum._asdict(), shares=shares, laggards=found)


def make_counter() -> ActorHandle[Any]:
    """Returns a new counter, on the driver's own node: others may be reclaimed."""
    laggards = Laggards(FACTOR, LEAST_S)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    place = {"num_cpus": 0, "scheduling_strategy": here}
    return cast(ActorHandle[Any], ray.remote(Counter).options(**place).remote(laggards))
