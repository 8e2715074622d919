"""Say what is in a sink: which run, how far, how fast, what was rejected, is it fit to train on."""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from vqpipe import storage
from vqpipe.commands.console import Fields, Prose, describe_bytes, print_fields, printable, stdout
from vqpipe.commands.contents import Contents, describe_evaluation, find_stage
from vqpipe.commands.description import (
    describe_left_out,
    describe_missing,
    read_command,
)
from vqpipe.commands.progress import announce
from vqpipe.commands.runs import load_run
from vqpipe.commands.sink_jobs import Inspect
from vqpipe.inspection import readiness, survey
from vqpipe.inspection.readiness import Readiness
from vqpipe.inspection.survey import Count, Rejections, Survey
from vqpipe.rejections import Reason
from vqpipe.sink.footer import IMAGE_BYTES
from vqpipe.sink.losses import describe_loss
from vqpipe.sink.run import Run
from vqpipe.sink.totals import made, verb


@dataclass(frozen=True)
class _Found:
    """What was found out about a sink."""

    survey: Survey
    count: Count
    pace: dict[str, Any] | None
    """See `survey.find_pace`."""
    readiness: Readiness
    contents: Contents
    report: str | None
    """URI of the report's page, if there is one."""
    rejections: Rejections | None
    """Only if they were asked for."""


def run(job: Inspect) -> None:
    """Prints what the sink holds.

    Raises:
        ConfigError: If it holds no run.
        StorageError: If the store does not answer, or an object is not one of the run's.
    """
    sink = storage.normalise_uri(job.sink)
    found = _find(job, sink, load_run(sink))
    if job.json:
        print(json.dumps(_facts(found)))  # noqa: T201
        return
    fields = _describe_rejections(found) if found.rejections else _describe(found)
    print_fields(stdout(), sink, fields)


def _find(job: Inspect, sink: str, run: Run) -> _Found:
    seen = survey.look(sink, run)
    if job.exact:
        announce("adding up", len(seen.objects))
        counted = survey.count_from(seen, survey.add_up(seen, None))
    else:
        counted = survey.count(seen)
    rejections = None
    if job.rejected:
        rejections = survey.count_rejections(seen, None if job.exact else survey.FEW)
        counted = survey.refine(counted, rejections)
    evaluation = survey.find_evaluation(seen, counted)
    about = "about " if counted.is_estimate else ""
    contents = Contents(sink, run, counted.totals, about, evaluation)
    concerns = find_stage(run).check(contents)
    return _Found(
        survey=seen,
        count=counted,
        pace=survey.find_pace(seen, counted),
        readiness=readiness.judge(seen, counted.totals, concerns),
        contents=contents,
        report=_find_report(sink),
        rejections=rejections,
    )


def _find_report(sink: str) -> str | None:
    uri = storage.join_uri(sink, "report.html")
    try:
        storage.stat(uri)
    except FileNotFoundError:
        return None
    return uri


def _facts(found: _Found) -> dict[str, Any]:
    """Returns what `--json` prints; names are never changed, only added to."""
    seen, count, contents = found.survey, found.count, found.contents
    sink = seen.sink
    rejections, evaluated = found.rejections, found.contents.evaluation
    return {
        "sink": sink.uri,
        "stage": sink.run.stage,
        "run": json.loads(sink.run.to_json()),
        "complete": seen.is_complete,
        "shards_planned": len(sink.plan),
        "generations": sink.plan.generations,
        "shards_left": len(sink.plan) - count.totals["shards"],
        "shards_begun": seen.begun,
        "foreign_objects": len(seen.foreign),
        "totals_from": count.origin,
        "estimated": count.is_estimate,
        "footers_read": count.footers_read,
        **count.totals,
        **(_rejection_facts(rejections) if rejections else {}),
        "pace": found.pace,
        "ready": asdict(found.readiness),
        "reader": find_stage(sink.run).explain(contents),
        "evaluation": evaluated and evaluated.said,
        "evaluation_outdated": evaluated and evaluated.outdated,
        "report": found.report,
        "read_with": read_command(sink.uri),
        "output": f"{sink.uri}/data/",
    }


def _rejection_facts(rejections: Rejections) -> dict[str, Any]:
    return {
        "rejections": rejections.examples,
        "rejections_estimated": rejections.is_estimate,
        "rejections_footers_read": rejections.footers_read,
    }


def _describe(found: _Found) -> Fields:
    seen, totals, contents = found.survey, found.count.totals, found.contents
    run, stage = seen.sink.run, find_stage(seen.sink.run)
    size = totals["data_bytes"] + totals.get(IMAGE_BYTES, 0)
    sizes = f"{describe_bytes(size)}, {totals['bytes_per_image']:,.1f} bytes an image"
    return [
        *_describe_readiness(stage.question, found.readiness),
        ("run", f"{run.stage} {run.fingerprint[:12]}, {run.facts.created}"),
        ("source", run.identity.source),
        *_describe_shards(found),
        ("samples", Prose(_describe_samples(found.count))),
        *_describe_reasons(found),
        *describe_left_out(totals, contents.about),
        *describe_missing(totals),
        *_describe_pace(found),
        *stage.describe(contents),
        *describe_evaluation(contents),
        ("size", Prose(sizes)),
        *([("report", found.report)] if found.report else []),
        ("read it", read_command(seen.sink.uri)),
        ("output", f"{seen.sink.uri}/data/"),
    ]


def _describe_readiness(question: str, found: Readiness) -> Fields:
    first, *others = found.why
    answer = {"with care": "yes, with care", "no": "no"}.get(found.answer, "yes")
    if first.check == "complete" and found.answer == "no":
        answer = "not yet"
    said = f"{answer}: {printable(first.message)}"
    return [
        (f"{question}?", Prose(said)),
        *(("", Prose(f"also: {printable(each.message)}")) for each in others),
    ]


def _describe_shards(found: _Found) -> Fields:
    seen, totals = found.survey, found.count.totals
    planned, done = len(seen.sink.plan), totals["shards"]
    said = f"{done:,} of {planned:,} done ({done / max(planned, 1):.1%})"
    if planned > done:
        said += f", {planned - done:,} left, {seen.begun:,} of them begun"
    return [("shards", Prose(said)), *_describe_growth(seen.sink.plan.generations)]


def _describe_growth(generations: list[int]) -> Fields:
    if len(generations) == 1:
        return []
    later = (f"{count:,} in generation {i}" for i, count in enumerate(generations) if i)
    return [("grown", Prose(f"{generations[0]:,} as first planned, {', '.join(later)}"))]


def _describe_samples(count: Count) -> str:
    totals, about = count.totals, "about " if count.is_estimate else ""
    samples, rejected = totals["samples"], totals["rejected"]
    said = f"{about}{samples:,}: {made(totals):,} {verb(totals)}, {rejected:,} rejected"
    if samples:
        said += f" ({rejected / samples:.2%})"
    if totals.get("left_out"):
        said += f", {totals['left_out']:,} left out"
    if count.is_estimate:
        said += f"; scaled up from {count.footers_read:,} shards, --exact reads all"
    return said


def _describe_reasons(found: _Found) -> Fields:
    reasons = found.count.totals["rejected_by_reason"]
    most = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    said = ", ".join(f"{reasons[reason]:,} {reason}" for reason in most)
    about = "about " if found.count.is_estimate else ""
    return [("rejected", Prose(about + said + "; --rejected says more"))] if said else []


def _describe_pace(found: _Found) -> Fields:
    pace = found.pace
    if pace is None:
        return [] if found.survey.is_complete else [("speed", "no command has ended yet")]
    if not pace["images_per_second"]:
        return [("speed", "no image has been through yet")]
    said = f"{pace['images_per_second']:,.1f} images/s"
    if pace["devices"]:
        said += f" on {', '.join(map(printable, pace['devices']))}"
    said += f" (last command: {pace['images'] or 0:,} images in {_clock(pace['seconds'] or 0)})"
    bound = [("bound by", Prose(printable(pace["bound_by"], 500)))] if pace["bound_by"] else []
    if pace["seconds_left"] is None:
        return [("speed", Prose(said)), *bound]
    left = f"about {pace['images_left']:,} images, {_clock(pace['seconds_left'])} at that rate"
    return [("speed", Prose(said)), *bound, ("left", Prose(left))]


def _clock(seconds: float) -> str:
    """Returns a time as people write it: `59 s`, `0:03:20`, `2 days, 1:00:00`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _describe_rejections(found: _Found) -> Fields:
    rejections, totals = found.rejections, found.count.totals
    assert rejections is not None
    about = "about " if found.count.is_estimate or rejections.is_estimate else ""
    counts = f"{about}{totals['rejected']:,} of {totals['samples']:,} samples"
    fields: Fields = [("rejected", counts)]
    reasons = totals["rejected_by_reason"]
    for reason in sorted(reasons, key=lambda reason: -reasons[reason]):
        fields.append((reason, f"{about}{reasons[reason]:,}: {Reason(reason).meaning}"))
        for row in rejections.examples.get(reason, []):
            key = "(no key)" if row["key"] is None else printable(row["key"])
            place = f"{printable(row['shard'])}, row {row['row']}{describe_loss(row)}"
            fields.append(("", f"{key}  ({place})  {printable(row['message'])}"))
    if rejections.is_estimate:
        read = f"{rejections.footers_read:,} of the shards that rejected any; --exact reads all"
        fields.append(("looked at", Prose(read)))
    fields.append(("all of them", f"{found.survey.sink.uri}/rejected/"))
    return fields
