"""How a command ends: the sink added up, said, and marked complete if it is."""

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vqpipe import storage
from vqpipe.commands.console import Fields, print_fields, stdout
from vqpipe.commands.description import describe_output, describe_totals
from vqpipe.commands.progress import Progress, announce
from vqpipe.commands.result import Result
from vqpipe.errors import DamagedShardsError, IncompleteError, StorageError, TooManyRejectionsError
from vqpipe.inspection.survey import find_json
from vqpipe.sink import layout, success, totals
from vqpipe.sink.card import write_card
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.run import EncodeRun, Run, Sink
from vqpipe.sink.sums import Totals
from vqpipe.sink.writer import Writer


@dataclass(frozen=True)
class Allowance:
    """What of a source may be missing in a sink that is marked as complete."""

    max_rejected: float
    """Most rejected images: a fraction below 1, a count from 1."""
    damaged_shards: bool = False
    """Whether shards that could not be read to their end are put up with."""


def finish(
    writer: Writer,
    progress: Progress,
    allowed: Allowance,
    error: IncompleteError | None,
) -> Result:
    """Adds up the sink, prints the summary, and marks the sink complete if it is.

    Args:
        writer: The run.
        progress: What this command did.
        allowed: What may be missing.
        error: What ended the command early.

    Returns:
        The totals, and what ended it early, that shards are left, or that too much is missing.
    """
    sink = writer.sink
    announce("adding up", len(sink.plan))
    found = totals.read_totals(sink)
    speed = speed_of(progress)
    lasting = speed if progress.images else _find_last(sink.uri, speed)
    said = success.write_summary(sink, found, lasting)
    card = _write_card(sink, found)
    error = error or _conclude(writer, found, allowed)
    _print_summary(sink, found, [*describe_work(progress, speed), *card])
    return Result(sink.uri, sink.run.fingerprint, said, error)


def _write_card(sink: Sink, found: Totals) -> Fields:
    """Writes the sink's README.md, without which it is as complete; returns why not, in a line."""
    try:
        write_card(sink, found)
    except StorageError as error:
        return [("README.md", f"not written, which changes nothing else: {error}")]
    return []


def _conclude(writer: Writer, found: Totals, allowed: Allowance) -> IncompleteError | None:
    """Marks the sink complete, before anything is printed that could fail; returns why not."""
    try:
        if not allowed.damaged_shards:
            check_damaged(writer.sink.run, found.to_dict())
        check_budget(allowed.max_rejected, found.reasons, found.rejected_images, found.images)
        tag = writer.attempt.tag if writer.attempt else None
        success.mark_success(writer.sink, found, tag)
    except (DamagedShardsError, TooManyRejectionsError) as error:
        storage.delete(layout.success_uri(writer.sink.uri))  # of a command that put up with more
        return error
    except IncompleteError as error:
        return error
    return None


def speed_of(progress: Progress) -> dict[str, Any]:
    """Returns how fast a command was and what on, as it stands in `summary.json`."""
    return {
        "seconds": round(progress.seconds, 1),
        "start_up_seconds": round(progress.start_up_s or 0.0, 1),
        "images_this_run": progress.durable,
        "images_per_second": round(progress.rate, 2),
        "devices": list(progress.devices),
        "codec_busy": None if progress.busy is None else round(progress.busy, 3),
        "bound_by": _describe_bound(progress),
        "throughput": [*progress.curve, (round(progress.seconds, 1), progress.images)],
    }


def _find_last(sink: str, speed: dict[str, Any]) -> dict[str, Any]:
    """Returns the same of the last command that had an image through, if there was one.

    A command that had nothing left to do says nothing of how fast the run was.
    """
    said = find_json(storage.join_uri(sink, "summary.json")) or {}
    return {name: said.get(name, value) for name, value in speed.items()}


_BUSY = 0.8
"""Share of their time from which on the codecs are what a run waits for."""
_ENOUGH_S = 60.0
"""Seconds of work before which a run is all beginning and end, and says nothing of its limits."""


def _describe_bound(progress: Progress) -> str | None:
    """Returns what a command waited for, in a sentence; None if it did too little to tell."""
    seconds = progress.seconds - (progress.start_up_s or 0.0)
    if progress.busy is None or not progress.durable or seconds < _ENOUGH_S:
        return None
    if progress.busy >= _BUSY:
        return f"The codec was the limit: it worked {progress.busy:.0%} of the time."
    waited = 1 - progress.busy
    return f"The codec waited {waited:.0%} of the time: more cores for all else would help."


def _print_summary(sink: Sink, found: Totals, work: Fields) -> None:
    fields = [
        ("shards", f"{found.shards:,} of {len(sink.plan):,} committed"),
        *(describe_totals(found.to_dict(), sink.run) if found.shards else ()),
        *work,
        *describe_output(sink.uri, sink.run),
        ("look at it", f"vqpipe inspect {shlex.quote(sink.uri)}"),
    ]
    print_fields(stdout(), "summary", fields)


def describe_work(progress: Progress, speed: dict[str, Any]) -> Fields:
    """Returns the lines that say how fast a command was, or that it did nothing."""
    if progress.shards_before == progress.shards_total:
        return [("this run", "nothing was left to do")]
    if not progress.has_begun:
        return [("this run", f"no worker was ready within its {speed['seconds']:,.1f} s")]
    seconds, start = speed["seconds"], speed["start_up_seconds"]
    done = f"{progress.durable:,} images in {seconds:,.1f} s"
    ahead = progress.images - progress.durable
    lost = f"{ahead:,} more had been encoded and were not safe yet: the next run does them again"
    return [
        ("this run", f"{done}, of which the start took {start:,.1f} s"),
        *([("not safe", lost)] if ahead else []),
        *([("images/s", f"{speed['images_per_second']:,.1f}")] if progress.durable else []),
        *([("bound by", speed["bound_by"])] if speed["bound_by"] else []),
        *([("device", ", ".join(speed["devices"]))] if speed["devices"] else []),
    ]


def check_damaged(run: Run, found: dict[str, Any]) -> None:
    """Checks that all shards could be read to their end.

    Raises:
        DamagedShardsError: If not; says which, what is lost, and what to do.
    """
    if not found["damaged_shards"]:
        return
    again = ", or with --retry-rejected if they can be read again as they are"
    raise DamagedShardsError(
        f"{describe_losses(found)}. All else is committed, and safe to read. Repair the files and "
        "run the same command with --replace-changed"
        f"{again if isinstance(run, EncodeRun) else ''}; or accept what is lost "
        "with --allow-damaged-shards"
    )


def check_budget(
    max_rejected: float,
    reasons: Counter[str],
    rejected: int,
    images: int,
    where: str = "in this sink",
) -> None:
    """Checks that not too many images were rejected.

    Args:
        max_rejected: Most that may be: a fraction below 1, a count from 1.
        reasons: Samples rejected, by reason.
        rejected: Images that these stand for, at least, those lost in damaged shards among them.
        images: Images accounted for, those included.
        where: Which images, for the message.

    Raises:
        TooManyRejectionsError: If there are more.
    """
    limit = max_rejected if max_rejected >= 1 else max_rejected * images
    if rejected > limit:
        named = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise TooManyRejectionsError(
            f"{rejected:,} of {images:,} images {where} were rejected (samples: {named}), more "
            f"than --max-rejected {max_rejected:g} allows; look at rejected/ in the sink, then fix "
            "the source or allow more, and run the same command again"
        )
