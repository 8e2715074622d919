"""A forecast in lines for a person, and as one object for a program."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from vqpipe.commands.console import Fields, Prose, describe_bytes
from vqpipe.commands.encode import Asked
from vqpipe.commands.plan_job import Plan
from vqpipe.inspection.forecast import OVERHEAD, Option, Outlook, Run
from vqpipe.inspection.requests import Requests
from vqpipe.stages.census import Census
from vqpipe.stages.work import Work

_COSTS = {
    "gpu": "GPUs",
    "cpu": "CPU cores",
    "get": "requests to read",
    "put": "requests to write and list",
    "storage_month": "storage a month",
}
_WORDS = {
    "opening": "the cores, which open images,",
    "codec": "the codec",
    "storage": "reading from the store",
    "scheduling": "handing shards out",
}


@dataclass(frozen=True)
class Forecast:
    """What a run would take."""

    job: Plan
    asked: Asked
    work: Work
    outlook: Outlook | None
    """None where nothing is left to do."""


def document(found: Forecast) -> dict[str, Any]:
    """Returns a forecast as `--json` prints it; names are never changed, only added to."""
    sink, outlook = found.work.writer.sink, found.outlook
    said: dict[str, Any] = {
        "source": found.asked.run.identity.source,
        "sink": sink.uri if found.job.sink else None,
        "model": found.asked.weights.where,
        "format": found.asked.found.listing.format,
        "shards": len(sink.plan),
        "shards_left": len(found.work.todo),
    }
    if outlook is None:
        return {**said, "images": 0, "rows": 0, "runs": []}
    census, amounts, measured = outlook.work.census, outlook.amounts, outlook.measured
    return {
        **said,
        "images": census.images,
        "images_known": census.is_exact,
        "images_spread": census.spread,
        "shards_counted": census.looked_at,
        "good": amounts.good,
        "rows": amounts.rows,
        "gpu_hours": _gpu_hours(outlook),
        "core_hours": amounts.cores_s / 3600,
        "cores_per_gpu": amounts.cores_per_device if _has_gpu(outlook) else None,
        "bytes_read": amounts.bytes_read,
        "bytes_written": amounts.bytes_written,
        "runs": [_run_facts(option) for option in outlook.options if option.run],
        "gpus_not_measured": list(outlook.unmeasured_gpus),
        "measured": asdict(measured),
    }


def _run_facts(option: Option) -> dict[str, Any]:
    run = option.run
    assert run is not None, "only those that were measured"
    return {
        "device": run.kind,
        "devices": run.devices,
        "cores": run.cores,
        "wall_seconds": run.wall_s,
        "start_seconds": run.start_s,
        "work_seconds": run.work_s,
        "bound_by": run.bound_by,
        "limits_seconds": run.limits,
        "requests": asdict(option.requests),
        "cost": option.cost,
    }


def _has_gpu(outlook: Outlook) -> bool:
    coding = outlook.measured.coding
    return coding is not None and coding.kind == "cuda"


def _gpu_hours(outlook: Outlook) -> float | None:
    seconds = outlook.amounts.device_s
    return seconds / 3600 if seconds is not None and _has_gpu(outlook) else None


def describe(found: Forecast) -> Fields:
    """Returns the lines of a forecast."""
    work, outlook = found.work, found.outlook
    sink = work.writer.sink
    before: Fields = [
        *(each for each in found.asked.introduce(work, 0) if each[0] in _SHOWN),
        *([("sink", sink.uri)] if found.job.sink else []),
        ("left to do", f"{len(work.todo):,} of {len(sink.plan):,} shard(s)"),
    ]
    if outlook is None:
        return [*before, ("images", "none: nothing is left to do")]
    return [
        *before,
        ("images", Prose(_describe_census(outlook.work.census, found))),
        ("of these", Prose(_describe_shares(outlook))),
        ("rows", f"{_about(outlook)}{outlook.amounts.rows:,}"),
        *_describe_measured(outlook),
        *_describe_amounts(outlook),
        *(line for option in outlook.options for line in _describe_option(option, outlook)),
        *_describe_unknown(outlook),
    ]


_SHOWN = {"source", "model", "family", "pixels", "views", "shapes", "latents", "where", "limit"}


def _about(outlook: Outlook) -> str:
    opening = outlook.measured.opening
    is_known = outlook.work.census.is_exact and opening.images >= outlook.amounts.images
    return "" if is_known else "about "


def _describe_census(census: Census, found: Forecast) -> str:
    how = {
        "folder": "as listed",
        "parquet": "as the footers of all files say",
        "webdataset": f"as the headers of all {census.shards:,} tar(s) say",
    }[found.asked.found.listing.format]
    if census.is_exact:
        return f"{census.images:,}, {how}"
    looked = f"judged by {census.looked_at:,} of {census.shards:,} shard(s), picked by a hash"
    if census.spread is None:
        return f"about {census.images:,}, {looked}: too few to tell how far off that may be"
    share = census.spread / max(1, census.images)
    return f"about {census.images:,}, give or take {share:.1%} (two standard errors), {looked}"


def _describe_shares(outlook: Outlook) -> str:
    opening = outlook.measured.opening
    said = f"{opening.good:,} of the {opening.images:,} that were tried open"
    if opening.rejected:
        said += f", {opening.rejected:,} would be rejected"
    if opening.left_out:
        said += f", {opening.left_out:,} left out by --where"
    return said


def _describe_measured(outlook: Outlook) -> Fields:
    """Returns what was measured, and on what."""
    measured = outlook.measured
    reading, opening, coding = measured.reading, measured.opening, measured.coding
    each = reading.seconds / max(1, reading.images)
    speed = reading.size / 1e6 / max(reading.seconds, 1e-9)
    fields: Fields = [
        (
            "reading",
            f"{_ms(each)} an image, {speed:,.0f} MB/s a stream ({reading.images:,} images of "
            f"{reading.shards:,} shard(s))",
        ),
        (
            "opening",
            f"{_ms(opening.core_s)} of a core an image, {1 / opening.core_s:,.0f} images/s a core "
            f"({opening.opened:,} images, {opening.cores:,} core(s) at once)",
        ),
    ]
    if coding:
        fields.append(
            (
                "codec",
                f"{_ms(coding.view_s)} a view, {1 / coding.view_s:,.1f} views/s on {coding.device} "
                f"({coding.views:,} views in batches of {coding.batch_size}); ready in "
                f"{coding.warm_up_s:,.1f} s",
            )
        )
    if writing := measured.writing:
        fields.append(
            (
                "writing",
                f"{writing.row_bytes:,.0f} bytes a row, and "
                f"{describe_bytes(round(writing.object_bytes))} a shard ({writing.rows:,} rows)",
            )
        )
    return fields


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f} ms"


def _describe_amounts(outlook: Outlook) -> Fields:
    amounts = outlook.amounts
    fields: Fields = [
        ("to read", describe_bytes(amounts.bytes_read)),
        *(
            [("to write", f"about {describe_bytes(amounts.bytes_written)}")]
            if amounts.bytes_written is not None
            else []
        ),
        ("core-hours", f"{amounts.cores_s / 3600:,.3g} for all but the codec"),
    ]
    hours = _gpu_hours(outlook)
    if hours is not None and amounts.cores_per_device is not None:
        fields += [
            ("GPU-hours", f"{hours:,.3g}"),
            ("cores a GPU", f"{amounts.cores_per_device:,.1f} keep one busy"),
        ]
    return fields


def _describe_option(option: Option, outlook: Outlook) -> Iterator[tuple[str, object]]:
    run = option.run
    if run is not None:
        yield (_name_run(run), Prose(_describe_time(run, outlook)))
        yield ("", Prose(_describe_bound(run)))
    if option.requests != Requests():
        yield ("requests", Prose(_describe_requests(option.requests)))
    for name, amount in option.cost.items():
        yield ("cost", f"{amount:,.2f} for {_COSTS[name]}")


def _name_run(run: Run) -> str:
    return f"on {run.devices:,} GPU(s)" if run.kind == "cuda" else "on this CPU"


def _describe_time(run: Run, outlook: Outlook) -> str:
    cores = f"with {run.cores:,} core(s)"
    if run.start_s is None:
        return f"{_clock(run.work_s)} {cores}, and the start"
    start = outlook.measured.start_up
    assert start is not None, "so it was measured"
    end = "the end not measured" if start.end_s is None else f"{start.end_s:.1f} s for the end"
    parts = (
        f"{outlook.measured.command_s:.1f} s for the command, {start.ready_s:.1f} s until a codec "
        f"is ready, {end}"
    )
    return (
        f"{_clock(run.wall_s)} {cores}, of which {_clock(run.start_s)} to start and end ({parts})"
    )


def _clock(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _describe_bound(run: Run) -> str:
    others = ", ".join(
        f"{name} {_clock(seconds)}" for name, seconds in run.limits.items() if name != run.bound_by
    )
    return f"{_WORDS[run.bound_by]} will be the limit (by themselves: {others})"


def _describe_requests(requests: Requests) -> str:
    return (
        f"GET {requests.get:,}, HEAD {requests.head:,}, PUT {requests.put:,}, LIST "
        f"{requests.list:,}, worked out"
    )


_MANY_SHARDS = 10_000


def _describe_unknown(outlook: Outlook) -> Fields:
    """Returns what could not be known, and how to know it."""
    fields: Fields = []
    shards = outlook.work.census.shards
    if outlook.measured.driver_shard_s is None and shards >= _MANY_SHARDS:
        said = (
            f"how fast one driver hands {shards:,} shards out was not measured; it comes on top "
            "where shards hold few images"
        )
        fields.append(("not known", Prose(said)))
    if outlook.measured.coding is None:
        said = "no image that was tried opens, so that none was encoded: see vqpipe encode --limit"
        return [*fields, ("not known", Prose(said))]
    if not _has_gpu(outlook):
        core_rate = 1 / outlook.measured.opening.core_s
        said = (
            "no GPU was there to measure on, so that GPU-hours and times on GPUs are not known: "
            "run this command on a machine that has one, or on a cluster (vqpipe submit plan, with "
            "--device cuda, which waits for one). A GPU wants a core for every "
            f"{core_rate / OVERHEAD:,.0f} images/s that it encodes"
        )
        fields.append(("not known", Prose(said)))
    return fields
