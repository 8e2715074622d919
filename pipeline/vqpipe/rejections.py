"""Why a sample is rejected, and how many images that stands for."""

import enum
from dataclasses import dataclass
from typing import Literal


class Reason(enum.StrEnum):
    """Why a sample was rejected: what `rejected/` stores, and what that means."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> "Reason":
        """Makes the member of a value, with a sentence for a person."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    NO_IMAGE = (
        "no_image",
        "The sample has no image member, its image column is null, or its file is hidden or a link "
        "that is not read.",
    )
    EMPTY = "empty", "The image has zero bytes."
    NOT_AN_IMAGE = (
        "not_an_image",
        "The bytes are none of the formats that are opened (an HTML page, a video, an EPS, ...).",
    )
    TRUNCATED = "truncated", "The image data ends early, or part of it is not there."
    CORRUPT = "corrupt", "The image claims a known format, and its decoder refused it."
    UNSUPPORTED = (
        "unsupported",
        "The image is of a kind that cannot be converted for sure, or not without an extra; the "
        "message names it.",
    )
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        "The header announces more pixels than the run's limit, and nothing was decompressed; or "
        "so long an image would have more, resized to cover a view.",
    )
    TIMED_OUT = (
        "timed_out",
        "Opening the image took longer than the limit, of processor time or by the clock, twice.",
    )
    TOO_MUCH_MEMORY = (
        "too_much_memory",
        "Opening the image took more memory than its pixels account for.",
    )
    DECODER_CRASHED = (
        "decoder_crashed",
        "The process that opened the image died, twice, at this image.",
    )
    DUPLICATE_KEY = (
        "duplicate_key",
        "The key has been seen before in this shard: a duplicate, or members not side by side.",
    )
    BAD_METADATA = (
        "bad_metadata",
        "The key or a column to be kept could not be read, or its type cannot hold the value.",
    )
    SHARD_DAMAGED = (
        "shard_damaged",
        "The shard cannot be read past this point; samples before it are kept.",
    )
    NON_FINITE = (
        "non_finite",
        "What the network makes of this image, or of its codes, holds NaN or infinity, or numbers "
        "that are too large for the type of --latents.",
    )
    CODEC_FAILED = (
        "codec_failed",
        "The codec failed at this image three times, and works with others.",
    )
    CODEC_CRASHED = (
        "codec_crashed",
        "The codec's process died at this image three times, and lives with others.",
    )
    NO_CODES = "no_codes", "The codes or latents of this row are null."
    BAD_CODES = (
        "bad_codes",
        "The codes or latents are too many or too few, out of range, or no numbers.",
    )


LossBy = Literal["known", "estimated", "unknown"]
"""How a number of images is known: somebody counted them; it was judged by bytes; not at all."""


@dataclass(frozen=True)
class Loss:
    """How many images one rejection stands for."""

    images: int | None
    """At least 1, the sample's own among them; None if that is unknown."""
    by: LossBy

    @classmethod
    def of(cls, total: int | None, row: int) -> "Loss":
        """Returns what is lost of a shard from a row on, given how many it claims to have."""
        if total is None or not row < total < _MOST_ROWS:
            return UNKNOWN
        return cls(total - row, "known")

    @property
    def least(self) -> int:
        """The images to count: where nothing is known, there was one at least."""
        return self.images or 1


_MOST_ROWS = 2**31  # `row` is int32
UNKNOWN = Loss(None, "unknown")


@dataclass(frozen=True)
class Rejection:
    """Why one sample could not be processed, in a word and in a sentence."""

    reason: Reason
    message: str
    loss: Loss | None = None
    """Set if it stands for more images than one, or may do so."""

    @property
    def lost(self) -> int | None:
        """Images that it stands for; None where that is one, or unknown."""
        return self.loss.images if self.loss else None

    @property
    def lost_by(self) -> LossBy | None:
        """How that is known; None where it is one."""
        return self.loss.by if self.loss else None


LEFT_OUT = "left_out"
"""Stands in `reason` of a sample that a run leaves out, which is no rejection."""


@dataclass(frozen=True)
class LeftOut:
    """That a sample is not wanted."""

    why: str
    """The condition of the run's `--where` that it does not meet."""


def words_of(found: Rejection | LeftOut) -> tuple[str, str]:
    """Returns what stands in `reason` and `message` of a sample that has no codes."""
    if isinstance(found, LeftOut):
        return LEFT_OUT, found.why
    return found.reason.value, found.message
