"""What a checkpoint is and what it bears, found out by showing it photos.

The pixel range that a network was trained on is in no config, and the wrong one gives plausible,
wrong codes. So packaged photos go through the codec in either range. A network that was trained on
[0, 1] makes nothing of values below 0; one that was trained on [-1, 1] takes [0, 1] for a pale
picture and reconstructs it nearly as well. Hence the rule of `decide_range` is not symmetric.

Nor does it show in names and shapes whether weights belong together, and are of the family that
they are taken for: then photos do not come back, and the checkpoint is refused.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import Any

import numpy as np

from vqpipe import metrics
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import (
    SCALE_SHIFT,
    AskedRange,
    CodecConfig,
    Codes,
    DType,
    Images,
    PixelRange,
)
from vqpipe.codec.weights import Weights
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess, View, open_image, square

PROBES = ("coffee", "astronaut", "rocket", "chelsea")
QUICK_PROBES, QUICK_SIDE = 1, 128
"""What the start of a run takes: two seconds of two cores for a MoVQ, less than one for most."""

LEAST_PSNR = 15.0
"""dB; below it in both ranges, nothing is decided by the probes."""
LEAST_LIKENESS = 0.85
"""`metrics.likeness` of photos and what comes back, in the better range; below it the network does
not reconstruct them. Small networks of all families show 0.9 and more, with weights of another
family or of two models, or with none that were trained, 0.8 and less."""
HOPELESS_PSNR = 12.0
"""dB; below it in both ranges they are not reconstructed either, however alike from far away."""
CLEAR_GAIN = 6.0
"""dB by which [0, 1] must be better: a network trained on [0, 1] shows 10 and more."""
PALE_GAIN = 3.0
"""dB by which [0, 1] may be better for a network trained on [-1, 1], which takes it as pale."""


@dataclass(frozen=True)
class RangeProbe:
    """What a network makes of photos in each pixel range."""

    psnr_db: dict[PixelRange, float]
    """Mean PSNR of what the codes decode to, by the range that the photos went in with."""
    likeness: dict[PixelRange, float]
    """`metrics.likeness` of the same."""

    @property
    def verdict(self) -> PixelRange | None:
        """The range that it was trained on; None if this does not show."""
        return decide_range(self.psnr_db["signed"], self.psnr_db["unit"])

    @property
    def shows_photos(self) -> bool:
        """Whether the photos can be made out in what comes back."""
        alike, psnr_db = max(self.likeness.values()), max(self.psnr_db.values())
        return alike >= LEAST_LIKENESS and psnr_db >= HOPELESS_PSNR

    def describe(self) -> str:
        """Returns what was seen, in a few words."""
        signed, unit = self.psnr_db["signed"], self.psnr_db["unit"]
        return f"probes come back at {signed:.1f} dB as signed and {unit:.1f} dB as unit"


@dataclass(frozen=True)
class Precision:
    """What one arithmetic does to the codes of the probes."""

    dtype: DType
    finite: bool
    """Whether all latents were finite."""
    flips: float
    """Share of codes that differ from float32's."""
    psnr_db: float
    """Mean PSNR of what the codes decode to, the decoder being float32."""
    refused: str = ""
    """Why a run may not use it; empty if it may."""

    @property
    def is_safe(self) -> bool:
        """Whether a run may use it and gets finite latents."""
        return self.finite and not self.refused


@dataclass(frozen=True)
class Diagnosis:
    """All that is found out about a checkpoint at one resolution."""

    probe: RangeProbe
    pixel_range: PixelRange
    """What the findings below were made with."""
    side_px: int
    layout: CodeLayout
    """What the codes of a photo are."""
    precisions: tuple[Precision, ...]
    codes_used: int
    """Codebook entries that occur in the codes of the probes."""
    perplexity: float
    again: float
    """Share of codes that come back when their image is encoded again."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the findings as JSON has them."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return said | {
            "probe": asdict(self.probe),
            "precisions": [asdict(each) for each in self.precisions],
            "layout": self.layout.document(),
            "verdict": self.probe.verdict,
        }


def decide_range(signed_db: float, unit_db: float) -> PixelRange | None:
    """Returns the range that such reconstructions speak for; None if for neither.

    Args:
        signed_db: Mean PSNR with pixels in [-1, 1], in dB.
        unit_db: The same with pixels in [0, 1].
    """
    if max(signed_db, unit_db) < LEAST_PSNR:
        return None
    if unit_db - signed_db >= CLEAR_GAIN:
        return "unit"
    return "signed" if unit_db - signed_db <= PALE_GAIN else None


def settle_range(
    asked: AskedRange, probe: RangeProbe, known: PixelRange | None = None
) -> PixelRange:
    """Returns the pixel range to use.

    Args:
        asked: What the operator says.
        probe: What photos show.
        known: What all models of the checkpoint's family were trained on, if that is known.

    Raises:
        ConfigError: If photos do not come back; if the range is to be found and cannot be; or if
            the probes, or else the family, speak against the one asked for.
    """
    verdict, seen = probe.verdict, probe.describe()
    if not probe.shows_photos:
        raise ConfigError(_say_hopeless(probe))
    if asked == "auto":
        if None not in (verdict, known) and verdict != known:
            raise ConfigError(
                f"models of this family were trained on pixels of range {known}, and {seen}: is it "
                f"another model? If it is right, say so with --pixel-range {verdict}"
            )
        if verdict is None and known is None:
            raise ConfigError(
                f"the pixel range of this model does not show: {seen}; say what it was trained on "
                "with --pixel-range signed, for [-1, 1], or unit, for [0, 1]"
            )
        return verdict or known or "signed"
    right = verdict or known
    if right not in (asked, None):
        why = "" if verdict else f"its family was trained on range {known}, and "
        raise ConfigError(
            f"--pixel-range {asked} is wrong for this model: {why}{seen}; leave the option out or "
            f"use {right}. If you know better, add --skip-doctor to vqpipe encode"
        )
    return asked


def _say_hopeless(probe: RangeProbe) -> str:
    alike = max(probe.likeness.values())
    return (
        f"photos do not come back from this model: {probe.describe()}, and resemble what went in "
        f"by {max(alike, 0):.0%}, of which {LEAST_LIKENESS:.0%} is the least. Its "
        "weights are not what they are taken for: of another family (--family), raw ones instead "
        "of running averages or the reverse (--weights), of two models, or not trained. If you "
        "know better, add --skip-doctor to vqpipe encode"
    )


@functools.cache
def load_probes(side_px: int, count: int = len(PROBES)) -> Images:
    """Returns the first packaged photos as (count, side_px, side_px, 3) uint8."""
    folder = files("vqpipe.codec") / "probes"
    views = []
    for name in PROBES[:count]:
        view = open_image((folder / f"{name}.jpg").read_bytes(), Preprocess(square(side_px)))
        assert isinstance(view, View)
        views.append(view.pixels)
    return np.stack(views)


def probe_range(weights: Weights, images: Images, device: str = "cpu") -> RangeProbe:
    """Returns how well photos (N, H, W, 3) come back in either pixel range."""
    psnr_db: dict[PixelRange, float] = {}
    likeness: dict[PixelRange, float] = {}
    for name in SCALE_SHIFT:
        codec = _codec(weights, "float32", name, images, device)
        codes, finite = codec.encode(images)
        back, _ = codec.decode(codes)
        psnr_db[name] = metrics.mean_psnr(images, back) if finite.all() else 0.0
        likeness[name] = metrics.likeness(images, back) if finite.all() else 0.0
    return RangeProbe(psnr_db, likeness)


def check_precision(
    weights: Weights, dtype: DType, pixel_range: PixelRange, images: Images, device: str = "cpu"
) -> Precision:
    """Returns what the arithmetic of a run does to the codes of photos (N, H, W, 3)."""
    exact = _codec(weights, "float32", pixel_range, images, device)
    return _compare(weights, dtype, exact, exact.encode(images)[0], images)


def check_start(
    weights: Weights, dtype: DType, asked: AskedRange
) -> tuple[PixelRange, dict[str, Any]]:
    """Returns the pixel range for a run, and the findings for its `run.json`.

    Takes a few small probes on the CPU, since the driver of a run may have nothing else.

    Raises:
        ConfigError: If photos do not come back, the range cannot be settled, or the run's
            arithmetic overflows.
    """
    side = weights.description.side_near(QUICK_SIDE)
    images = load_probes(side, QUICK_PROBES)
    probe = probe_range(weights, images)
    pixel_range = settle_range(asked, probe, known_range(weights))
    facts: dict[str, Any] = {
        "psnr_db": _rounded(probe.psnr_db),
        "likeness": _rounded(probe.likeness),
        "verdict": probe.verdict,
        "side_px": side,
    }
    if dtype in {"float32", "tf32"}:
        return pixel_range, facts
    found = check_precision(weights, dtype, pixel_range, images)
    if not found.is_safe:
        why = found.refused or "its latents are not finite on the probes"
        raise ConfigError(
            f"--dtype {dtype} is not safe for this model: {why}; vqpipe doctor shows which are"
        )
    return pixel_range, facts | {"flips": round(found.flips, 6)}


def known_range(weights: Weights) -> PixelRange | None:
    """Returns what all models of a checkpoint's family were trained on, if that is known."""
    known = weights.provenance.get("pixel_range")
    return next((each for each in SCALE_SHIFT if each == known), None)


def describe_findings(findings: Mapping[str, Any]) -> str:
    """Returns the findings of `check_start` in a few words."""
    likeness = findings.get("likeness", {})
    seen, flips = RangeProbe(findings["psnr_db"], likeness).describe(), findings.get("flips")
    return seen if flips is None else f"{seen}; {flips:.2%} of their codes are unlike float32's"


def _rounded(psnr_db: dict[PixelRange, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in psnr_db.items()}


def diagnose(
    weights: Weights, side_px: int, asked: AskedRange = "auto", device: str = "cpu"
) -> Diagnosis:
    """Returns all findings about a checkpoint at one resolution.

    Raises:
        ConfigError: If photos do not come back, or if its pixel range does not show and none was
            asked for.
    """
    images = load_probes(side_px)
    probe = probe_range(weights, images, device)
    pixel_range = settle_range(asked, probe, known_range(weights))
    exact = _codec(weights, "float32", pixel_range, images, device)
    codes, _ = exact.encode(images)
    histogram = np.bincount(codes.ravel(), minlength=weights.description.codebook_size)
    return Diagnosis(
        probe=probe,
        pixel_range=pixel_range,
        side_px=side_px,
        layout=weights.description.layout_of(side_px, side_px),
        precisions=tuple(_judge_precisions(weights, pixel_range, side_px, device)),
        codes_used=int(np.count_nonzero(histogram)),
        perplexity=metrics.perplexity(histogram),
        again=float(np.mean(exact.encode(exact.decode(codes)[0])[0] == codes)),
    )


def _judge_precisions(
    weights: Weights, pixel_range: PixelRange, side_px: int, device: str
) -> Iterator[Precision]:
    """Yields the findings on every dtype; on fewer pixels for a CPU, whose float16 is slow."""
    on_cpu = device == "cpu"
    dtypes: tuple[DType, ...] = ("float32", "tf32", "bfloat16", "float16")
    quick = weights.description.side_near(QUICK_SIDE)
    images = load_probes(quick if on_cpu else side_px)
    exact = _codec(weights, "float32", pixel_range, images, device)
    codes, _ = exact.encode(images)
    for dtype in dtypes:
        if not (on_cpu and dtype == "tf32"):
            yield _compare(weights, dtype, exact, codes, images)


def _compare(
    weights: Weights, dtype: DType, exact: Codec, expected: Codes, images: Images
) -> Precision:
    codec = _codec(weights, dtype, exact.how.pixel_range, images, exact.device.type)
    codes, finite = codec.encode(images)
    return Precision(
        dtype=dtype,
        finite=bool(finite.all()),
        flips=float(np.mean(codes != expected)),
        psnr_db=metrics.mean_psnr(images, exact.decode(codes)[0]),
        refused=weights.description.unsafe.get(dtype, ""),
    )


def _codec(
    weights: Weights, dtype: DType, pixel_range: PixelRange, images: Images, device: str
) -> Codec:
    how = CodecConfig(dtype=dtype, pixel_range=pixel_range, eager=True)
    return Codec(weights, how, device=device, batch_size=len(images))
