"""Who writes: what a commit needs to know of its run."""

from dataclasses import dataclass

from vqpipe.sink.product import Product
from vqpipe.sink.run import Sink
from vqpipe.sink.slot import Attempt, Slot


@dataclass(frozen=True)
class Writer:
    """All that a commit needs to know of its run."""

    sink: Sink
    product: Product
    attempt: Attempt | None = None
    """Set if some shards that are committed are to be revised."""

    def slot(self, index: int) -> Slot:
        """Returns the place of a shard, for the object that this writer makes of it."""
        is_revised = self.attempt is not None and index in self.attempt.revisions
        return Slot(self.sink, index, self.attempt if is_revised else None)
