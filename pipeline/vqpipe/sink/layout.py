"""Where everything is in a sink, and what of it is there, by one listing.

    data/<shard>.parquet                                     a committed shard
    rejected/<shard>.parquet                                 its rejections, where there are any
    left_out/<shard>.parquet                                 what is left out of it, the same
    staging/<shard>/<first>-<last>[-of-<total>][.<edition>].parquet   rows of one that is not yet;
                    [-cut-<total>]                           the last one stands for what is lost
    plans/<sha256>.parquet                                   the plan that run.json names
    snapshot/<digest>.parquet                                what a compacted sink is made of
    totals/<sha256>.parquet                                  what a thousand of data/ add up to
    plan.parquet, run.json, summary.json, README.md, _SUCCESS

What is done is written down nowhere: it is what `data/` and `staging/` hold.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from vqpipe import storage
from vqpipe.schema import File
from vqpipe.sink.ranges import RowRange, Staged

LISTED = pa.schema(
    [pa.field("name", pa.string()), pa.field("size", pa.int64()), pa.field("version", pa.string())]
)
"""Objects as they are listed, by the shards that they are named after."""

Order = tuple[int, int]
"""Place of an object among those of its shard: generation of the plan, revision since."""


def edition(order: Order, tag: str = "") -> str:
    """Returns what marks the staged rows of which an object is to be made.

    Args:
        order: That object's.
        tag: Of the command that tries rejected samples again, if it is a revision.
    """
    generation, revision = order
    return (f"g{generation}" if generation else "") + (f"r{revision}t{tag}" if revision else "")


def run_uri(sink: str) -> str:
    """Returns where a sink's identity is."""
    return storage.join_uri(sink, "run.json")


def plan_uri(sink: str) -> str:
    """Returns where a sink's plan is."""
    return storage.join_uri(sink, "plan.parquet")


def first_plan_uri(sink: str, sha256: str) -> str:
    """Returns where the plan is that a run began with; nothing ever replaces it."""
    return storage.join_uri(sink, "plans", f"{sha256}.parquet")


def snapshot_uri(sink: str, digest: str) -> str:
    """Returns where it is kept what a compacted sink is made of; nothing ever replaces it."""
    return storage.join_uri(sink, "snapshot", f"{digest}.parquet")


def data_uri(sink: str, name: str) -> str:
    """Returns where a committed shard is; the object's existence is the commit."""
    return storage.join_uri(sink, "data", f"{name}.parquet")


def aside_uri(sink: str, area: str, name: str) -> str:
    """Returns where a shard's samples are that have no row; there is no object where none are.

    Args:
        sink: Where the run is.
        area: `rejected` or `left_out`.
        name: The shard.
    """
    return storage.join_uri(sink, area, f"{name}.parquet")


def staging_uri(sink: str, name: str) -> str:
    """Returns the folder of a shard's row ranges."""
    return storage.join_uri(sink, "staging", name)


def success_uri(sink: str) -> str:
    """Returns where a sink's totals are once all of it is committed and checked."""
    return storage.join_uri(sink, "_SUCCESS")


def range_uri(
    sink: str,
    name: str,
    rows: RowRange,
    total: int | None,
    edition: str = "",
    *,
    is_cut: bool = False,
) -> str:
    """Returns where a row range is staged.

    Args:
        sink: Where the run is.
        name: The shard.
        rows: Which rows of it.
        total: Rows of the whole shard, if known.
        edition: What the rows were made of or for, if not of the shard as it was first planned;
            rows of different editions are never put together.
        is_cut: Whether the last row stands for all that could not be read.
    """
    suffix = "" if total is None else f"-{'cut' if is_cut else 'of'}-{total:08d}"
    stem = f"{rows[0]:08d}-{rows[1]:08d}{suffix}{edition and '.'}{edition}"
    return storage.join_uri(staging_uri(sink, name), f"{stem}.parquet")


_RANGE = re.compile(r"(\d{8,})-(\d{8,})(?:-(of|cut)-(\d{8,}))?(?:\.(\w+))?\.parquet")


def pick_ranges(uris: Iterable[str], edition: str = "", least: int = 0) -> list[str]:
    """Returns the objects of one staging folder that hold rows of an edition and go together.

    A shard may have been read to its end and, on a bad day, to some row before it. Rows behind the
    end that a range claims show that it was none. A last row that stands for all that was lost is
    no row at all: it gives way to what was read in its place, and to an end that was read. What is
    left out is read anew.

    Args:
        uris: The objects.
        edition: See `range_uri`.
        least: Rows that the shard has at least.
    """
    found = {uri: _parse(uri) for uri in uris}
    ours = {uri: each for uri, each in found.items() if each and each.edition == edition}
    seen = max(least, *(each.seen for each in ours.values()), 0)
    ends = [(t, each.is_cut) for each in ours.values() if (t := each.total) is not None]
    is_read = any(total >= seen and not is_cut for total, is_cut in ends)
    cuts = [total for total, is_cut in ends if total > seen and is_cut and not is_read]
    cut = min(cuts, default=None)

    def goes_along(each: _Range) -> bool:
        return each.total is None or (each.total == cut if each.is_cut else each.total >= seen)

    return [uri for uri, each in ours.items() if goes_along(each)]


@dataclass(frozen=True)
class _Range:
    """What the name of a staged object says."""

    rows: RowRange
    is_cut: bool
    total: int | None
    edition: str

    @property
    def seen(self) -> int:
        """Rows that the shard has at least, if it is true."""
        first, last = self.rows
        return last - self.is_cut if last - self.is_cut > first else 0


def _parse(uri: str) -> _Range | None:
    match = _RANGE.fullmatch(uri.rpartition("/")[2])
    if match is None:
        return None
    total = None if match[4] is None else int(match[4])
    return _Range((int(match[1]), int(match[2])), match[3] == "cut", total, match[5] or "")


def parse_ranges(uris: Iterable[str], edition: str = "", least: int = 0) -> Staged:
    """Returns what those of the objects of one staging folder hold that go together."""
    found = [each for uri in pick_ranges(uris, edition, least) if (each := _parse(uri))]
    total = next((each.total for each in found if each.total is not None), None)
    return Staged(tuple(each.rows for each in found if each.rows[0] != each.rows[1]), total)


_EDITION = re.compile(r"(?:g(\d+))?(?:r(\d+)t(\w+))?")


def is_range(uri: str) -> bool:
    """Tells whether an object of a staging folder is a row range."""
    return _parse(uri) is not None


def is_used_up(uri: str, order: Order, tag: str | None = None) -> bool:
    """Tells whether an object is a row range that no command has a use for any more.

    Args:
        uri: An object of a shard's staging folder.
        order: That of the shard's object.
        tag: Of a command that has tried rejected samples again and is done.
    """
    staged = _parse(uri)
    found = staged and _EDITION.fullmatch(staged.edition)
    if not found:
        return False
    mine = (int(found[1] or 0), int(found[2] or 0))
    return mine <= order or (tag is not None and found[3] == tag)


def area_uri(sink: str, area: str) -> str:
    """Returns where the objects of a kind are: `data`, `rejected`, `left_out`, `totals`."""
    return storage.join_uri(sink, area)


def list_data(sink: str, area: str = "data") -> pa.Table:
    """Returns the objects of `data/`, or of another area, freshly listed (`LISTED`), by URI.

    A million of them take 0.1 GB, where a dictionary of `File`s takes five times as much.
    """
    base = area_uri(sink, area)
    files = [file for file in storage.list_files(base) if file.uri.endswith(".parquet")]
    tables = [LISTED.empty_table()]
    while files:  # each goes as soon as it is in a table
        tables.append(_table_of(base, files[:_ROWS]))
        del files[:_ROWS]
    return pa.concat_tables(tables)


_ROWS = 2**16


def _table_of(base: str, files: list[File]) -> pa.Table:
    names = [stem(base, file.uri) for file in files]
    columns = [names, [file.size for file in files], [file.version for file in files]]
    return pa.table(dict(zip(LISTED.names, columns, strict=True)), schema=LISTED)


def files_of(sink: str, table: pa.Table, area: str = "data") -> list[File]:
    """Returns the objects of a table (`LISTED`)."""
    base, columns = area_uri(sink, area), (table[name].to_pylist() for name in LISTED.names)
    return [
        File(f"{base}/{name}.parquet", size, version)
        for name, size, version in zip(*columns, strict=True)
    ]


def list_committed(sink: str) -> dict[str, File]:
    """Returns the objects of `data/` by the shards that they are named after, freshly listed."""
    base = storage.join_uri(sink, "data")
    files = storage.list_files(base)
    return {stem(base, file.uri): file for file in files if file.uri.endswith(".parquet")}


def stem(base: str, uri: str) -> str:
    """Returns the shard whose object `uri` is, below `data/`, `rejected/` or `left_out/`."""
    return uri[len(base) + 1 : -len(".parquet")]


def list_staged(sink: str) -> dict[str, list[str]]:
    """Returns the URIs of everything in `staging/` by shard, by one fresh listing."""
    base = storage.join_uri(sink, "staging")
    folders: dict[str, list[str]] = {}
    for file in storage.list_files(base):
        folders.setdefault(file.uri[len(base) + 1 :].rpartition("/")[0], []).append(file.uri)
    return folders
