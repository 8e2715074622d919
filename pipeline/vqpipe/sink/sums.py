"""What objects of `data/` add up to: counts, the histogram of codes, and which objects they are.

Sums over some objects and over others are merged into those over all of them, in any order, and
are the same as if all had been added one by one.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vqpipe import metrics
from vqpipe.rejections import Loss
from vqpipe.schema import File
from vqpipe.sink import losses
from vqpipe.sink.counted import Counted, lasting_of, row_of
from vqpipe.sink.footer import EXAMPLES, IMAGE_BYTES, Footer, Histogram
from vqpipe.sink.run import STAGES

_EXAMPLES = 5
_FEWEST_SHARDS, _FAR_DB, _MOST_NAMED = 8, 6.0, 10
_OBJECTS = 2**256
_NOTHING: Mapping[str, File] = MappingProxyType({})


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
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    """Samples that the run leaves out."""
    left_out_by: Counter[str] = field(default_factory=Counter)
    """The same, by the condition that they do not meet."""
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
    counted: Counted = field(default_factory=Counted)
    """Which objects these are, with what each says that is no sum."""
    listed: pa.Table | None = None
    """What `data/` had when it was added up (`layout.list_data`)."""
    parts: frozenset[str] = frozenset()
    """URIs of sums over some of them that were taken (`vqpipe.sink.subtotals`)."""
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
    def psnr_images(self) -> int:
        """Images that were decoded again."""
        return int(self._audited()["psnr_images"].to_numpy().sum())

    @property
    def psnr_db(self) -> float | None:
        """Mean PSNR of the images that were decoded again; None if there are none."""
        found, images = self._audited(), self.psnr_images
        total = math.fsum(found["psnr_db_sum"].to_numpy())  # in whatever order shards were added
        return round(total / images, 2) if images else None

    def _audited(self) -> pa.Table:
        """Returns those of `counted` of which images were decoded again."""
        table = self.counted.table.select(["name", "psnr_images", "psnr_db_sum"])
        return table.filter(table["psnr_images"].is_valid())

    def low_shards(self) -> list[str]:
        """Returns the shards whose mean PSNR is far below that of the others, the lowest first.

        Far is 6 dB, and five standard deviations as the median deviation gives them: most shards
        have one or two such images, and single ones spread by 3 dB. Fewer than eight say nothing.
        """
        found = self._audited()
        if len(found) < _FEWEST_SHARDS:
            return []
        values = found["psnr_db_sum"].to_numpy() / found["psnr_images"].to_numpy()
        median = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - median))  # of a normal distribution
        bound = median - max(_FAR_DB, 5 * spread)
        places = np.flatnonzero(values < bound)
        low = sorted(zip(values[places], found["name"].take(places).to_pylist(), strict=True))
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
            "psnr_images": self.psnr_images,
            "psnr_db": self.psnr_db,
            "low_psnr_shards": self.low_shards(),
        }

    def add(self, footer: Footer, file: File, beside: Mapping[str, File] = _NOTHING) -> None:
        """Adds one committed shard.

        Args:
            footer: What its object says.
            file: That object.
            beside: As for `counted.row_of`.
        """
        origin, row = footer.origin, row_of(file, footer, beside)
        self.objects = (self.objects + int.from_bytes(row["digest"])) % _OBJECTS
        self.counted.add(row)
        self.shards += 1
        self.good += origin["good"]
        self.rows += origin["good"] * origin.get("views", 1)
        self.data_bytes += file.size
        self.image_bytes += origin.get(IMAGE_BYTES, 0)
        self.audited += origin.get("audited", 0)
        self.flips += origin.get("flips", 0)
        self.histogram += footer.histogram
        self.passed_over += origin["passed_over"]
        self.kept_nulls.update(origin["kept_nulls"])
        if origin["damage"]:
            lost = Loss(origin["damage"]["lost"], origin["damage"]["lost_by"])
            self.damaged[origin["shard"]] = lost
        self.rejected += origin["rejected"]
        self.reasons.update(origin["reasons"])
        self.rejected_images += origin["rejected_images"]
        self.left_out += origin.get("left_out", 0)
        self.left_out_by.update(origin.get("left_out_by", {}))
        self._add_examples(
            {
                reason: [{"shard": origin["shard"], **row} for row in rows]
                for reason, rows in origin[EXAMPLES].items()
            }
        )

    def merge(self, other: "Totals") -> None:
        """Adds the sums over other objects of the same run."""
        self.counted.extend(lasting_of(other.counted.table))
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.objects %= _OBJECTS
        self.histogram += other.histogram
        self.damaged |= other.damaged
        self._add_examples(other.examples)

    def _add_examples(self, examples: Mapping[str, list[dict[str, Any]]]) -> None:
        """Keeps the first few of each reason, as a listing of `data/` has their shards."""
        for reason, rows in examples.items():
            found = [*self.examples.get(reason, ()), *rows]
            found.sort(
                key=lambda row: f"{row['shard']}.parquet"
            )  # which keeps rows of one in order
            self.examples[reason] = found[:_EXAMPLES]


SUMS = (
    *("shards", "good", "rows", "rejected", "data_bytes", "image_bytes", "audited", "flips"),
    *("left_out", "rejected_images", "passed_over", "objects"),
)
COUNTERS = ("reasons", "left_out_by", "kept_nulls")
"""Fields of `Totals` that are sums, and that are sums by word."""
