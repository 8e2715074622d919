"""What a sink holds, added up from the footers of its data objects.

Every data object carries its counts and code histogram in the footer, so that totals need one
small request a shard and no pass over the codes.
"""

import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import DamagedError, IncompleteError, StorageError
from vqpipe.schema import File
from vqpipe.sink import layout, subtotals
from vqpipe.sink.asides import AREAS
from vqpipe.sink.counted import digest_of
from vqpipe.sink.footer import Footer, Histogram, read_footer, read_tail
from vqpipe.sink.plan_file import load_plan
from vqpipe.sink.run import STAGES, CodesRun, CompactRun, Run, Sink
from vqpipe.sink.sums import Totals
from vqpipe.storage.ahead import map_ahead


def verb(totals: dict[str, Any]) -> str:
    """Returns what a stage has done with a sample, in a word, from totals as they are stored."""
    return next(entry.made for entry in STAGES.values() if entry.made in totals)


def made(totals: dict[str, Any]) -> int:
    """Returns how many samples a stage did not reject, from totals as they are stored."""
    return int(totals[verb(totals)])


_READERS = 32
_AT_ONCE = 64
"""Parts that are looked for in the plan together."""
PART = 1024
"""Objects whose sums are kept together."""


def read_totals(sink: Sink, some: Collection[File] | None = None) -> Totals:
    """Returns the sums over a sink's data objects, after checking each one's accounting.

    Objects of an earlier version of a shard, which wait to be replaced, are left out. Where workers
    have added up some together (`add_part`), that is taken if all of them hold (`_Held`), and the
    footers of all others are read.

    Args:
        sink: The run and its plan, and where they are.
        some: Objects to add up, as listed; by default all that are there now.

    Raises:
        StorageError: If an object belongs to another run or plan, or does not add up.
    """
    totals = begin_totals(sink.run)
    if some is not None:
        _add_files(totals, sink, some)
        return totals
    totals.listed = layout.list_data(sink.uri)
    held = _Held(sink, totals.listed)
    for part in held.parts():
        totals.merge(part)
    totals.parts = frozenset(held.uris)
    _add_files(totals, sink, held.others())
    return totals


def _add_files(totals: Totals, sink: Sink, files: Collection[File]) -> None:
    """Adds objects, as listed, by their footers."""
    base = layout.area_uri(sink.uri, "data")
    names = pa.array([layout.stem(base, file.uri) for file in files], pa.string())
    places = sink.plan.find(names).tolist()
    footers = map_ahead(read_footer, files, _READERS)
    for file, place, footer in zip(files, places, footers, strict=True):
        check_footer(sink, file, footer)
        if place < 0:
            _refuse_unplanned(sink, file)
        elif not _is_outdated(sink, file, footer, place):
            totals.add(footer, file)


class _Held:
    """Which objects of a listing have been added up together with others, so that it still holds.

    Of each part all objects are as they were when their footers were read and checked
    (`check_footer`): they have that size and version in this listing, their shards are planned in
    the generation and as the file that they were made of, and no other part has any of them. If one
    is not, the part is as good as none. One object of each, which a hash picks, is read again. So a
    part says what its footers say, unless a store gives two contents one version.
    """

    def __init__(self, sink: Sink, listed: pa.Table) -> None:
        self._sink, self._listed = sink, listed
        self.uris: set[str] = set()
        """Of the parts that hold."""
        self._is_left = np.ones(len(listed), bool)

    def parts(self) -> Iterator[Totals]:
        """Yields the sums over parts that hold."""
        files = subtotals.list_parts(self._sink.uri)
        if not files:
            return
        rows = self._rows()
        loaded = zip(files, map_ahead(self._load, files, _READERS), strict=True)
        while some := list(itertools.islice(loaded, _AT_ONCE)):
            found = [(file, part) for file, part in some if part]
            places = self._places([part.counted.table["name"] for _, part in found])
            for (file, part), each in zip(found, places, strict=True):
                if self._take(part.counted.table, each, rows):
                    self.uris.add(file.uri)
                    yield part

    def others(self) -> list[File]:
        """Returns the objects that none of these has, as listed."""
        table = self._listed.filter(pa.array(self._is_left))
        return layout.files_of(self._sink.uri, table)

    def _load(self, file: File) -> Totals | None:
        bins = _bins(self._sink.run)
        part = subtotals.read_part(file, self._sink.run.fingerprint, bins)
        return part if part and _is_true(self._sink, part.counted.table) else None

    def _rows(self) -> npt.NDArray[np.int64]:
        """Returns (shards + 1,) the row of each shard's object in the listing; -1 where none is."""
        places = self._sink.plan.find(self._listed["name"])
        rows = np.full(len(self._sink.plan) + 1, -1, np.int64)
        rows[places] = np.arange(len(places))
        rows[-1] = -1  # of objects of no shard
        return rows

    def _places(self, names: list[pa.ChunkedArray]) -> list[npt.NDArray[np.int64]]:
        """Returns the places in the plan of the shards of some parts; -1 where none is."""
        if not names:
            return []
        every = pa.chunked_array([chunk for each in names for chunk in each.chunks], pa.string())
        return np.split(self._sink.plan.find(every), np.cumsum([len(each) for each in names])[:-1])

    def _take(
        self, table: pa.Table, places: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> bool:
        """Tells whether all objects of a part are as they were, and in no other part.

        Args:
            table: The objects (`COUNTED`).
            places: Those of their shards in the plan.
            rows: Those of all shards in the listing (`_rows`).
        """
        plan = self._sink.plan
        found = rows[places]
        if (found < 0).any():
            return False
        listed, planned = self._listed.take(found), plan.table.take(places)
        pairs = [(listed[name], name) for name in ("size", "version")]
        pairs += [(planned[name], f"source_{name}") for name in ("uri", "size", "version")]
        pairs.append((planned["generation"], "generation"))
        is_same = all(now.equals(table[name]) for now, name in pairs)
        if not (is_same and self._is_left[found].all()):
            return False
        self._is_left[found] = False
        return True


def _is_true(sink: Sink, table: pa.Table) -> bool:
    """Tells whether the footer of one object of a part, which a hash picks, is what was added."""
    picked = subtotals.pick(table)
    (file,) = layout.files_of(sink.uri, picked)
    try:
        footer = read_footer(file)
        check_footer(sink, file, footer)
    except (FileNotFoundError, StorageError):  # whoever reads all of them says what is wrong
        return False
    return bool(digest_of(footer) == picked["digest"][0].as_py())


@dataclass(frozen=True)
class _Seen:
    """An object that was read, and what repeats its samples without a row."""

    place: int
    file: File
    footer: Footer
    beside: dict[str, File]


def add_part(sink: Sink, places: Sequence[int]) -> None:
    """Adds up the objects of some shards, and keeps the sums in the sink for who adds up all.

    Objects that are gone, or are replaced meanwhile, are left out.

    Args:
        sink: The run and its plan, and where they are.
        places: Of the shards in the plan.

    Raises:
        StorageError: If an object belongs to another run or plan, or does not add up.
    """
    totals = begin_totals(sink.run)
    for seen in map_ahead(lambda place: _look(sink, place), places, _READERS):
        if seen is None:
            continue
        check_footer(sink, seen.file, seen.footer)
        if not _is_outdated(sink, seen.file, seen.footer, seen.place):
            totals.add(seen.footer, seen.file, seen.beside)
    if totals.shards:
        subtotals.publish_part(sink, totals)


def _look(sink: Sink, place: int) -> _Seen | None:
    """Returns an object that was the same before its footer was read and after; None if none was.

    Not every store reads just the version that it is asked for.
    """
    name = sink.plan.name(place)
    try:
        footer, file, _ = read_tail(storage.stat(layout.data_uri(sink.uri, name)))
        beside = _find_beside(sink, name, footer)
        is_same = storage.stat(file.uri) == file
    except FileNotFoundError:
        return None
    return _Seen(place, file, footer, beside) if is_same else None


def _find_beside(sink: Sink, name: str, footer: Footer) -> dict[str, File]:
    """Returns by folder which objects repeat the samples without a row of a shard."""
    found = {}
    for area in (each for each in AREAS if footer.origin.get(each)):
        try:
            said, file, _ = read_tail(storage.stat(layout.aside_uri(sink.uri, area, name)))
        except (FileNotFoundError, DamagedError):  # the end of the run makes it good
            continue
        if said.origin.get("rejections") == footer.origin["rejections"]:
            found[area] = file
    return found


def places_added(sink: Sink) -> list[npt.NDArray[np.int64]]:
    """Returns of each part that is kept in the sink the places of its shards in the plan."""
    bins, fingerprint = _bins(sink.run), sink.run.fingerprint

    def read(file: File) -> list[str]:
        part = subtotals.read_part(file, fingerprint, bins)
        return part.counted.table["name"].to_pylist() if part else []

    parts = map_ahead(read, subtotals.list_parts(sink.uri), _READERS)
    places = sink.plan.places
    return [np.array([places[n] for n in names if n in places], np.int64) for names in parts]


def begin_totals(run: Run) -> Totals:
    """Returns the sums over no object of a run."""
    return Totals(np.zeros(_bins(run), np.int64), run.entry.made)


def _bins(run: Run) -> int:
    """Returns the length of the code histogram in each footer; 0 where there is none.

    Codes that were left out are counted by the run that made them, shard by shard: nobody can tell
    how many of them the rows of other files have.
    """
    if isinstance(run, CompactRun) and run.identity.drop_codes:
        return 0
    return run.facts.codebook_size if isinstance(run, CodesRun) else 0


def _is_outdated(sink: Sink, file: File, footer: Footer, index: int) -> bool:
    """Tells whether an object is of an earlier generation of its shard; refuses any other one."""
    generation, planned = footer.origin["generation"], sink.plan.generation(index)
    if generation < planned:
        return True
    if generation > planned:
        check_plan(sink)
    if generation > planned or footer.origin["source"] != sink.plan.source(index):
        raise StorageError(f"{file.uri} was made of another version of its shard; remove it")
    return False


def _refuse_unplanned(sink: Sink, file: File) -> NoReturn:
    check_plan(sink)
    raise StorageError(f"{file.uri} belongs to no shard of the plan; remove it and run again")


def digest_of_counts(histogram: Histogram) -> str:
    """Returns the digest of how often each code occurs, in hexadecimal."""
    return hashlib.sha256(histogram.astype("<i8").tobytes()).hexdigest()


def find_loss(run: CompactRun, found: Totals) -> str | None:
    """Returns what a compacted sink has lost or gained of its source, in words; None for nothing.

    Args:
        run: Its run, which says what the source had.
        found: What all its objects add up to.
    """
    said = run.facts.source_totals
    samples = made(dict(said))
    rows = int(said.get("rows", samples))
    if (found.good, found.rows) != (samples, rows):
        return (
            f"the source has {samples:,} samples in {rows:,} rows, and its files have "
            f"{found.good:,} in {found.rows:,}"
        )
    is_counted = bool(len(found.histogram))
    if is_counted and digest_of_counts(found.histogram) != run.facts.source_histogram:
        return "codes occur in it more or less often than in its source"
    return None


def check_plan(sink: Sink) -> None:
    """Checks that no other command has added to the plan since the sink was opened."""
    if not load_plan(sink.uri).is_same(sink.plan):
        raise IncompleteError("another command has added to the plan: run the same command again")


def check_footer(sink: Sink, file: File, footer: Footer) -> None:
    """Checks that an object is of a run and adds up.

    Raises:
        StorageError: If it is of another run, a copy, or does not.
    """
    origin = footer.origin
    if origin.get("fingerprint") != sink.run.fingerprint:
        raise StorageError(f"{file.uri} belongs to another run; remove it and run again")
    if file.uri != layout.data_uri(sink.uri, origin["shard"]):  # it would be counted twice
        raise StorageError(f"{file.uri} is a copy of shard {origin['shard']}; remove it")
    if len(footer.histogram) != _bins(sink.run):
        raise StorageError(f"{file.uri} is no data object; remove it and run again")
    if origin["seen"] != origin["good"] + origin["rejected"] + origin.get("left_out", 0):
        raise StorageError(f"{file.uri} does not add up: {origin}; remove it and run again")
