"""What a run was bound by, and what to change: arithmetic on an `Occupancy`, and words for it.

Each part hands on to the next through a queue of bounded length. The part that binds is at work all
the time; those behind it wait for it, and those before it wait until it takes what they have. So:

    a part that is busy for at least `BUSY`, and by `LEAD` more than any other, binds
    two or more of such parts within `LEAD` are in balance
    if no part is busy for `IDLE`, everybody waits for Ray: scheduling binds; so it does where no
        part is busy for `BUSY` and shards hold a few images, whose begin and end is nobody's work
    else nothing stands out
    of less than `ENOUGH_S` of steady work nothing is said
"""

from dataclasses import dataclass

from vqpipe.occupancy import Occupancy

BUSY = 0.8
LEAD = 0.1
IDLE = 0.5
ENOUGH_S = 30.0

SCHEDULING = "scheduling"
PARTS = ("reading", "opening", "codec", "committing", SCHEDULING)
"""What a run can be bound by."""

_FEW_IMAGES = 32
"""Images of a shard up to which its beginning and its end count beside them."""
_SMALL_REQUEST = 1e6
"""Bytes of a request up to which the store takes longer to begin its answer than to send it."""
_LEAST_SHARE = 0.02
"""Of its time that a codec has to work before it can be said what would keep it busy."""
_NEARLY = 0.8
"""Share of a codec's time from which on its device is as busy as it is."""
_GIB = 2**30


@dataclass(frozen=True)
class Bound:
    """What a run was bound by."""

    part: str | None
    """One of `PARTS`; None if none stands out."""
    sentence: str
    """What was seen, with figures."""
    advice: str
    """What to change, in a sentence; empty if nothing needs to."""

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}".strip()


def find_bound(seen: Occupancy) -> Bound | None:
    """Returns what a run was bound by; None if too little was seen to tell."""
    if seen.seconds < ENOUGH_S:
        return None
    shares = seen.parts
    most = max(shares.values())
    if most < IDLE or (most < BUSY and _has_small_shards(seen)):
        return _scheduling(seen)
    if most < BUSY:
        return Bound(None, f"Nothing stood out as the limit: {_list_parts(shares)}.", "")
    top = {part: share for part, share in shares.items() if share >= max(BUSY, most - LEAD)}
    if len(top) > 1:
        return Bound(
            None,
            f"Several parts were at their limit at once: {_list_parts(top)}.",
            "More for one of them alone would gain little.",
        )
    (part,) = top
    return _DESCRIBED[part](seen)


def _list_parts(shares: dict[str, float]) -> str:
    (first, share), *others = shares.items()
    rest = "".join(f", {part} for {share:.0%}" for part, share in others)
    return f"{first} was busy for {share:.0%} of the time{rest}"


def _codec(seen: Occupancy) -> Bound:
    said = f"The codec was the limit: it worked {seen.codec:.0%} of the time{_describe_gpu(seen)}."
    if seen.kind != "cuda":
        return Bound("codec", said, "A GPU would help, or more cores, of which it takes all.")
    if seen.device is not None and seen.device < _NEARLY * seen.codec:
        waits = f"The device itself had work for {seen.device:.0%} only: try a larger --batch-size."
        return Bound("codec", said, waits)
    ways = "Another GPU would help, or --dtype bfloat16 (in another sink: it changes a few results)"
    return Bound("codec", said, f"{ways}{_describe_room(seen)}.")


def _describe_gpu(seen: Occupancy) -> str:
    """Returns what NVML said, in brackets; nothing if it said nothing."""
    said = []
    if seen.gpu is not None:
        said.append(f"{seen.gpu:.0%} busy by NVML")
    if seen.gpu_memory:
        used, total = (each / _GIB for each in seen.gpu_memory)
        said.append(f"at most {used:,.1f} of {total:,.1f} GiB in use")
    return f" (GPU: {', '.join(said)})" if said else ""


def _describe_room(seen: Occupancy) -> str:
    """Returns whether a larger batch can be tried; it helps where kernels are too short."""
    used, total = seen.gpu_memory or (1, 1)
    return ", or a larger --batch-size: more than half of its memory is free" * (2 * used < total)


def _opening(seen: Occupancy) -> Bound:
    opening = seen.opening or 0.0
    used = opening * seen.cores
    said = (
        f"Opening images was the limit: it took {used:,.1f} of {seen.cores:,.0f} cores all the "
        f"time, and the codec worked {seen.codec:.0%} of it{_describe_gpu(seen)}."
    )
    if seen.codec < _LEAST_SHARE or not seen.codecs:
        return Bound("opening", said, "More cores would help.")
    each = used / seen.codec / seen.codecs
    whole = "a GPU" if seen.kind == "cuda" else "a codec"
    return Bound("opening", said, f"More cores would help: about {each:,.0f} for {whole}.")


def _reading(seen: Occupancy) -> Bound:
    said = (
        f"Reading was the limit: those who read did so {seen.reading:.0%} of the time, and waited "
        f"for the store in {seen.reading_waits:.0%} of that ({_describe_fetches(seen)}); the codec "
        f"worked {seen.codec:.0%}."
    )
    if _has_small_shards(seen) and (seen.reading_waits < IDLE or not seen.fetches):
        return Bound("reading", said, _larger_shards(seen))
    if seen.reading_waits < IDLE:
        return Bound("reading", said, "Taking shards apart takes a core: more cores would help.")
    if not seen.fetches:
        return Bound("reading", said, "A faster disk would help.")
    if seen.fetched_bytes / seen.fetches < _SMALL_REQUEST:
        small = (
            "Small requests wait for the store's answer: larger tars or Parquet files would help"
        )
        return Bound("reading", said, f"{small}, or machines nearer to the store.")
    near = "Machines with more network, or in the store's own region, would help, or more of them."
    return Bound("reading", said, near)


def _describe_fetches(seen: Occupancy) -> str:
    rate = f"{seen.fetched_bytes / seen.seconds / 1e6:,.1f} MB/s"
    if not seen.fetches:
        return rate
    each_ms = 1000 * seen.fetch_s / seen.fetches
    size = seen.fetched_bytes / seen.fetches / 1e6
    asked = f"{seen.fetches / seen.seconds:,.1f} requests/s of {size:,.2f} MB and {each_ms:,.0f} ms"
    return f"{rate}, {asked}"


def _committing(seen: Occupancy) -> Bound:
    rate = seen.written_bytes / seen.seconds / 1e6
    said = (
        f"Committing was the limit: for {seen.committing:.0%} of the time as many commits were on "
        f"their way as there may be ({rate:,.1f} MB/s), and waited for the store in "
        f"{seen.committing_waits:.0%} of theirs; the codec worked {seen.codec:.0%}."
    )
    if seen.committing_waits < IDLE:
        is_small = _has_small_shards(seen)
        advice = _larger_shards(seen) if is_small else "More cores would help."
        return Bound("committing", said, advice)
    near = "A sink that answers faster, or machines nearer to it, would help"
    if seen.shards and seen.written_bytes < _SMALL_REQUEST * seen.shards:
        return Bound("committing", said, f"{near}; so would larger shards, of which each is a PUT.")
    return Bound("committing", said, f"{near}.")


def _scheduling(seen: Occupancy) -> Bound:
    said = f"No part was at its limit: {_list_parts(seen.parts)}. All of them waited for Ray, "
    said += "which hands work from process to process."
    if _has_small_shards(seen):
        return Bound(SCHEDULING, said, _larger_shards(seen))
    few = "Look whether there are shards enough for all, of about the same size."
    return Bound(SCHEDULING, said, few)


def _has_small_shards(seen: Occupancy) -> bool:
    return bool(seen.shards) and seen.images < _FEW_IMAGES * seen.shards


def _larger_shards(seen: Occupancy) -> str:
    each = seen.images / seen.shards
    return (
        f"A shard holds {each:,.0f} image(s), and each costs a beginning, an end and an object: "
        "fewer, larger shards would help, of 1,000 images or more."
    )


_DESCRIBED = {
    "reading": _reading,
    "opening": _opening,
    "codec": _codec,
    "committing": _committing,
}
