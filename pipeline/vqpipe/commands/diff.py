"""Say how two runs differ: choices, shards, rejections, use of the codebook, codes, metrics."""

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from vqpipe import metrics, storage
from vqpipe.commands.console import Fields, Prose, print_fields, printable, stdout
from vqpipe.commands.progress import announce
from vqpipe.commands.runs import load_run
from vqpipe.commands.sink_jobs import Diff
from vqpipe.inspection import difference, survey
from vqpipe.inspection.difference import Compared, Shards
from vqpipe.inspection.survey import Count, Evaluated, Sum, Survey
from vqpipe.picks import pick_names
from vqpipe.sink.run import CodesRun, Run
from vqpipe.sink.totals import made, verb

_SHOWN = 5
_COLUMN = 28
"""Letters of a value that still stands beside the other one."""


@dataclass(frozen=True)
class _Side:
    """What is known of one of the two."""

    run: Run
    survey: Survey
    sum: Sum
    """Its footers added up: of all objects, or of some."""
    count: Count
    evaluation: Evaluated | None

    @classmethod
    def of(cls, sink: str) -> "_Side":
        run = load_run(sink)
        seen = survey.look(sink, run)
        summed = survey.add_up(seen)
        count = survey.count_from(seen, summed)
        return cls(run, seen, summed, count, survey.find_evaluation(seen, count))


@dataclass(frozen=True)
class _Difference:
    """What was found out about two runs."""

    sides: tuple[_Side, _Side]
    fields: dict[str, tuple[Any, Any]]
    shards: Shards
    distance: float | None
    """Of the distributions of codes; None where they cannot be compared."""
    why_not: str | None
    """Why codes are not compared, if they are not."""
    codes: Compared | None
    shards_in_both: int
    """Shards that have codes in both."""


def run(job: Diff) -> None:
    """Prints how two runs differ.

    Raises:
        ConfigError: If one of the places holds no run.
        StorageError: If a store does not answer, or an object is damaged.
    """
    first, second = storage.normalise_uri(job.first), storage.normalise_uri(job.second)
    found = _find(job, _Side.of(first), _Side.of(second))
    if job.json:
        print(json.dumps(_facts(found)))  # noqa: T201
    else:
        _print(stdout(), found)


def _find(job: Diff, first: _Side, second: _Side) -> _Difference:
    both = first.survey.objects.keys() & second.survey.objects.keys()
    why_not = difference.why_incomparable(first.run, second.run)
    if why_not is None and not both:
        why_not = "no shard has codes in both"
    codes = None
    if why_not is None:
        picked = pick_names(both, job.most(len(both)))
        announce("comparing the codes of", len(picked))
        run, uris = first.run, [each.survey.sink.uri for each in (first, second)]
        are_several = isinstance(run, CodesRun) and run.identity.has_several_images
        codes = difference.compare_codes(uris[0], uris[1], picked, are_several=are_several)
    return _Difference(
        sides=(first, second),
        fields=difference.compare_fields(first.run, second.run),
        shards=difference.compare_plans(first.survey.sink.plan, second.survey.sink.plan),
        distance=_compare_use(first, second),
        why_not=why_not,
        codes=codes,
        shards_in_both=len(both),
    )


def _compare_use(first: _Side, second: _Side) -> float | None:
    """Returns the distance of two runs' distributions of codes, if they have as many entries."""
    histograms = [side.sum.totals.histogram for side in (first, second)]
    if len(histograms[0]) != len(histograms[1]):
        return None
    if not all(histogram.sum() for histogram in histograms):
        return None
    return metrics.jensen_shannon(*histograms)


def _facts(found: _Difference) -> dict[str, Any]:
    """Returns what `--json` prints; of pairs, the first is of A."""
    a, b = found.sides
    return {
        "sinks": [side.survey.sink.uri for side in found.sides],
        "fingerprints": [side.run.fingerprint for side in found.sides],
        "complete": [side.survey.is_complete for side in found.sides],
        "fields": found.fields,
        "shards": {
            "both": len(found.shards.both),
            "only": [len(found.shards.only_first), len(found.shards.only_second)],
            "changed": len(found.shards.changed),
            "elsewhere": len(found.shards.elsewhere),
        },
        "totals": [side.count.totals for side in found.sides],
        "estimated": [side.count.is_estimate for side in found.sides],
        "footers_read": [side.count.footers_read for side in found.sides],
        "jensen_shannon": found.distance,
        "codes": _code_facts(found),
        "metrics": {name: [_metric(a, name), _metric(b, name)] for name in _METRICS},
        "metrics_outdated": [_outdated(side) for side in found.sides],
        "output": [f"{side.survey.sink.uri}/data/" for side in found.sides],
    }


def _code_facts(found: _Difference) -> dict[str, Any]:
    codes = found.codes
    if codes is None:
        return {"compared": False, "why_not": found.why_not}
    return {
        "compared": True,
        "shards": codes.names,
        "shards_in_both": found.shards_in_both,
        "samples": codes.samples,
        "samples_unlike": codes.unlike_samples,
        "samples_only": [codes.only_first, codes.only_second],
        "codes": codes.codes,
        "codes_unlike": codes.unlike_codes,
        "equal": codes.equal,
        "worst": codes.worst and {"shard": codes.worst[0], "unlike": codes.worst[1]},
    }


_METRICS: dict[str, str] = {
    "psnr_db": "{:.2f}",
    "ssim": "{:.4f}",
    "l1": "{:.4f}",
    "lpips": "{:.4f}",
    "rfid": "{:.2f}",
    "codes_unlike_float32": "{:.2%}",
}
"""What of `evaluation.json` is set side by side (means), and how it is printed."""


def _metric(side: _Side, name: str) -> float | None:
    found = side.evaluation.said if side.evaluation else {}
    value = found.get(name, (found.get("metrics") or {}).get(name))
    return value.get("mean") if isinstance(value, dict) else value


def _outdated(side: _Side) -> str | None:
    return side.evaluation.outdated if side.evaluation else None


def _print(console: Console, found: _Difference) -> None:
    a, b = (side.survey.sink.uri for side in found.sides)
    print_fields(console, f"A  {a}\nB  {b}", _describe_runs(found))
    print_fields(console, "fields that differ", _describe_fields(found) or [("", "none")])
    print_fields(console, "what they hold", _describe_totals(found))
    print_fields(console, "codes", _describe_codes(found))
    ends = [(f"output of {name}", f"{sink}/data/") for name, sink in (("A", a), ("B", b))]
    print_fields(console, "where they are", ends)


def _beside(name: str, a: object, b: object) -> Fields:
    """Returns two values beside each other, or one below the other if they are long."""
    first, second = printable(str(a)), printable(str(b))
    if max(len(first), len(second)) <= _COLUMN:
        return [(name, f"{first:<{_COLUMN}}  {second}")]
    return [(name, f"A  {first}"), ("", f"B  {second}")]


def _describe_runs(found: _Difference) -> Fields:
    sides, shards = found.sides, found.shards
    said = [(side.run.stage, side.run.fingerprint[:12]) for side in sides]
    only_a, only_b = len(shards.only_first), len(shards.only_second)
    planned = f"{len(shards.both):,} in both plans, {only_a:,} only in A, {only_b:,} only in B"
    fields: Fields = [
        *_beside("run", " ".join(said[0]), " ".join(said[1])),
        *_beside("started", *(side.run.facts.created for side in sides)),
        *_beside("complete", *("yes" if side.survey.is_complete else "no" for side in sides)),
        ("shards", Prose(planned)),
    ]
    for names, what in (
        (shards.only_first, "only in A"),
        (shards.only_second, "only in B"),
        (shards.changed, "other files"),
        (shards.elsewhere, "other place"),
    ):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            first = ", ".join(printable(name) for name in names[:_SHOWN])
            fields.append((f"  {what}", Prose(f"{len(names):,}: {first}{more}")))
    return fields


def _describe_fields(found: _Difference) -> Fields:
    fields: Fields = []
    for name, (a, b) in found.fields.items():
        if len(name) > 16:
            fields.append((name, ""))
        fields += _beside("" if len(name) > 16 else name, _value(a), _value(b))
    return fields


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def _describe_totals(found: _Difference) -> Fields:
    a, b = (side.count for side in found.sides)
    reasons = {**a.totals["rejected_by_reason"], **b.totals["rejected_by_reason"]}
    fields: Fields = [
        *_beside("", "A", "B"),
        *_beside("shards done", *(f"{side.totals['shards']:,}" for side in (a, b))),
    ]
    verbs = "/".join(dict.fromkeys([verb(a.totals), verb(b.totals)]))
    numbers = {
        "samples": (a.totals["samples"], b.totals["samples"]),
        verbs: (made(a.totals), made(b.totals)),
        "rejected": (a.totals["rejected"], b.totals["rejected"]),
    }
    left_out = (a.totals.get("left_out", 0), b.totals.get("left_out", 0))
    numbers |= {"left out": left_out} if any(left_out) else {}
    for name, (first, second) in numbers.items():
        fields += _beside(name, _about(a, first), _about(b, second))
    for reason in sorted(reasons):
        counts = (_about(side, side.totals["rejected_by_reason"].get(reason, 0)) for side in (a, b))
        fields += _beside(f"  {reason}", *counts)
    for name, title, form in _SHARES:
        values = (side.totals.get(name) for side in (a, b))
        fields += _beside(title, *("-" if each is None else form.format(each) for each in values))
    return fields + _describe_metrics(found)


_SHARES = (
    ("bytes_per_image", "bytes per image", "{:,.1f}"),
    ("codebook_usage", "codebook usage", "{:.2%}"),
    ("codebook_perplexity", "perplexity", "{:,.1f}"),
    ("flip_rate", "unlike float32", "{:.2%}"),
)


def _about(count: Count, number: int) -> str:
    return f"{'about ' if count.is_estimate else ''}{number:,}"


def _describe_metrics(found: _Difference) -> Fields:
    fields: Fields = []
    for name, form in _METRICS.items():
        values = [_metric(side, name) for side in found.sides]
        if any(value is not None for value in values):
            title = {"codes_unlike_float32": "evaluated unlike"}.get(name, name)
            shown = ("-" if value is None else form.format(value) for value in values)
            fields += _beside(title, *shown)
    for letter, side in zip("AB", found.sides, strict=True):
        if outdated := _outdated(side):
            fields.append((f"evaluation of {letter}", Prose(outdated)))
    return fields


def _describe_codes(found: _Difference) -> Fields:
    fields = _describe_use(found)
    codes = found.codes
    if codes is None:
        return [*fields, ("compared", Prose(f"no: {found.why_not}"))]
    where = f"{codes.shards:,} of the {found.shards_in_both:,} shard(s) that both have"
    fields.append(("compared", Prose(f"{codes.samples:,} sample(s) of {where}")))
    if codes.equal is not None:
        equal = f"{codes.equal:.4%}; {codes.unlike_codes:,} of {codes.codes:,} codes differ"
        fields.append(("equal", Prose(equal)))
        share = f"{codes.unlike_samples:,} of {codes.samples:,} sample(s) have a code that differs"
        fields.append(("images", Prose(share)))
    if codes.worst and codes.worst[1]:
        worst = f"{printable(codes.worst[0])}: {codes.worst[1]:.2%} of its codes differ"
        fields.append(("most unlike", Prose(worst)))
    if codes.only_first or codes.only_second:
        only = f"{codes.only_first:,} sample(s) of these shards only in A, {codes.only_second:,}"
        fields.append(("only in one", Prose(f"{only} only in B")))
    if "model_sha256" in found.fields:
        said = "the models differ: equal codes need not mean the same entry"
        fields.append(("take care", Prose(said)))
    return fields


def _describe_use(found: _Difference) -> Fields:
    if found.distance is None:
        return []
    said = f"{found.distance:.4f} apart (Jensen-Shannon distance: 0 is equal, 1 is disjoint)"
    read = [side.sum.read for side in found.sides if not side.sum.is_whole]
    if read:
        said += f"; of {max(read):,} shards, not all"
    return [("distribution", Prose(said))]
