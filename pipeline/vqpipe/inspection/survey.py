"""What a sink holds, found with few requests: seconds for one of 100,000 shards.

One listing of `data/` and one of `staging/` say how far a run is. Totals stand in `_SUCCESS` once
it is complete; before, they are added up from footers: of all objects, or of many objects from a
share that a hash of their names picks, scaled up.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from vqpipe import storage
from vqpipe.picks import pick_names
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.footer import IMAGE_BYTES
from vqpipe.sink.run import STAGES, Run, Sink, open_sink
from vqpipe.sink.sums import Totals
from vqpipe.sink.totals import made, read_totals

FEW = 2000
"""Most footers that are read unless all are asked for: a request each, 32 at a time."""

_LOSSES = ("rejected_images", "damaged_shards", "lost_known", "lost_estimated", "lost_unknown")
_COUNTS = (
    *("samples", *(entry.made for entry in STAGES.values()), "rejected", *_LOSSES),
    *("passed_over", "left_out", "audited", IMAGE_BYTES),
)
"""Totals that grow with the number of shards."""
_COUNTS_BY_WORD = ("rejected_by_reason", "left_out_by", "kept_nulls")
"""The same, one for each reason, condition or column."""

Origin = Literal["_SUCCESS", "footers", "some footers"]


@dataclass(frozen=True)
class Survey:
    """What two listings and three small objects of a sink say."""

    sink: Sink
    """With its plan as it was after what is in `data/` had been listed."""
    success: dict[str, Any] | None
    """What `_SUCCESS` says; None if it is not there, or speaks of another plan."""
    objects: dict[str, File]
    """What `data/` has of planned shards, by shard; an object may be of an earlier version."""
    foreign: tuple[str, ...]
    """URIs of what `data/` has beside that."""
    begun: int
    """Planned shards that have rows in `staging/`."""

    @property
    def is_complete(self) -> bool:
        """Tells whether the run has ended with everything of its plan committed and checked."""
        return self.success is not None


@dataclass(frozen=True)
class Sum:
    """Footers added up: of all objects, or of some."""

    totals: Totals
    read: int
    """Footers read."""
    of: int
    """Objects that they were picked from."""

    @property
    def is_whole(self) -> bool:
        """Tells whether no object was left out."""
        return self.read == self.of


@dataclass(frozen=True)
class Count:
    """Totals of a sink, and how they are known."""

    totals: dict[str, Any]
    """As they stand in `_SUCCESS`; of an estimate, whole numbers scaled up from some shards."""
    origin: Origin
    footers_read: int

    @property
    def is_estimate(self) -> bool:
        """Tells whether the totals are scaled up from some of the shards."""
        return self.origin == "some footers"


@dataclass(frozen=True)
class Evaluated:
    """What `vqpipe evaluate` found, and whether that is still true."""

    said: dict[str, Any]
    """What `evaluation.json` says."""
    outdated: str | None
    """When it was measured, if the sink holds other codes now; None if it does not."""


@dataclass(frozen=True)
class Rejections:
    """What was rejected and why, from the shards that have an object in `rejected/`."""

    by_reason: dict[str, int]
    """Counts, the most frequent first; scaled up if not all of those shards were read."""
    examples: dict[str, list[dict[str, Any]]]
    """The first few of each reason: shard, key, row, message, lost, lost_by."""
    lost: dict[str, Any]
    """What they stand for, and the damaged shards (`losses.add_up`); scaled up as well."""
    footers_read: int
    is_estimate: bool


def look(uri: str, run: Run) -> Survey:
    """Returns what a sink holds.

    The order of requests matters to a run that is at work: what was complete before the listing
    has all its objects in it, and what was listed before the plan was read is planned in it.
    """
    success = find_json(layout.success_uri(uri))
    listed, staged = layout.list_committed(uri), layout.list_staged(uri)
    sink = open_sink(uri, run)
    plan = sink.plan
    names, waiting = set(plan.names), {plan.name(index) for index in plan.replaced}
    is_of_this = success is not None and success.get("plan_sha256") == plan.sha256()
    return Survey(
        sink=sink,
        success=success if is_of_this else None,
        objects={name: file for name, file in listed.items() if name in names},
        foreign=tuple(file.uri for name, file in listed.items() if name not in names),
        begun=len(staged.keys() & names - (listed.keys() - waiting)),
    )


def find_json(uri: str) -> dict[str, Any] | None:
    """Returns a stored JSON object; None if there is none, or it is something else."""
    try:
        found = json.loads(storage.read(uri))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def count(survey: Survey, most: int = FEW) -> Count:
    """Returns the totals of a sink, from at most so many footers."""
    if survey.success is not None:
        return _stated(survey.success, 0)
    return count_from(survey, add_up(survey, most))


def count_from(survey: Survey, found: Sum) -> Count:
    """Returns the totals of a sink of which footers have been added up already."""
    if found.is_whole:
        return Count(found.totals.to_dict(), "footers", found.read)
    if survey.success is not None:
        return _stated(survey.success, found.read)
    return Count(_scale_up(survey, found), "some footers", found.read)


def _stated(success: dict[str, Any], footers_read: int) -> Count:
    totals = {name: value for name, value in success.items() if name != "plan_sha256"}
    return Count(totals, "_SUCCESS", footers_read)


def add_up(survey: Survey, most: int | None = FEW) -> Sum:
    """Returns the sums over the objects of a sink, or over at most so many; None is all."""
    return _add_up(survey, survey.objects, most)


def _add_up(survey: Survey, names: Collection[str], most: int | None) -> Sum:
    picked = pick_names(names, len(names) if most is None else most)
    files = [survey.objects[name] for name in picked]
    return Sum(read_totals(survey.sink, files), len(files), len(names))


def _scale_up(survey: Survey, found: Sum) -> dict[str, Any]:
    """Returns totals of all shards as some of them have it; of bytes, what was listed."""
    some = found.totals
    done = len(survey.objects) - _count_outdated(survey, found.read)
    factor = done / some.shards if some.shards else 0.0
    totals = some.to_dict()
    totals |= {name: round(totals[name] * factor) for name in _COUNTS if name in totals}
    totals |= {
        name: {word: round(number * factor) for word, number in totals[name].items()}
        for name in _COUNTS_BY_WORD
        if name in totals
    }
    return totals | {
        "shards": done,
        "data_bytes": sum(file.size for file in survey.objects.values()),
    }


def _count_outdated(survey: Survey, most: int) -> int:
    """Returns how many objects are of an earlier version of their shard and wait for another."""
    replaced = {survey.sink.plan.name(index) for index in survey.sink.plan.replaced}
    found = _add_up(survey, replaced & survey.objects.keys(), most)
    return round((found.read - found.totals.shards) * found.of / max(found.read, 1))


def count_rejections(survey: Survey, most: int | None = FEW) -> Rejections:
    """Returns what was rejected, by one listing and at most so many requests; None is all."""
    base = storage.join_uri(survey.sink.uri, "rejected")
    listed = {layout.stem(base, file.uri) for file in storage.list_files(base)}
    found = _add_up(survey, listed & survey.objects.keys(), most)
    factor = found.of / max(found.read, 1)
    by_reason = {why: round(n * factor) for why, n in found.totals.reasons.most_common()}
    some = found.totals.to_dict()
    lost = {name: round(some[name] * factor) for name in _LOSSES} | {"damaged": some["damaged"]}
    return Rejections(by_reason, found.totals.examples, lost, found.read, not found.is_whole)


def refine(count: Count, rejections: Rejections) -> Count:
    """Returns totals with rejections as the shards that have any say, if they were an estimate."""
    if not count.is_estimate:
        return count
    rejected = sum(rejections.by_reason.values())
    better = {
        "samples": made(count.totals) + rejected + count.totals.get("left_out", 0),
        "rejected": rejected,
        "rejected_by_reason": rejections.by_reason,
        **rejections.lost,
    }
    return replace(count, totals=count.totals | better)


def find_evaluation(survey: Survey, count: Count) -> Evaluated | None:
    """Returns what was measured of a sink's codes; None if nothing was, or of another run."""
    said = find_json(storage.join_uri(survey.sink.uri, "evaluation.json"))
    if said is None or said.get("fingerprint") != survey.sink.run.fingerprint:
        return None
    return Evaluated(said, _why_outdated(said["run"], survey, count))


def _why_outdated(then: dict[str, Any], survey: Survey, count: Count) -> str | None:
    """Returns what was there when codes were measured, if something else is there now.

    An estimate does not show single samples that were rejected and are not any more.
    """
    shards, encoded = count.totals["shards"], made(count.totals)
    if then["shards"] != shards:
        when = f"when {then['shards']:,} of {then['shards_planned']:,} shards were done"
    elif then["plan_sha256"] != survey.sink.plan.sha256():
        when = "before shards were added or changed"
    elif then["encoded"] != encoded and not count.is_estimate:
        when = f"when {then['encoded']:,} samples were encoded, not {encoded:,}"
    elif then["data_bytes"] != count.totals["data_bytes"] and not count.is_estimate:
        when = "before shards were encoded again"
    else:
        return None
    return f"measured {when}: run vqpipe evaluate again"


def expect_samples(survey: Survey, samples: int) -> int | None:
    """Returns how many samples the whole plan may have, by the bytes of what is done.

    Args:
        survey: The sink.
        samples: Those of the shards that have an object.
    """
    sizes = survey.sink.plan.table["size"].to_numpy()
    done = sizes[[name in survey.objects for name in survey.sink.plan.names]].sum()
    return round(samples * float(sizes.sum() / done)) if done else None


def find_pace(survey: Survey, count: Count) -> dict[str, Any] | None:
    """Returns how fast the last command with an image was, and how long the rest takes at its rate.

    Seconds left are None where nothing is left, or nothing is known. None if no command has come
    to an end yet.
    """
    said = find_json(storage.join_uri(survey.sink.uri, "summary.json"))
    if said is None:
        return None
    rate = float(said.get("images_per_second") or 0.0)
    samples = count.totals.get("samples", 0)
    expected = None if survey.is_complete else expect_samples(survey, samples)
    left = None if expected is None else max(0, expected - samples)
    return {
        "images_per_second": rate,
        "seconds": said.get("seconds"),
        "start_up_seconds": said.get("start_up_seconds"),
        "images": said.get("images_this_run"),
        "devices": said.get("devices") or [],
        "bound": said.get("bound"),
        "bound_by": said.get("bound_by"),
        "images_left": left,
        "seconds_left": round(left / rate) if left is not None and rate else None,
    }
