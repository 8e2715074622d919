"""What is said of shards that take far longer than their peers."""

from collections.abc import Iterable, Iterator
from typing import Any

from vqpipe.commands.console import printable
from vqpipe.commands.progress import describe_seconds
from vqpipe.engine.laggards import Laggard
from vqpipe.sink.plan import Plan


def describe_laggards(found: Iterable[Laggard], plan: Plan) -> Iterator[str]:
    """Yields a sentence for each."""
    for each in found:
        name, seconds = printable(plan.name(each.shard)), describe_seconds(each.seconds)
        yield (
            f"shard {name} has taken {seconds} so far on {each.node}, where one of its size takes "
            f"{describe_seconds(each.usual_s)}{_describe_end(each)}"
        )


def list_laggards(found: Iterable[Laggard], plan: Plan) -> list[dict[str, Any]]:
    """Returns all of them as they stand in `summary.json`."""
    return [
        {
            "shard": plan.name(each.shard),
            "seconds": round(each.seconds, 1),
            "usual_seconds": round(each.usual_s, 1),
            "machine": each.node,
            "again_on": each.again_on,
        }
        for each in found
    ]


def _describe_end(each: Laggard) -> str:
    if each.again_on is None:
        return ": look at that machine, and at the file"
    return f": {each.again_on} does it a second time, and whichever is first commits it"
