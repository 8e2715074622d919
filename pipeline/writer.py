"""Who writes: what a commit needs to know of its run, and which rows and objects are its own."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import layout, schema, storage
from pipeline.footer import Footer
from pipeline.plan import Plan
from pipeline.products import Product
from pipeline.run import Run


@dataclass(frozen=True)
class Attempt:
    """One command that tries rejected samples again."""

    tag: str
    """Unique among commands: what one of them has staged is of no use to another."""
    shards: frozenset[int]
    """Places in the plan of the shards that are revised."""
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
        return self.attempt if self.attempt and index in self.attempt.shards else None

    def edition(self, index: int) -> str:
        """Returns which rows in staging belong together with those of this writer."""
        revision = self.revision(index)
        return revision.tag if revision else layout.edition(self.plan.generation(index))

    def replaces(self, index: int) -> bool:
        """Tells whether objects of a shard may be there that are to give way to new ones."""
        return self.revision(index) is not None or bool(self.plan.earlier(index))

    def publish(self, index: int, uri: str, data: bytes) -> bool:
        """Publishes an object of a shard; returns False if one was there that has to stay."""
        if self.replaces(index):
            storage.replace(uri, data)
            return True
        return storage.publish(uri, data)


def is_current(footer: Footer, run: Run, plan: Plan, index: int) -> bool:
    """Tells whether an object was made by a run, of a shard as it is planned now."""
    said = (footer.origin.get("fingerprint"), footer.origin.get("source"))
    return said == (run.fingerprint, plan.source(index))


def origin_of(writer: Writer, index: int) -> dict[str, object]:
    """Returns which run and which shard an object belongs to."""
    return {
        "fingerprint": writer.run.fingerprint,
        "shard": writer.plan.name(index),
        "source": writer.plan.source(index),
    }


def between(name: str, writer: Writer) -> str:
    """Returns what a column of `data/` is called between stages."""
    return schema.KEPT + name if name in writer.kept.names else name
