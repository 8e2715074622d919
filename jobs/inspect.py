"""Say what is in a sink: which run, how far, how many samples, what was rejected."""

import json
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console

from jobs.console import describe_totals, print_fields, printable
from pipeline import layout, storage, totals
from pipeline.errors import ConfigError
from pipeline.plan import Plan, load_plan
from pipeline.run import Run, find_run, is_complete
from pipeline.schema import Reason
from pipeline.totals import Totals


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what is in a sink: which run, how far, how many samples, what was rejected.

    Reads run.json, plan.parquet and the footers in data/; needs no model and no Ray.

    Example: vqpipe inspect codes/
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix that vqpipe encode wrote."""
    rejected: bool = False
    """Say why samples were rejected, with the first few of each reason."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(job: Inspect) -> None:
    """Prints what the sink holds."""
    sink = storage.normalise_uri(job.sink)
    found = load_run(sink)
    frozen = load_plan(sink)
    read = totals.read_totals(sink, found, frozen)
    summed, state = read.to_dict(), _state(sink, frozen, read.shards)
    if job.json:
        facts = {"run": json.loads(found.to_json()), **state, **summed}
        print(json.dumps(facts | ({"rejections": read.examples} if job.rejected else {})))  # noqa: T201
    elif job.rejected:
        _print_rejections(sink, read)
    else:
        _print(sink, found, state, summed)


def load_run(sink: str) -> Run:
    """Returns the run of a sink that a command was given.

    Raises:
        ConfigError: If it holds none.
    """
    found = find_run(sink)
    if found is None:
        raise ConfigError(
            f"{sink} holds no run (there is no run.json); give the --sink of vqpipe encode"
        )
    return found


def _print_rejections(sink: str, read: Totals) -> None:
    console = Console(highlight=False)
    fields: list[tuple[str, object]] = [("rejected", f"{read.rejected:,} of {read.seen:,} samples")]
    for reason, count in read.reasons.most_common():
        fields.append((reason, f"{count:,}: {Reason(reason).meaning}"))
        for row in read.examples[reason]:
            key = "(no key)" if row["key"] is None else printable(row["key"])
            place = f"{printable(row['shard'])}, row {row['row']}"
            fields.append(("", f"{key}  ({place})  {printable(row['message'])}"))
    fields.append(("all of them", f"{sink}/rejected/"))
    print_fields(console, sink, fields)


def _state(sink: str, frozen: Plan, committed: int) -> dict[str, Any]:
    staged = layout.list_staged(sink).keys() & set(frozen.names)
    return {
        "complete": is_complete(sink),
        "shards_planned": len(frozen),
        "generations": frozen.generations,
        "shards_left": len(frozen) - committed,
        "shards_begun": len(staged),
    }


def _print(sink: str, found: Run, state: dict[str, Any], summed: dict[str, Any]) -> None:
    console = Console(highlight=False)
    identity, facts = found.identity, found.facts
    fields: list[tuple[str, object]] = [
        ("run", f"{identity['stage']}, {found.fingerprint[:12]}, started {facts['created']}"),
        ("source", f"{identity['source']} ({identity['format']})"),
        ("model", f"{facts['model']}, sha256 {identity['model_sha256'][:12]}"),
        ("codebook", f"{facts['codebook_size']:,} entries"),
        (
            "pixels",
            f"{identity['resolution']} px, {identity['resample']}, "
            f"{identity['pixel_range']} range, {identity['dtype']}",
        ),
        ("complete", "yes, _SUCCESS is there" if state["complete"] else "no"),
        (
            "shards",
            f"{summed['shards']:,} of {state['shards_planned']:,} done, {state['shards_left']:,} "
            f"left, {state['shards_begun']:,} of them begun",
        ),
        *_describe_growth(state["generations"]),
        *describe_totals(summed, facts),
    ]
    print_fields(console, sink, fields)


def _describe_growth(generations: list[int]) -> list[tuple[str, object]]:
    if len(generations) == 1:
        return []
    later = (f"{count:,} in generation {i}" for i, count in enumerate(generations) if i)
    return [("grown", f"{generations[0]:,} as first planned, {', '.join(later)}")]
