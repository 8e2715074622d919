"""How two runs differ: what was chosen and planned, how codes are distributed, and which differ.

Codes are compared sample by sample: the same shard, key, image and view in both sinks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.schema import IMAGE, lists_in, numbers_of
from vqpipe.sink import layout
from vqpipe.sink.objects import read_whole
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import CodesRun, CompactRun, Run
from vqpipe.storage.ahead import map_ahead

_COLUMNS = ["key", "view", "codes"]
_READERS = 4
"""Pairs of objects that are read and compared at a time; each takes memory."""
_MOMENT = {"created"}
"""Facts that differ between any two runs."""


def compare_fields(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Returns what differs of two runs' identities and facts: both values by dotted name.

    What only one of them has is None in the other. Identity comes first.
    """
    found: dict[str, tuple[Any, Any]] = {}
    pairs = (
        (_identity_of(first), _identity_of(second)),
        (_facts_of(first), _facts_of(second)),
    )
    for mine, theirs in pairs:
        a, b = _flatten(mine), _flatten(theirs)
        names = [name for name in {**a, **b} if name not in _MOMENT and a.get(name) != b.get(name)]
        found |= {name: (a.get(name), b.get(name)) for name in names}
    return found


def _identity_of(run: Run) -> dict[str, Any]:
    """Returns a run's choices; of a compacted one, those that its codes were made with first."""
    said = run.identity.document()
    if not isinstance(run, CompactRun):
        return said
    own = {name: value for name, value in said.items() if name not in _OF_CODES}
    return {**run.encoding.document(), "stage": run.stage, "compact": own}


_OF_CODES = {"stage", "encode", "model_sha256"}
"""What a compacted run's identity says of its codes, beside what it says of itself."""


def _facts_of(run: Run) -> dict[str, Any]:
    """Returns what else a run says; of a compacted one, what its codes were made with."""
    said = run.facts.document()
    if not isinstance(run, CompactRun):
        return said
    facts = {name: value for name, value in said.items() if not name.startswith("source_")}
    source = run.facts.source_run
    while source.get("stage") == run.stage:
        source = source["source_run"]
    return {**facts, "versions": source["versions"]}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted name; lists are values."""
    flat: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            flat |= _flatten(each, f"{prefix}{name}.")
        else:
            flat[prefix + name] = each
    return flat


@dataclass(frozen=True)
class Shards:
    """How two plans differ, by names of shards."""

    both: list[str]
    only_first: list[str]
    only_second: list[str]
    changed: list[str]
    """Of those in both: other sizes or versions of their files."""
    elsewhere: list[str]
    """Of those in both: the same size and version in another place."""


def compare_plans(first: Plan, second: Plan) -> Shards:
    """Returns which shards two plans have in common, and which of these are not the same."""
    mine, theirs = _versions(first), _versions(second)
    both = [name for name in mine if name in theirs]
    changed = [name for name in both if mine[name][1:] != theirs[name][1:]]
    moved = [name for name in both if mine[name][0] != theirs[name][0]]
    return Shards(
        both=both,
        only_first=[name for name in mine if name not in theirs],
        only_second=[name for name in theirs if name not in mine],
        changed=changed,
        elsewhere=sorted(set(moved) - set(changed)),
    )


_VERSION = ("uri", "size", "version", "first_row_group", "last_row_group")


def _versions(plan: Plan) -> dict[str, tuple[Any, ...]]:
    rows = zip(*(plan.table[name].to_pylist() for name in _VERSION), strict=True)
    return dict(zip(plan.names, rows, strict=True))


def why_incomparable(first: Run, second: Run) -> str | None:
    """Returns why codes of two runs cannot be compared; None if they can."""
    if not isinstance(first, CodesRun):
        return f"a run of stage {first.stage} has no codes"
    if not isinstance(second, CodesRun):
        return f"a run of stage {second.stage} has no codes"
    if _are_in_other_files(first, second):
        return "their rows are in other files: what codes there are, and how many, is compared"
    if first.identity.drop_codes or second.identity.drop_codes:
        return "one of them left its codes out (--drop-codes)"
    a, b = first.facts, second.facts
    if a.codebook_size != b.codebook_size:
        return f"their codebook sizes differ, {a.codebook_size} and {b.codebook_size}"
    if a.codes != b.codes:
        return f"their layouts differ, {a.codes.describe()} and {b.codes.describe()}"
    if first.identity.has_several_images != second.identity.has_several_images:
        return "one of them has several images of a sample, and the other one has not"
    return None


def _are_in_other_files(first: CodesRun, second: CodesRun) -> bool:
    """Tells whether files of one name have rows of other samples in two runs."""
    order = [
        (run.identity.rows_per_file, run.identity.shuffle) if isinstance(run, CompactRun) else None
        for run in (first, second)
    ]
    return order[0] != order[1]


@dataclass
class Compared:
    """What became of the samples that both sinks have."""

    shards: int = 0
    samples: int = 0
    """Rows with the same shard, key and view in both."""
    unlike_samples: int = 0
    """Those with any code that differs."""
    codes: int = 0
    unlike_codes: int = 0
    only_first: int = 0
    """Rows of these shards that the second sink lacks: rejected there, or of another source."""
    only_second: int = 0
    worst: tuple[str, float] | None = None
    """The shard with the largest share of codes that differ, and that share."""
    names: list[str] = field(default_factory=list)
    """The shards."""

    @property
    def equal(self) -> float | None:
        """Share of codes that are equal; None if none was compared."""
        return 1 - self.unlike_codes / self.codes if self.codes else None

    def add(self, other: "Compared") -> None:
        """Adds what became of other shards."""
        self.shards += other.shards
        self.samples += other.samples
        self.unlike_samples += other.unlike_samples
        self.codes += other.codes
        self.unlike_codes += other.unlike_codes
        self.only_first += other.only_first
        self.only_second += other.only_second
        self.names += other.names
        if self.worst is None or (other.worst and other.worst[1] > self.worst[1]):
            self.worst = other.worst


def compare_codes(
    first: str, second: str, names: Iterable[str], *, are_several: bool = False
) -> Compared:
    """Returns how the codes of some shards differ between two sinks.

    Args:
        first: One sink.
        second: The other.
        names: Shards that both have, of the same grid and codebook size.
        are_several: Whether samples have several images, which a kept column tells apart.

    Raises:
        StorageError: If an object is damaged or gone.
    """
    columns = [*_COLUMNS, *([IMAGE] if are_several else [])]

    def compare(name: str) -> Compared:
        mine, theirs = (
            read_whole(layout.data_uri(sink, name), columns) for sink in (first, second)
        )
        return _compare_shard(name, mine, theirs)

    total = Compared()
    for found in map_ahead(compare, names, _READERS):
        total.add(found)
    return total


def _compare_shard(name: str, mine: pa.Table, theirs: pa.Table) -> Compared:
    places = {key: place for place, key in enumerate(_keys(theirs))}
    pairs = [(i, places[key]) for i, key in enumerate(_keys(mine)) if key in places]
    unlike, codes = _count_unlike(mine["codes"], theirs["codes"], pairs)
    return Compared(
        shards=1,
        samples=len(pairs),
        unlike_samples=int(np.count_nonzero(unlike)),
        codes=codes,
        unlike_codes=int(unlike.sum()),
        only_first=len(mine) - len(pairs),
        only_second=len(theirs) - len(pairs),
        worst=(name, float(unlike.sum() / codes)) if codes else None,
        names=[name],
    )


def _count_unlike(
    mine: pa.ChunkedArray, theirs: pa.ChunkedArray, pairs: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.int64], int]:
    """Returns how many codes of each pair of rows differ, and how many codes those rows have.

    Where an image has a grid of another shape in the other sink, all of its codes differ.
    """
    if pa.types.is_fixed_size_list(mine.type) and pa.types.is_fixed_size_list(theirs.type):
        a, b = np.array(pairs, np.int64).reshape(-1, 2).T
        differ = numbers_of(mine)[a] != numbers_of(theirs)[b]  # (samples, h * w)
        return differ.sum(1), differ.size
    ours, others = lists_in(mine), lists_in(theirs)
    counts = [
        int((ours[a] != others[b]).sum()) if len(ours[a]) == len(others[b]) else len(ours[a])
        for a, b in pairs
    ]
    return np.array(counts, np.int64), sum(len(ours[a]) for a, _ in pairs)


def _keys(table: pa.Table) -> list[tuple[Any, ...]]:
    """Returns what tells apart the rows of a shard."""
    columns = (table[name].to_pylist() for name in table.column_names if name != "codes")
    return list(zip(*columns, strict=True))
