"""How a command ends: the sink added up, said, and marked complete if it is."""

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vqpipe import storage
from vqpipe.bottleneck import find_bound
from vqpipe.commands.console import Fields, Prose, print_fields, stdout
from vqpipe.commands.description import describe_output, describe_totals
from vqpipe.commands.laggards import list_laggards
from vqpipe.commands.progress import Progress, announce
from vqpipe.commands.result import Result
from vqpipe.errors import DamagedShardsError, IncompleteError, StorageError, TooManyRejectionsError
from vqpipe.inspection.survey import find_json
from vqpipe.occupancy import Occupancy
from vqpipe.sink import layout, success, totals
from vqpipe.sink.card import write_card
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.plan import Plan
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
    speed = speed_of(progress, sink.plan)
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


def speed_of(progress: Progress, plan: Plan) -> dict[str, Any]:
    """Returns how fast a command was and what on, as it stands in `summary.json`."""
    seen = progress.occupancy if progress.durable else None
    bound = find_bound(seen) if seen else None
    return {
        "seconds": round(progress.seconds, 1),
        "start_up_seconds": round(progress.start_up_s or 0.0, 1),
        "images_this_run": progress.durable,
        "images_per_second": round(progress.rate, 2),
        "devices": list(progress.devices),
        "machines": {
            name: {"opened": share.opened, "encoded": share.encoded}
            for name, share in sorted(progress.shares.items())
        },
        "codec_busy": seen and round(seen.codec, 3),
        "occupancy": seen and _occupancy_document(seen),
        "bound": bound and bound.part,
        "bound_by": bound and str(bound),
        "slow_shards": list_laggards(progress.laggards, plan),
        "throughput": [*progress.curve, (round(progress.seconds, 1), progress.images)],
    }


def _find_last(sink: str, speed: dict[str, Any]) -> dict[str, Any]:
    """Returns the same of the last command that had an image through, if there was one.

    A command that had nothing left to do says nothing of how fast the run was.
    """
    said = find_json(storage.join_uri(sink, "summary.json")) or {}
    return {name: said.get(name, value) for name, value in speed.items()}


def _occupancy_document(seen: Occupancy) -> dict[str, Any]:
    """Returns how busy each part was, as it stands in `summary.json`."""
    used, total = seen.gpu_memory or (None, None)
    return {
        "seconds": round(seen.seconds, 1),
        **{part: round(share, 3) for part, share in seen.parts.items()},
        "cores": round(seen.cores, 1),
        "codecs": round(seen.codecs, 1),
        "read_bytes_per_second": round(seen.fetched_bytes / seen.seconds),
        "read_requests": round(seen.fetches),
        "written_bytes_per_second": round(seen.written_bytes / seen.seconds),
        "device": None if seen.device is None else round(seen.device, 3),
        "gpu": None if seen.gpu is None else round(seen.gpu, 3),
        "gpu_memory_bytes": used,
        "gpu_memory_total_bytes": total,
    }


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
        *([("bound by", Prose(speed["bound_by"]))] if speed["bound_by"] else []),
        *([("device", ", ".join(speed["devices"]))] if speed["devices"] else []),
        *_describe_machines(speed["machines"]),
        *_describe_slow(speed["slow_shards"]),
    ]


def _describe_slow(slow: list[dict[str, Any]]) -> Fields:
    """Returns how many shards took far longer than others."""
    if not slow:
        return []
    names = {each["shard"] for each in slow}
    again = len({each["shard"] for each in slow if each["again_on"]})
    said = f"{len(names):,}, of which {again:,} were done a second time (slow_shards, summary.json)"
    return [("slow shards", said)]


_FEW_MACHINES = 8


def _describe_machines(machines: dict[str, dict[str, int]]) -> Fields:
    """Returns what each machine did, if there were some but not many."""
    if len(machines) < 2:
        return []
    encoders = sum(share["encoded"] > 0 for share in machines.values())
    if len(machines) > _FEW_MACHINES:
        return [("machines", f"{len(machines)}, of which {encoders} encoded (summary.json)")]
    return [
        ("machine", f"{name}: {share['opened']:,} opened, {share['encoded']:,} encoded")
        for name, share in machines.items()
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
