"""What is looked at twice while images are encoded: a few of them, picked by a hash of their keys.

Their codes are decoded again and held against the pixels (PSNR), and, where the run is in reduced
precision, against the codes of float32. Neither changes or rejects anything.

Each is looked at by itself, a batch of one: so it shows, too, that its codes do not depend on the
images that they were made with. A device is given all of a table at once, and asked for the results
when all else of the table is done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import metrics, schema
from vqpipe.codec.config import AUDIT_SHARE
from vqpipe.errors import CodecError, ConfigError
from vqpipe.picks import is_picked

MOST_DB = 100.0
"""PSNR of an image that comes back without any difference; of all others it is below 99."""

Images = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Decode = Callable[[Codes], Callable[[], tuple[Images, Mask]]]
"""Begins to decode; what it returns waits for the pixels."""
Encode = Callable[[Images], Callable[[], tuple[Codes, Mask]]]
"""Begins to encode; what it returns waits for the codes."""
Looked = Callable[[], tuple[Numbers, Numbers]]
"""Waits for what a look has found."""


@dataclass(frozen=True)
class Audit:
    """What images are looked at, and with what."""

    share: float = AUDIT_SHARE
    """Of the images, 0 to 1, whose first view is looked at; unless it is 0, that of the first image
    of every shard is, too."""
    decode: Decode | None = None
    """Codes (N, h, w) to pixels (N, H, W, 3) and a mask (N,) of finite ones, image by image."""
    reference: Encode | None = None
    """The codec in float32; None if that is the run's own."""

    def pick(self, table: pa.Table) -> Mask:
        """Returns which rows are looked at; the same on any cluster and after any crash."""
        if not self.share:
            return np.zeros(len(table), bool)
        rows = zip(*(table[name].to_pylist() for name in ("row", "view", "key")), strict=True)
        looks = (
            not view and (row == 0 or is_picked(key or "", self.share)) for row, view, key in rows
        )
        return np.fromiter(looks, bool)

    def look(self, images: Images, codes: Codes) -> Looked:
        """Begins to find how many codes of each image are unlike float32's, and its PSNR in dB.

        Both are NaN where that is not known.

        Args:
            images: (N, H, W, 3).
            codes: (N, h, w), of the run.
        """
        again = _begin(self.reference, images)
        decoded = _begin(self.decode, codes)

        def wait() -> tuple[Numbers, Numbers]:
            flips = _measure(again, lambda found: (found != codes).reshape(len(codes), -1).sum(1))
            psnr_db = _measure(decoded, lambda pixels: _psnr_db(images, pixels))
            unknown = np.full(len(images), np.nan)
            return unknown if flips is None else flips, unknown if psnr_db is None else psnr_db

        return wait


def audited_columns(flips: Numbers, psnr_db: Numbers) -> dict[str, pa.Array]:
    """Returns what was found (N,) as columns, null where it is NaN (`schema.AUDITED`)."""
    decibels = psnr_db.astype(np.float32)
    return {
        schema.FLIPS.name: pa.array(flips, mask=np.isnan(flips)).cast(schema.FLIPS.type),
        schema.PSNR.name: pa.array(decibels, mask=np.isnan(decibels)),
    }


NO_AUDIT = Audit(share=0.0)
"""Looks at nothing."""


_FAILURES = (RuntimeError, ValueError, ConfigError, CodecError)
"""Of a codec that looks; no fault of the codes, which are right without anyone looking."""
Items = npt.NDArray[Any]
Wait = Callable[[], tuple[Items, Mask]]


def _begin(how: Callable[[Any], Wait] | None, items: Items) -> Wait | None:
    """Returns what waits for the result of work, None where there is none or it cannot begin."""
    if how is None or not len(items):
        return None
    try:
        return how(items)
    except _FAILURES:
        return None


def _measure(wait: Wait | None, measure: Callable[[Items], Numbers]) -> Numbers | None:
    """Returns what is measured of each result, NaN where that is not finite; None on failure."""
    if wait is None:
        return None
    try:
        found, finite = wait()
        return np.where(finite, measure(found), np.nan)
    except _FAILURES:
        return None


def _psnr_db(images: Images, decoded: Images) -> Numbers:
    pairs = zip(images, decoded, strict=True)
    return np.array([min(MOST_DB, metrics.psnr(*pair)) for pair in pairs])
