"""What is exported: the committed rows of a sink, frozen, and where each one stands among all.

Shards stand in order of name, and rows of one in order of row and view, so that which number a row
has is known in every process without asking another one.
"""

import functools
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vqpipe.code_layout import CodeLayout
from vqpipe.sink.objects import CODES, OWN_COLUMNS
from vqpipe.sink.parts import data_types
from vqpipe.sink.snapshot import Part, Snapshot, take_snapshot
from vqpipe.vector_layout import COLUMNS


@dataclass(frozen=True)
class Subject:
    """A sink's rows; can be sent to any process."""

    snapshot: Snapshot
    """Which objects they are in."""
    types: pa.Schema
    """Of their columns."""

    def __reduce__(self) -> tuple[Any, tuple[Snapshot, bytes]]:
        return _receive, (self.snapshot, self.types.serialize().to_pybytes())

    def __len__(self) -> int:
        """Tells how many shards there are."""
        return len(self.snapshot)

    @property
    def layout(self) -> CodeLayout:
        """How the codes of a row lie in their list."""
        return self.snapshot.run.facts.codes

    @property
    def has_codes(self) -> bool:
        """Whether codes were kept at all."""
        return CODES in self.types.names

    @property
    def views(self) -> int:
        """Rows of a sample, side by side."""
        return self.snapshot.views

    @functools.cached_property
    def rows(self) -> int:
        """Of all shards."""
        return int(self.snapshot.starts[-1])

    @property
    def samples(self) -> int:
        """Of all shards: images, each of which has `views` rows."""
        return self.rows // self.views

    @property
    def kept(self) -> list[str]:
        """Columns of metadata that the run has kept, in order."""
        return [name for name in self.types.names if name not in OWN_COLUMNS]

    @property
    def facts(self) -> list[str]:
        """All columns but codes and vectors, in order."""
        return [name for name in self.types.names if name not in {CODES, *COLUMNS}]

    def shard(self, index: int) -> Part:
        """Returns one shard."""
        return self.snapshot.part(index)

    def first_row(self, index: int) -> int:
        """Returns how many rows stand before a shard's."""
        return int(self.snapshot.starts[index])

    def first_sample(self, index: int) -> int:
        """Returns how many samples stand before a shard's."""
        return self.first_row(index) // self.views


def _receive(snapshot: Snapshot, types: bytes) -> Subject:
    """Returns what was sent; pickled by itself, a type of lists forgets what its items are called.

    Files that say of which types they are would have other bytes then, by who has written them.
    """
    return Subject(snapshot, pa.ipc.read_schema(pa.BufferReader(types)))


def take_subject(uri: str, *, generation: int | None, allow_incomplete: bool) -> Subject:
    """Returns what of a sink is committed now.

    Args:
        uri: The sink.
        generation: As in `take_snapshot`.
        allow_incomplete: The same.

    Raises:
        VqpipeError: As `take_snapshot`; IncompleteError as well if there is no shard yet.
    """
    snapshot = take_snapshot(uri, generation=generation, allow_incomplete=allow_incomplete)
    return Subject(snapshot, data_types(snapshot))
