"""Who writes: what a commit needs to know of its run, and which rows and objects are its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vqpipe import schema
from vqpipe.sink import layout
from vqpipe.sink.footer import Footer
from vqpipe.sink.layout import Order
from vqpipe.sink.plan import Plan
from vqpipe.sink.product import Product
from vqpipe.sink.run import Run


@dataclass(frozen=True)
class Attempt:
    """One command that tries rejected samples again."""

    tag: str
    """Unique among commands: what one of them has staged is of no use to another."""
    revisions: Mapping[int, int]
    """Which revision is made of the shards that are revised, by place in the plan; 1 first."""
    facts: dict[str, Any]
    """What may have changed since; stands in the footers of the shards that are revised."""


@dataclass(frozen=True)
class Writer:
    """All that a commit needs to know of its run."""

    sink: str
    run: Run
    plan: Plan
    kept: pa.Schema
    product: Product
    attempt: Attempt | None = None
    """Set if some shards that are committed are to be revised."""

    def revision(self, index: int) -> Attempt | None:
        """Returns the attempt that a shard is revised by, if it is."""
        return self.attempt if self.attempt and index in self.attempt.revisions else None

    def order(self, index: int) -> Order:
        """Returns the place of the object that is made of a shard among all that there may be."""
        revision = self.revision(index)
        return self.plan.generation(index), revision.revisions[index] if revision else 0

    def edition(self, index: int) -> str:
        """Returns which rows in staging belong together with those of this writer."""
        return layout.edition(self.order(index), self.attempt.tag if self.attempt else "")

    def replaces(self, index: int) -> bool:
        """Tells whether objects of a shard may be there that are to give way to new ones."""
        return self.revision(index) is not None or bool(self.plan.earlier(index))


def is_current(footer: Footer, run: Run, plan: Plan, index: int) -> bool:
    """Tells whether an object was made by a run, of a shard as it is planned now."""
    said = tuple(footer.origin.get(name) for name in ("fingerprint", "source", "generation"))
    return said == (run.fingerprint, plan.source(index), plan.generation(index))


def origin_of(writer: Writer, index: int) -> dict[str, object]:
    """Returns which run and which shard an object belongs to."""
    generation, revision = writer.order(index)
    return {
        "fingerprint": writer.run.fingerprint,
        "shard": writer.plan.name(index),
        "source": writer.plan.source(index),
        "generation": generation,
        "revision": revision,
    }


def order_of(origin: Mapping[str, Any]) -> Order:
    """Returns the place of an object among those of its shard: a higher one replaces a lower."""
    return origin["generation"], origin["revision"]


def between(name: str, writer: Writer) -> str:
    """Returns what a column of `data/` is called between stages."""
    return schema.KEPT + name if name in writer.kept.names else name
