"""A shard's place in a sink: where its objects are, and which one of them is to be made."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from vqpipe.sink import layout
from vqpipe.sink.footer import Footer
from vqpipe.sink.layout import Order
from vqpipe.sink.ranges import RowRange
from vqpipe.sink.run import Sink


@dataclass(frozen=True)
class Attempt:
    """One command that tries rejected samples again."""

    tag: str
    """Unique among commands: what one of them has staged is of no use to another."""
    revisions: Mapping[int, int]
    """Which revision is made of the shards that are revised, by place in the plan; 1 first."""
    max_pixels: int
    """Images of more pixels, by their header, are rejected unopened; from 1."""
    pillow: str
    """Version of what opens them; it stands with the limit in footers of what is revised."""


@dataclass(frozen=True)
class Slot:
    """A shard's place in a sink, for the object that is to be made of it."""

    sink: Sink
    index: int
    """The shard's place in the plan."""
    attempt: Attempt | None = None
    """That the shard is revised by; None if it is not."""

    @functools.cached_property
    def name(self) -> str:
        """Name of the shard."""
        return self.sink.plan.name(self.index)

    @property
    def data_uri(self) -> str:
        """Where the shard's object is, once it is committed."""
        return layout.data_uri(self.sink.uri, self.name)

    def aside_uri(self, area: str) -> str:
        """Returns where its samples without a row are, if there are any (`layout.aside_uri`)."""
        return layout.aside_uri(self.sink.uri, area, self.name)

    @property
    def staging_uri(self) -> str:
        """Folder of its row ranges."""
        return layout.staging_uri(self.sink.uri, self.name)

    def range_uri(self, rows: RowRange, total: int | None = None, *, is_cut: bool = False) -> str:
        """Returns where some of its rows are staged for the object; see `layout.range_uri`."""
        edition = self.edition
        return layout.range_uri(self.sink.uri, self.name, rows, total, edition, is_cut=is_cut)

    @functools.cached_property
    def generation(self) -> int:
        """When the shard was planned as it is: 0 is when the run began."""
        return self.sink.plan.generation(self.index)

    @property
    def order(self) -> Order:
        """Place of the object among all that there may be of the shard."""
        return self.generation, self.attempt.revisions[self.index] if self.attempt else 0

    @property
    def edition(self) -> str:
        """What marks the staged rows that the object may be made of."""
        return layout.edition(self.order, self.attempt.tag if self.attempt else "")

    @functools.cached_property
    def replaces(self) -> bool:
        """Whether objects may be there that are to give way to this one."""
        return self.attempt is not None or bool(self.sink.plan.earlier(self.index))

    @functools.cached_property
    def origin(self) -> dict[str, object]:
        """What the object says of which run and which shard it is."""
        generation, revision = self.order
        return {
            "fingerprint": self.sink.run.fingerprint,
            "shard": self.name,
            "source": self.sink.plan.source(self.index),
            "generation": generation,
            "revision": revision,
        }

    def is_current(self, footer: Footer) -> bool:
        """Tells whether an object was made by this run, of the shard as it is planned now."""
        fields = ("fingerprint", "source", "generation")
        return all(footer.origin.get(name) == self.origin[name] for name in fields)
