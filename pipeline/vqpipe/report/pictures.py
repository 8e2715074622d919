"""Originals and reconstructions as a page carries them: no larger than it can bear.

A page of 3 MB holds some 2.2 MB of JPEG, since base64 makes four letters of three bytes. Pictures
that need more are first made smaller, then fewer.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from vqpipe.report.facts import Picture, Pictures
from vqpipe.report.formats import LONGEST

Groups = dict[str, list[Picture]]
GROUPS = ("random", "best", "worst")
_SIZES = ((512, 90), (384, 88), (320, 85), (256, 85), (192, 80), (128, 75))
"""Longest side in pixels and JPEG quality, tried in this order."""
_MARKUP_BYTES = 600
_LETTER_BYTES = 5
"""What a letter takes at most: `&#34;`."""


@dataclass(frozen=True)
class Fitted:
    """Pictures that fit, and what that took."""

    groups: Groups
    note: str = ""
    """A sentence on what was done to them; empty if nothing was."""


def fit_pictures(pictures: Pictures, budget: int) -> Fitted:
    """Returns the pictures as they are, or smaller, or the first of them.

    Args:
        pictures: Any number of any size.
        budget: Bytes of HTML that they may take.
    """
    groups = {name: list(getattr(pictures, name)) for name in GROUPS}
    if _weigh(groups) <= budget:
        return Fitted(groups)
    for side, quality in _SIZES:
        smaller = {
            name: [_shrink(picture, side, quality) for picture in group]
            for name, group in groups.items()
        }
        if _weigh(smaller) <= budget:
            return Fitted(smaller, _describe(side, quality, 0))
    return Fitted(smaller, _describe(side, quality, _drop(smaller, budget)))


def to_data_uri(image: bytes) -> str:
    """Returns a JPEG file as the address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def _weigh(groups: Groups) -> int:
    return sum(_weigh_one(picture) for group in groups.values() for picture in group)


def _weigh_one(picture: Picture) -> int:
    key, shard = (min(len(text), LONGEST) for text in (picture.key, picture.shard))
    caption = _MARKUP_BYTES + _LETTER_BYTES * (4 * key + shard)  # the key stands there four times
    return 4 * (len(picture.original) + len(picture.decoded)) // 3 + caption


def _shrink(picture: Picture, side: int, quality: int) -> Picture:
    images = (picture.original, picture.decoded)
    original, decoded = (_recompress(image, side, quality) for image in images)
    return replace(picture, original=original, decoded=decoded)


def _recompress(image: bytes, side: int, quality: int) -> bytes:
    """Returns a smaller JPEG of the image, or the image itself if that is smaller."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image), formats=("JPEG",)) as opened:
        opened.draft("RGB", (2 * side, 2 * side))
        small = opened.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=quality)
    return min(image, buffer.getvalue(), key=len)


def _drop(groups: Groups, budget: int) -> int:
    """Drops the last of the longest group until the rest fits; returns how many that were."""
    weight = _weigh(groups)
    dropped = 0
    while weight > budget and any(groups.values()):
        weight -= _weigh_one(max(groups.values(), key=len).pop())
        dropped += 1
    return dropped


def _describe(side: int, quality: int, dropped: int) -> str:
    return " ".join(_sentences(side, quality, dropped))


def _sentences(side: int, quality: int, dropped: int) -> Iterator[str]:
    yield f"To keep this page small, pictures are shown at {side} pixels a side at most, as JPEG"
    yield f"of quality {quality}; the metrics are those of the full ones."
    if dropped:
        verb = "is" if dropped == 1 else "are"
        yield f"{dropped:,} more {verb} left out."
