"""What a sink holds, added up from the footers of its data objects.

Every data object carries its counts and code histogram in the footer, so that totals need one
small request a shard and no pass over the codes.
"""

import base64
import json
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import plan as layout
from pipeline import storage
from pipeline.errors import IncompleteError, StorageError
from pipeline.plan import Plan, Run
from pipeline.schema import File

FOOTER = "vqpipe"
"""Footer key of a JSON object: run, shard, source, grid, codebook size, counts."""
HISTOGRAM = "vqpipe.histogram"
"""Footer key of the shard's code counts: base64 of zlib of little-endian uint32."""

_TAIL_BYTES = 128 * 2**10
_PARQUET_END_BYTES = 8  # footer length (uint32, little-endian) and the magic PAR1
_READERS = 32

Histogram = npt.NDArray[np.int64]
"""(codebook size,): how often each code occurs."""


def pack_histogram(histogram: Histogram) -> str:
    """Returns code counts as footer text."""
    data = np.minimum(histogram, np.iinfo(np.uint32).max).astype("<u4").tobytes()
    return base64.b64encode(zlib.compress(data)).decode()


def unpack_histogram(text: str | bytes) -> Histogram:
    """Returns the code counts of footer text."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").astype(np.int64)


@dataclass
class Totals:
    """Sums over the committed shards of a run."""

    histogram: Histogram
    shards: int = 0
    encoded: int = 0
    rejected: int = 0
    data_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejecting: set[str] = field(default_factory=set)
    """Names of the shards that have rejections."""

    @property
    def seen(self) -> int:
        """Samples accounted for."""
        return self.encoded + self.rejected

    @property
    def bytes_per_image(self) -> float:
        """Stored bytes of one encoded image, metadata and footers included."""
        return self.data_bytes / self.encoded if self.encoded else 0.0

    @property
    def codebook_usage(self) -> float:
        """Share of codebook entries that occur at least once."""
        return float(np.count_nonzero(self.histogram) / len(self.histogram))

    @property
    def perplexity(self) -> float:
        """2 to the entropy of the code distribution, in 1..codebook size."""
        share = self.histogram[self.histogram > 0] / max(self.histogram.sum(), 1)
        return float(2 ** -(share * np.log2(share)).sum())

    def to_dict(self) -> dict[str, Any]:
        """Returns the totals as they stand in `summary.json` and `_SUCCESS`."""
        return {
            "shards": self.shards,
            "samples": self.seen,
            "encoded": self.encoded,
            "rejected": self.rejected,
            "rejected_by_reason": dict(sorted(self.reasons.items())),
            "data_bytes": self.data_bytes,
            "bytes_per_image": round(self.bytes_per_image, 1),
            "codebook_usage": round(self.codebook_usage, 6),
            "codebook_perplexity": round(self.perplexity, 1),
        }

    def add(self, footer: dict[str, Any], histogram: Histogram, size: int) -> None:
        """Adds one committed shard."""
        self.shards += 1
        self.encoded += footer["encoded"]
        self.rejected += footer["rejected"]
        self.data_bytes += size
        self.reasons.update(footer["reasons"])
        self.histogram += histogram
        if footer["rejected"]:
            self.rejecting.add(footer["shard"])


def read_footer(file: File) -> tuple[dict[str, Any], Histogram]:
    """Returns counts and histogram of one data object, by one request as a rule.

    Raises:
        StorageError: If the object is not one of ours.
    """
    tail = storage.read_tail(file.uri, _TAIL_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + _PARQUET_END_BYTES
    if len(tail) < needed <= file.size:
        tail = storage.read_tail(file.uri, needed)
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata
        return json.loads(metadata[FOOTER.encode()]), unpack_histogram(metadata[HISTOGRAM.encode()])
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:  # OSError: bad Thrift
        raise StorageError(f"{file.uri} is no shard that vqpipe wrote; remove it") from error


def read_totals(sink: str, run: Run, plan: Plan) -> Totals:
    """Returns the sums over a sink's data objects, after checking each one's accounting.

    Raises:
        StorageError: If an object belongs to another run or plan, or does not add up.
    """
    files = [f for f in storage.list_files(f"{sink}/data") if f.uri.endswith(".parquet")]
    names = set(plan.names)
    totals = Totals(np.zeros(run.facts["codebook_size"], np.int64))
    with ThreadPoolExecutor(_READERS) as pool:
        for file, (footer, histogram) in zip(files, pool.map(read_footer, files), strict=True):
            _check_footer(file, footer, run, names)
            if file.uri != layout.data_uri(sink, footer["shard"]):  # it would be counted twice
                raise StorageError(f"{file.uri} is a copy of shard {footer['shard']}; remove it")
            totals.add(footer, histogram, file.size)
    return totals


def _check_footer(file: File, footer: dict[str, Any], run: Run, names: set[str]) -> None:
    if footer["fingerprint"] != run.fingerprint or footer["shard"] not in names:
        raise StorageError(f"{file.uri} belongs to another run; remove it and run again")
    if footer["seen"] != footer["encoded"] + footer["rejected"]:
        raise StorageError(f"{file.uri} does not add up: {footer}; remove it and run again")


def write_summary(sink: str, plan: Plan, totals: Totals, facts: dict[str, Any]) -> None:
    """Writes `summary.json`: the totals so far, and what the last command has to say."""
    summary = {**totals.to_dict(), "shards_planned": len(plan), **facts}
    document = json.dumps(summary, indent=2).encode() + b"\n"
    storage.replace(storage.join_uri(sink, "summary.json"), document)


def mark_success(sink: str, plan: Plan, totals: Totals) -> None:
    """Clears up and writes `_SUCCESS`, the last object of a run.

    Raises:
        IncompleteError: If a shard of the plan is not committed.
        StorageError: If rejections are missing.
    """
    left = len(plan) - totals.shards
    if left:
        raise IncompleteError(f"{left:,} shards are not committed yet: run the same command again")
    _check_rejected(sink, totals)
    _sweep_staging(sink, plan)
    document = json.dumps(totals.to_dict(), indent=2).encode() + b"\n"
    storage.publish(storage.join_uri(sink, "_SUCCESS"), document)


def _check_rejected(sink: str, totals: Totals) -> None:
    missing = totals.rejecting - layout.rejecting(sink)
    if missing:
        raise StorageError(
            f"rejected/ of {len(missing)} shards is gone ({min(missing)} and on); remove their "
            "objects from data/ and run again"
        )


def _sweep_staging(sink: str, plan: Plan) -> None:
    """Removes row ranges that late retries left behind after their shard was committed."""
    names = set(plan.names)
    base = storage.join_uri(sink, "staging")
    for file in storage.list_files(base):
        if file.uri[len(base) + 1 :].rpartition("/")[0] in names:
            storage.delete(file.uri)
