"""How a command ends that did a part of a run while shards of others are left."""

import shlex

from vqpipe.commands.console import Fields, Prose, print_fields, stdout
from vqpipe.commands.part import Part
from vqpipe.commands.progress import Progress
from vqpipe.commands.result import Result
from vqpipe.commands.summary import describe_work, speed_of
from vqpipe.errors import IncompleteError
from vqpipe.sink import todo
from vqpipe.sink.run import Sink, open_sink


def find_left(sink: Sink) -> set[int]:
    """Returns the places in the plan of all shards that are not committed by now, by anybody."""
    return set(todo.unfinished(open_sink(sink.uri, sink.run)))


def finish(
    sink: Sink, progress: Progress, part: Part, left: set[int], error: IncompleteError | None
) -> Result:
    """Prints the summary of a part; the sink is added up by the part that ends last.

    Args:
        sink: The run.
        progress: What this command did.
        part: Which of its shards are this command's.
        left: The shards that are not committed (`find_left`).
        error: What ended the command early.

    Returns:
        What this command did, and what ended it early, or that shards of its part are left.
    """
    mine = part.places(sink.plan)
    own = len(left.intersection(mine))
    said = {
        "part": str(part),
        "shards": len(mine) - own,
        "shards_planned": len(mine),
        "shards_left_elsewhere": len(left) - own,
        **speed_of(progress, sink.plan),
    }
    if own and not error:
        error = IncompleteError(
            f"{own:,} shard(s) of part {part} are not committed yet: run the same command again"
        )
    fields: Fields = [
        ("part", f"{part}: {len(mine) - own:,} of {len(mine):,} shard(s) committed"),
        *describe_work(progress, said),
        ("sink", sink.uri),
        *_describe_others(len(left) - own),
        ("look at it", f"vqpipe inspect {shlex.quote(sink.uri)}"),
    ]
    print_fields(stdout(), "summary", fields)
    return Result(sink.uri, sink.run.fingerprint, said, error)


def _describe_others(left: int) -> Fields:
    if not left:
        return []
    said = (
        f"{left:,} shard(s) of other parts are not committed yet: the part that ends last adds up "
        "the run and marks it complete"
    )
    return [("elsewhere", Prose(said))]
