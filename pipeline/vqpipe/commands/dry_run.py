"""What a stage would do, shown without doing any of it."""

from vqpipe.codec.device import choose_device
from vqpipe.commands.console import Fields, Prose, print_fields, stdout
from vqpipe.commands.options import RunOptions
from vqpipe.commands.result import Result
from vqpipe.engine import cluster
from vqpipe.sink.run import Sink, find_run
from vqpipe.stages.census import count_claimed
from vqpipe.stages.work import Work


def show(name: str, job: RunOptions, work: Work, introduction: Fields) -> Result:
    """Prints what a command would do.

    Args:
        name: Of the command.
        job: What is asked for.
        work: What is left to do.
        introduction: What the command would say of it before it begins.

    Returns:
        The run that there is or would be; its totals say how much is left.

    Raises:
        ConfigError: If the cluster does not answer, or the device is not there.
    """
    is_here = cluster.check_address(job.address)
    if is_here:
        choose_device(job.device)
    sink, images = work.writer.sink, count_claimed(work)
    said: Fields = [
        *introduction,
        ("images left", Prose(_describe_images(images, len(work.todo)))),
        ("run", Prose(_describe_run(sink))),
        ("dry run", Prose(_NOTHING)),
    ]
    print_fields(stdout(), f"{name}, as it would be done", said)
    left = {"shards_planned": len(sink.plan), "shards_left": len(work.todo), "images_left": images}
    return Result(sink.uri, sink.run.fingerprint, left)


_NOTHING = (
    "nothing was written and Ray was not started; whether the sink may be written to, only a run "
    "shows"
)


def _describe_images(images: int | None, shards: int) -> str:
    """Returns how many are left to do."""
    if images is not None:
        return f"{images:,}"
    return f"not known without reading the {shards:,} shard(s); vqpipe plan says about how many"


def _describe_run(sink: Sink) -> str:
    """Returns whether the sink has the run already."""
    if find_run(sink.uri) is None:
        return "none is there yet: this would begin one"
    return f"the one that is there, begun {sink.run.facts.created}; it would go on"
