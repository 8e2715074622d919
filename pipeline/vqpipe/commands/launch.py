"""What all stages have in common: the run on Ray with its display, and the summary."""

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Generic, TypeVar

from rich.console import Console

from vqpipe.commands import partial, summary
from vqpipe.commands.audience import audience
from vqpipe.commands.console import Fields, harmless, print_fields, print_warning, printable, stderr
from vqpipe.commands.laggards import describe_laggards
from vqpipe.commands.machines import (
    OF_A_CODEC,
    PICKS_HERE,
    parse_gpus,
    parse_labels,
    parse_resources,
)
from vqpipe.commands.options import ClusterOptions, MachineOptions, RunOptions
from vqpipe.commands.part import Part
from vqpipe.commands.progress import Display, Progress
from vqpipe.commands.result import Result
from vqpipe.commands.stage_jobs import Decode, Encode
from vqpipe.commands.summary import Allowance
from vqpipe.engine import cluster, compaction, graph
from vqpipe.engine.counter import Tally
from vqpipe.engine.places import Place
from vqpipe.engine.resources import Resources, look_for_machines
from vqpipe.engine.surroundings import handlers_kept
from vqpipe.engine.watchdog import Tick
from vqpipe.errors import IncompleteError, stopped_by
from vqpipe.sink.growth import Growth
from vqpipe.sink.run import Sink, check_creates_once
from vqpipe.sink.writer import Writer
from vqpipe.stages.compact import Compaction
from vqpipe.stages.work import Work

AnyWork = TypeVar("AnyWork", Work, Compaction)
_ENOUGH_TO_JUDGE = 1000
"""Images seen before a fraction of rejections can end a run early."""


def describe_store(sink: Sink) -> Fields:
    """Returns what to take care of with a sink's store, if anything."""
    if check_creates_once(sink):
        return []
    return [("take care", "this store ignores create-if-absent: run one command on it at a time")]


def describe_left(work: Work, part: Part | None, again: int = 0) -> str:
    """Returns how many shards are left to a command, and of how many others samples to try."""
    plan = work.writer.sink.plan
    said = f"{len(work.todo) - again:,} of {len(part.places(plan) if part else plan):,} shard(s)"
    said += f" of part {part}, of {len(plan):,} in all" if part else ""
    return said + (f", and rejected samples of {again:,} other(s) to try again" if again else "")


def growth_of(options: Encode | Decode) -> Growth:
    """Returns what the plan may take in; parts that are to take nothing in share the first's."""
    grows = options.extend or options.replace_changed
    return Growth(options.extend, options.replace_changed, bool(options.part) and not grows)


@dataclass(frozen=True)
class Prepared(Generic[AnyWork]):
    """What a command is about to do."""

    work: AnyWork
    introduction: Fields
    """What is said of it before it begins."""
    can_judge_early: bool = True
    """Whether the rejections so far say something of the run before it ends."""
    allows_damage: bool = False
    """Whether shards that could not be read to their end are put up with."""
    part: Part | None = None
    """Which of the run's shards are this command's; None for all."""


def run_stage(
    name: str, options: ClusterOptions, prepare: Callable[[], Prepared[AnyWork]]
) -> tuple[AnyWork, Result]:
    """Does what is left of a stage, prints a summary; returns what the work was and how it ended.

    Raises:
        VqpipeError: If the run is refused, or cannot go on; the exit code is the error's.
    """
    with stoppable():
        pick_gpus(options)
        console = stderr()
        prepared = prepare()
        print_fields(console, name, prepared.introduction)
        return prepared.work, _run(name, options, prepared, console)


def _run(
    name: str, options: ClusterOptions, prepared: Prepared[AnyWork], console: Console
) -> Result:
    work, plan = prepared.work, prepared.work.writer.sink.plan
    shards = len(prepared.part.places(plan)) if prepared.part else len(plan)
    progress = Progress(
        shards_total=shards,
        shards_before=shards - len(work.todo),
        bytes_total=plan.bytes_of(work.todo),
        images_known=work.samples_left if isinstance(work, Compaction) else None,
        opens=isinstance(work, Work) and work.opens is not None,
    )
    audience().begin(work.writer.sink.uri, work.writer.sink.run.fingerprint, progress)
    error: IncompleteError | None = None
    if work.todo:
        try:
            _work(name, options, prepared, progress, console)
            _check_revised(work.writer, progress)
        except IncompleteError as stopped:  # the summary says how far it came
            error = stopped
    progress.end()
    most = options.max_rejected if isinstance(options, RunOptions) else 0.0
    allowed = Allowance(most, prepared.allows_damage)
    if prepared.part and (left := partial.find_left(work.writer.sink)):
        return partial.finish(work.writer.sink, progress, prepared.part, left, error)
    return summary.finish(work.writer, progress, allowed, error)


def _check_revised(writer: Writer, progress: Progress) -> None:
    """Checks that every shard whose rejected samples were tried again is through.

    All of them had their objects before, so that the totals do not show it.
    """
    attempt = writer.attempt
    left = len(attempt.revisions.keys() - progress.committed) if attempt else 0
    if left:
        raise IncompleteError(
            f"of {left:,} shard(s), the samples that were tried again are not through, since "
            "another command on this sink came to its end meanwhile: run the same command again"
        )


def _work(
    name: str,
    options: ClusterOptions,
    prepared: Prepared[Work] | Prepared[Compaction],
    progress: Progress,
    console: Console,
) -> None:
    """Runs the graph to its end and keeps the display and the error budget."""
    resources = resources_of(options)
    with cluster.connect(resources.address, pick_gpus(options)) as logs:
        console.print(f"  {logs}", style="dim", markup=False, soft_wrap=True)
        asks = isinstance(options, MachineOptions)
        for said in look_for_machines(resources) if asks else ():
            print_warning(console, said)
        running = closing(_begin(prepared.work, resources))
        with Display(console, name) as display, running as ticks:
            display.show(progress)
            for tick in ticks:
                if tick.counts.devices != progress.devices:
                    said = _describe_devices(tick.counts)
                    console.print(harmless(said), style="dim", markup=False)
                known, late = len(progress.dropped), len(progress.laggards)
                _count(progress, tick)
                reports = [f"Ray: {printable(each, 400)}" for each in cluster.take_reports()]
                slow = describe_laggards(progress.laggards[late:], prepared.work.writer.sink.plan)
                for said in (*progress.dropped[known:], *slow, *reports):
                    console.print(f"  {harmless(said)}", style="yellow", markup=False)
                progress.note()
                display.show(progress)
                audience().look()
                if isinstance(options, RunOptions) and prepared.can_judge_early:
                    _judge(options, progress)


def resources_of(options: ClusterOptions) -> Resources:
    """Returns where to run."""
    where = Resources(
        address=cluster.find_address(options.address), stall_timeout_s=options.stall_timeout_s
    )
    if not isinstance(options, RunOptions):
        return where
    amounts = parse_resources("--codec-resources", options.codec_resources, OF_A_CODEC)
    codecs = Place(amounts, parse_labels("--codec-labels", options.codec_labels))
    amounts = parse_resources("--worker-resources", options.worker_resources, ())
    workers = Place(amounts, parse_labels("--worker-labels", options.worker_labels))
    where = replace(where, device=options.device, codecs=codecs, workers=workers)
    return replace(where, actors=options.actors, batch_size=options.batch_size)


def pick_gpus(options: ClusterOptions) -> tuple[str, ...]:
    """Returns the GPUs of this machine that were asked for by name.

    Raises:
        ConfigError: If a command that asks for some would start no Ray here.
    """
    named = options.gpus if isinstance(options, MachineOptions) else None
    if not named:
        return ()
    cluster.check_starts_ray(options.address, PICKS_HERE)
    return parse_gpus(named)


def _begin(work: Work | Compaction, resources: Resources) -> Generator[Tick, None, None]:
    """Returns the graph of some work, to be run to its end."""
    if isinstance(work, Compaction):
        return compaction.run(work, resources)
    return graph.run(work, resources)


def _judge(options: RunOptions, progress: Progress) -> None:
    """Checks the error budget as soon as what was seen says something of the run."""
    if _can_judge(options, progress):
        _check_budget(options, progress)


def _check_budget(options: RunOptions, progress: Progress) -> None:
    rejected, hidden = progress.rejected_images, progress.rejected_images - progress.rejected
    summary.check_budget(
        options.max_rejected,
        progress.reasons,
        rejected,
        progress.durable - progress.left_out + hidden,
        "that this command went through",
    )


def _can_judge(options: RunOptions, progress: Progress) -> bool:
    """Tells whether the rejections so far say something of the run."""
    return progress.durable >= _ENOUGH_TO_JUDGE or options.max_rejected >= 1


def _describe_devices(counts: Tally) -> str:
    warm_up = f", warmed up in {counts.warm_up_s:.1f} s" if counts.warm_up_s >= 1 else ""
    return f"  the codec is on {', '.join(counts.devices)}{warm_up}"


def _count(progress: Progress, tick: Tick) -> None:
    is_ready = tick.counts.devices or (progress.images_known is not None and tick.counts.read)
    if is_ready and progress.start_up_s is None:
        progress.start_up_s = progress.seconds
    progress.devices = tick.counts.devices
    progress.shares = tick.counts.shares
    progress.laggards = tick.counts.laggards
    progress.encoded = tick.counts.encoded
    progress.spent, progress.gpu_memory = tick.counts.spent, tick.counts.gpu_memory
    progress.read, progress.read_bytes = tick.counts.read, tick.counts.read_bytes
    for receipt in tick.receipts.to_pylist() if tick.receipts else ():
        progress.durable += receipt["good"] + receipt["rejected"] + receipt["left_out"]
        progress.left_out += receipt["left_out"]
        progress.reasons.update(receipt["reasons"])
        progress.dropped += receipt["dropped"]
        progress.rejected_images += receipt["rejected_images"]
        if receipt["committed"] is not None:
            progress.commit(receipt["shard"])


@contextmanager
def stoppable() -> Iterator[None]:
    """Turns SIGTERM, with which spot machines are reclaimed, and Ctrl-C into a clean stop.

    Outside the main thread, which alone is told of signals, nothing changes.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise stopped_by(number)

    with handlers_kept() as signals:
        for number in signals:
            signal.signal(number, stop)
        yield
