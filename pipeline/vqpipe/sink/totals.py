"""What a sink holds, added up from the footers of its data objects.

Every data object carries its counts and code histogram in the footer, so that totals need one
small request a shard and no pass over the codes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from vqpipe import metrics
from vqpipe.errors import IncompleteError, StorageError
from vqpipe.rejections import Loss
from vqpipe.schema import File
from vqpipe.sink import layout, losses
from vqpipe.sink.asides import AREAS
from vqpipe.sink.beside import PLACE
from vqpipe.sink.footer import EXAMPLES, IMAGE_BYTES, Footer, Histogram, read_footer
from vqpipe.sink.layout import Order
from vqpipe.sink.plan import load_plan
from vqpipe.sink.run import STAGES, CodesRun, CompactRun, Run, Sink
from vqpipe.storage.ahead import map_ahead


def verb(totals: dict[str, Any]) -> str:
    """Returns what a stage has done with a sample, in a word, from totals as they are stored."""
    return next(entry.made for entry in STAGES.values() if entry.made in totals)


def made(totals: dict[str, Any]) -> int:
    """Returns how many samples a stage did not reject, from totals as they are stored."""
    return int(totals[verb(totals)])


_READERS = 32
_EXAMPLES = 5
_FEWEST_SHARDS, _FAR_DB, _MOST_NAMED = 8, 6.0, 10


@dataclass
class Totals:
    """Sums over the committed shards of a run."""

    histogram: Histogram
    made: str = "encoded"
    """What the stage has done with a sample that is not rejected, in a word."""
    shards: int = 0
    good: int = 0
    """Samples that are not rejected."""
    rows: int = 0
    """Of these: one for each view."""
    rejected: int = 0
    data_bytes: int = 0
    image_bytes: int = 0
    """Of the tars or image files that lie beside `data/`."""
    audited: int = 0
    """Images whose codes were compared with float32's."""
    flips: int = 0
    """Codes of those that differ."""
    psnr: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Images that were decoded again and the sum of their PSNR in dB, by shard."""
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    """Samples that the run leaves out."""
    left_out_by: Counter[str] = field(default_factory=Counter)
    """The same, by the condition that they do not meet."""
    asides: dict[str, dict[str, str]] = field(default_factory=lambda: {each: {} for each in AREAS})
    """Of each folder of samples without a row, their digest by shard that has any."""
    rejected_images: int = 0
    """Images that the rejections stand for, at least."""
    damaged: dict[str, Loss] = field(default_factory=dict)
    """Shards that could not be read to their end, by name, with what is lost of each."""
    passed_over: int = 0
    """Images of good samples that have another one, which was taken."""
    kept_nulls: Counter[str] = field(default_factory=Counter)
    """Good samples of which a kept column is null, by column."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The first few rejections of each reason: shard, key, row, message."""
    listed: dict[str, File] = field(default_factory=dict)
    """What `data/` had when it was added up, by shard."""
    places: set[str] = field(default_factory=set)
    """Where images lie beside `data/`."""
    orders: dict[str, Order] = field(default_factory=dict)
    """Which object of each shard it was."""
    objects: int = 0
    """Sum of a digest of each object, in whatever order they come: which ones were added up."""

    @property
    def seen(self) -> int:
        """Samples accounted for."""
        return self.good + self.rejected + self.left_out

    @property
    def images(self) -> int:
        """Images that good samples and rejections stand for, at least."""
        return self.good + self.rejected_images

    @property
    def bytes_per_image(self) -> float:
        """Bytes in the sink of one image, metadata and footers included."""
        return (self.data_bytes + self.image_bytes) / self.good if self.good else 0.0

    @property
    def codebook_usage(self) -> float:
        """Share of codebook entries that occur at least once."""
        return metrics.codebook_usage(self.histogram)

    @property
    def perplexity(self) -> float:
        """2 to the entropy of the code distribution, in 1..codebook size."""
        return metrics.perplexity(self.histogram)

    @property
    def flip_rate(self) -> float | None:
        """Share of codes that differ from float32's; None if no image was compared."""
        codes = self.histogram.sum() / self.rows * self.audited if self.rows else 0
        return round(self.flips / float(codes), 6) if codes else None

    @property
    def psnr_db(self) -> float | None:
        """Mean PSNR of the images that were decoded again; None if there are none."""
        images = sum(images for images, _ in self.psnr.values())
        return round(sum(total for _, total in self.psnr.values()) / images, 2) if images else None

    def low_shards(self) -> list[str]:
        """Returns the shards whose mean PSNR is far below that of the others, the lowest first.

        Far is 6 dB, and five standard deviations as the median deviation gives them: most shards
        have one or two such images, and single ones spread by 3 dB. Fewer than eight say nothing.
        """
        if len(self.psnr) < _FEWEST_SHARDS:
            return []
        means = {name: total / images for name, (images, total) in self.psnr.items()}
        values = np.array(list(means.values()))
        median = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - median))  # of a normal distribution
        bound = median - max(_FAR_DB, 5 * spread)
        low = sorted((mean, name) for name, mean in means.items() if mean < bound)
        return [name for _, name in low[:_MOST_NAMED]]

    def to_dict(self) -> dict[str, Any]:
        """Returns the totals as they stand in `summary.json` and `_SUCCESS`."""
        return {
            "shards": self.shards,
            "samples": self.seen,
            self.made: self.good,
            **({"rows": self.rows} if self.rows != self.good else {}),
            "rejected": self.rejected,
            "rejected_by_reason": dict(sorted(self.reasons.items())),
            "rejected_images": self.rejected_images,
            **self._of_left_out(),
            "passed_over": self.passed_over,
            "kept_nulls": {name: count for name, count in self.kept_nulls.items() if count},
            **losses.add_up(self.damaged),
            "data_bytes": self.data_bytes,
            **({IMAGE_BYTES: self.image_bytes} if self.made == STAGES["decode"].made else {}),
            "bytes_per_image": round(self.bytes_per_image, 1),
            **(self._of_codes() if len(self.histogram) else {}),
            "objects": f"{self.objects:064x}",
        }

    def _of_left_out(self) -> dict[str, Any]:
        if not self.left_out:
            return {}
        return {"left_out": self.left_out, "left_out_by": dict(sorted(self.left_out_by.items()))}

    def _of_codes(self) -> dict[str, Any]:
        return {
            "codebook_usage": round(self.codebook_usage, 6),
            "codebook_perplexity": round(self.perplexity, 1),
            "audited": self.audited,
            "flip_rate": self.flip_rate,
            "psnr_images": sum(images for images, _ in self.psnr.values()),
            "psnr_db": self.psnr_db,
            "low_psnr_shards": self.low_shards(),
        }

    def add(self, footer: Footer, size: int) -> None:
        """Adds one committed shard, its object being of `size` bytes."""
        origin = footer.origin
        self.objects = (self.objects + _digest(footer)) % 2**256
        self.orders[origin["shard"]] = footer.order
        if PLACE in origin:
            self.places.add(origin[PLACE])
        self.shards += 1
        self.good += origin["good"]
        self.rows += origin["good"] * origin.get("views", 1)
        self.data_bytes += size
        self.image_bytes += origin.get(IMAGE_BYTES, 0)
        self.audited += origin.get("audited", 0)
        self.flips += origin.get("flips", 0)
        if origin.get("psnr_images"):
            self.psnr[origin["shard"]] = (origin["psnr_images"], origin["psnr_db_sum"])
        self.histogram += footer.histogram
        self.passed_over += origin["passed_over"]
        self.kept_nulls.update(origin["kept_nulls"])
        if origin["damage"]:
            lost = Loss(origin["damage"]["lost"], origin["damage"]["lost_by"])
            self.damaged[origin["shard"]] = lost
        self._add_asides(origin)

    def _add_asides(self, origin: dict[str, Any]) -> None:
        """Adds the samples of a shard that have no row."""
        self.rejected += origin["rejected"]
        self.reasons.update(origin["reasons"])
        self.rejected_images += origin["rejected_images"]
        self.left_out += origin.get("left_out", 0)
        self.left_out_by.update(origin.get("left_out_by", {}))
        for area in AREAS:
            if origin.get(area):
                self.asides[area][origin["shard"]] = origin["rejections"]
        for reason, rows in origin[EXAMPLES].items():
            first = self.examples.setdefault(reason, [])
            left = rows[: _EXAMPLES - len(first)]
            first += [{"shard": origin["shard"], **row} for row in left]


def _digest(footer: Footer) -> int:
    """Returns a digest of which object of a shard it is, and of what it counts."""
    said = [footer.origin[name] for name in ("shard", "good", "rejected", "rejections")]
    text = json.dumps([*footer.order, *said]).encode()
    return int.from_bytes(hashlib.sha256(text).digest())


def read_totals(sink: Sink, some: Collection[File] | None = None) -> Totals:
    """Returns the sums over a sink's data objects, after checking each one's accounting.

    Objects of an earlier version of a shard, which wait to be replaced, are left out.

    Args:
        sink: The run and its plan, and where they are.
        some: Objects to add up, as listed; by default all that are there now.

    Raises:
        StorageError: If an object belongs to another run or plan, or does not add up.
    """
    listed = layout.list_committed(sink.uri) if some is None else {}
    files = listed.values() if some is None else some
    totals = begin_totals(sink.run)
    totals.listed = listed
    for file, footer in zip(files, map_ahead(read_footer, files, _READERS), strict=True):
        index = sink.plan.places.get(footer.origin.get("shard", ""))
        check_footer(sink, file, footer)
        if index is None:
            _refuse_unplanned(sink, file)
        elif not _is_outdated(sink, file, footer, index):
            totals.add(footer, file.size)
    return totals


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
    if load_plan(sink.uri).sha256() != sink.plan.sha256():
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
