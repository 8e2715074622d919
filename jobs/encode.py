"""Encode image shards into Parquet shards of discrete codes."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from types import FrameType
from typing import Any, Literal

from rich.console import Console

from jobs import summary
from jobs.console import print_fields
from jobs.identity import check_kept, facts_of, grid_of, identity_of, settle_codec
from jobs.model import ModelOptions
from pipeline import cluster, engine, layout, schema, storage, todo
from pipeline.codec import DType
from pipeline.commit import Attempt, Writer
from pipeline.device import Device
from pipeline.doctor import AskedRange, RangeProbe
from pipeline.engine import EncodeWork, Resources
from pipeline.errors import ConfigError, IncompleteError
from pipeline.images import Preprocess
from pipeline.layout import Staged
from pipeline.plan import Growth, Plan, find_plan
from pipeline.progress import Display, Progress
from pipeline.run import Run, check_creates_once, find_run, start_run
from pipeline.schema import Selection
from pipeline.sources import Listing, kept_schema, list_shards
from pipeline.tasks import Counts

_ENOUGH_TO_JUDGE = 1000
"""Images seen before a fraction of rejections can end a run early."""


@dataclass(frozen=True, kw_only=True)
class Encode(ModelOptions):
    """Encode image shards into Parquet shards of discrete codes.

    Run the same command again to resume: finished shards are not read again. Options marked
    [speed] may change between runs on one sink; all others belong to the sink's identity.

    Example: vqpipe encode --source photos/ --sink codes/ --model vqgan/
    """

    source: str
    """Where the images are: a folder of .tar, .parquet or image files, one such file,
    s3://bucket/prefix, or a quoted pattern like 's3://bucket/{000..127}.tar'."""
    sink: str
    """Where the codes go: a folder or s3://bucket/prefix. One run, one sink."""
    format: Literal["webdataset", "parquet", "folder"] | None = None
    """What the source holds; found from its files if not given."""
    image: str | None = None
    """Parquet column or tar extension with the image; found if there is only one."""
    key: str | None = None
    """Parquet column with each image's name; default: file name and row number."""
    keep: tuple[str, ...] = ()
    """Parquet columns or tar extensions to copy beside the codes, such as caption or txt."""
    resolution: int = 256
    """Side of the encoded square, in pixels: the short side is resized to it, the centre kept."""
    resample: Literal["bicubic", "lanczos"] = "bicubic"
    """Filter of the resize."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB, 0 to 255, that shows through transparent pixels."""
    max_pixels: int = 100_000_000
    """Images whose header announces more pixels are rejected unopened."""
    pixel_range: AskedRange = "auto"
    """What the model was trained on: signed is [-1, 1] (most VQGANs), unit is [0, 1] (aMUSEd).
    The wrong one gives plausible, wrong codes; auto finds out with photos, see vqpipe doctor."""
    dtype: DType = "float32"
    """Arithmetic of the network; the codebook look-up is always float32. tf32 is float32 with
    products of 10-bit mantissas on GPUs that can. All but float32 change some codes; how many is
    measured on the way and stands in the summary."""
    eager: bool = False
    """Have GPUs run the network's kernels one by one, as CPUs always do, instead of fused ones,
    which torch.compile makes in a minute or two and which round a little differently."""
    device: Device = "auto"
    """[speed] Where to encode; auto takes GPUs if the cluster has any."""
    batch_size: int | None = None
    """[speed] Images in one forward of a GPU, by default 64; a CPU takes one at a time."""
    actors: int | None = None
    """[speed] Most codecs at work; default one for every GPU of the cluster, or one on a CPU."""
    max_rejected: float = 0.1
    """[speed] Most rejected images before the run ends with exit code 2: a fraction below 1, a
    count from 1."""
    extend: bool = False
    """Take in shards that the source has gained since the run began."""
    replace_changed: bool = False
    """Encode shards again whose files have changed since they were planned; their objects in the
    sink are replaced one by one."""
    retry_rejected: bool = False
    """Try rejected samples again, after a fix or with another --max-pixels; shards where any of
    them passes now are updated."""
    skip_doctor: bool = False
    """[speed] Start without looking how the model reconstructs photos; needs --pixel-range."""
    address: str | None = None
    """[speed] Ray cluster to join, such as auto or head:6379; default: RAY_ADDRESS, else this
    machine alone."""
    stall_timeout_s: float = 900.0
    """[speed] Seconds without any progress before the run gives up with exit code 5."""

    def __post_init__(self) -> None:
        self._check_uris()
        for name, least in (("resolution", 1), ("max_pixels", 1), ("batch_size", 1), ("actors", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}; it must be at least {least}")
        if not self.max_rejected >= 0:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be 0 or more")
        if not self.stall_timeout_s > 0:
            raise ValueError(f"--stall-timeout-s is {self.stall_timeout_s}; it must be above 0")
        if self.skip_doctor and self.pixel_range == "auto":
            raise ValueError("--skip-doctor needs --pixel-range signed or unit; it is auto")
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"--background is {self.background}; each must be in 0 to 255")

    def _check_uris(self) -> None:
        """Refuses what can be no URI, passwords included: `submit` sends the command on."""
        for name in ("source", "sink", "model", "model_config"):
            uri = getattr(self, name)
            if uri is not None and not uri.strip():
                raise ConfigError(f"--{name.replace('_', '-')} is empty: give a folder or a URL")
            storage.normalise_uri(uri or "")


@dataclass(frozen=True)
class _Prepared:
    """What a command is about to do."""

    work: EncodeWork
    listing: Listing
    retried: int
    """Shards of which only rejected samples are encoded."""


def run(job: Encode) -> None:
    """Encodes what is left of the source and prints a summary.

    Raises:
        VqpipeError: If the run could not be completed; the exit code is the error's.
    """
    with _stoppable():
        _run(job, Console(stderr=True, highlight=False))


def _run(job: Encode, console: Console) -> None:
    prepared = _prepare(job)
    _introduce(console, prepared)
    work = prepared.work
    progress = Progress(
        shards_total=len(work.writer.plan),
        shards_before=len(work.writer.plan) - len(work.todo),
        bytes_total=sum(work.writer.plan.size(index) for index in work.todo),
    )
    error: IncompleteError | None = None
    if work.todo:
        try:
            _encode(job, work, progress, console)
            _check_revised(work, progress)
        except IncompleteError as stopped:  # the summary says how far it came
            error = stopped
    summary.finish(work.writer, progress, job.max_rejected, error)


def _check_revised(work: EncodeWork, progress: Progress) -> None:
    """Checks that every shard whose rejected samples were tried again is through.

    All of them had their objects before, so that the totals do not show it.
    """
    attempt = work.writer.attempt
    left = len(attempt.shards - progress.committed) if attempt else 0
    if left:
        raise IncompleteError(
            f"of {left:,} shard(s), the samples that were tried again are not through, since "
            "another command on this sink came to its end meanwhile: run the same command again"
        )


def _prepare(job: Encode) -> _Prepared:
    """Returns what is to be done, with plan and identity frozen in the sink."""
    source, sink = storage.normalise_uri(job.source), storage.normalise_uri(job.sink)
    _check_places(source, sink)
    weights = job.load_weights()
    grid = grid_of(job.resolution, weights)
    selection = Selection(job.image, job.key, job.keep)
    begun, planned = find_run(sink), find_plan(sink)
    listing = list_shards(source, job.format, planned=planned.shards() if planned else ())
    kept = kept_schema(listing, selection)
    listed = Plan.of(listing.shards)
    codec, findings = settle_codec(job, begun, weights)
    identity = identity_of(job, source, listing.format, weights, codec)
    if begun and job.retry_rejected:  # the one choice that may change: what is refused unopened
        identity["max_pixels"] = begun.identity.get("max_pixels")
    asked = Run(
        identity, facts_of(job, weights, grid, kept) | {"doctor": findings}, listed.sha256()
    )
    run, frozen = start_run(sink, asked, listed, Growth(job.extend, job.replace_changed))
    check_kept(run, kept)
    codes = schema.codes_field(weights.config.num_vq_embeddings, grid)
    left = todo.unfinished(sink, run, frozen)
    again = todo.retriable(sink, frozen, left) if job.retry_rejected else {}
    _check_limit(job, run, left)
    writer = Writer(sink, run, frozen, kept, codes, _attempt(job, again))
    if left or again:
        storage.delete(layout.success_uri(sink))
    work = EncodeWork(
        writer=writer,
        selection=selection,
        preprocess=Preprocess(job.resolution, job.resample, job.background, job.max_pixels),
        codec=codec,
        weights=weights,
        todo=left | again,
    )
    return _Prepared(work, listing, len(again))


def _check_limit(job: Encode, run: Run, left: dict[int, Staged]) -> None:
    """Checks that shards which are encoded for the first time are so under the run's own limit."""
    limit = run.identity["max_pixels"]
    if left and job.max_pixels != limit:
        raise ConfigError(
            f"{len(left):,} shard(s) are not encoded yet, and the run's --max-pixels is {limit}: "
            "run the command without --retry-rejected and with that limit first"
        )


def _attempt(job: Encode, again: dict[int, Staged]) -> Attempt | None:
    if not again:
        return None
    facts = {"max_pixels": job.max_pixels, "pillow": version("pillow")}
    return Attempt(f"r{uuid.uuid4().hex}", frozenset(again), facts)


def _check_places(source: str, sink: str) -> None:
    if sink == source or f"{sink}/".startswith(f"{source}/"):
        raise ConfigError(
            f"the sink {sink} is inside the source {source}, so that the next run would read its "
            "output; put it beside the source"
        )


def _introduce(console: Console, prepared: _Prepared) -> None:
    """Says what was found and what is about to happen."""
    work, listing = prepared.work, prepared.listing
    writer, size = work.writer, sum(file.size for shard in listing.shards for file in shard.files)
    fields: list[tuple[str, object]] = [
        ("source", f"{listing.format}, {size / 1e6:,.1f} MB in {len(listing.shards):,} shard(s)"),
        ("model", f"{work.weights.where}, {writer.codebook_size:,} codes"),
        (
            "pixels",
            f"{work.preprocess.resolution} px, {work.codec.pixel_range} range, {work.codec.dtype}",
        ),
        ("doctor", _describe_findings(writer.run.facts["doctor"])),
        ("sink", writer.sink),
        ("left to do", _describe_left(prepared)),
    ]
    if listing.ignored:
        others = (f"{count:,} {name or 'nameless'}" for name, count in listing.ignored.items())
        fields.append(("not read", "other files beside the shards: " + ", ".join(others)))
    if not check_creates_once(writer.sink, writer.run):
        fields.append(
            ("take care", "this store ignores create-if-absent: run one command at a time")
        )
    print_fields(console, "encode", fields)


def _describe_left(prepared: _Prepared) -> str:
    total, again = len(prepared.work.writer.plan), prepared.retried
    left = f"{len(prepared.work.todo) - again:,} of {total:,} shard(s)"
    return left + (f", and rejected samples of {again:,} other(s) to try again" if again else "")


def _describe_findings(findings: dict[str, Any] | None) -> str:
    if findings is None:
        return "skipped"
    seen = RangeProbe(findings["psnr_db"]).describe()
    flips = findings.get("flips")
    return seen if flips is None else f"{seen}; {flips:.2%} of their codes are unlike float32's"


def _encode(job: Encode, work: EncodeWork, progress: Progress, console: Console) -> None:
    """Runs the graph to its end and keeps the display and the error budget."""
    resources = Resources(
        address=job.address or os.environ.get("RAY_ADDRESS"),
        device=job.device,
        actors=job.actors,
        batch_size=job.batch_size,
        stall_timeout_s=job.stall_timeout_s,
    )
    with cluster.connect(resources.address) as log_folder, _stoppable():  # Ray sets handlers too
        console.print(f"  Ray's logs are in {log_folder}", style="dim", markup=False)
        with Display(console, "encode") as display:
            display.show(progress)
            for tick in engine.encode(work, resources):
                if tick.counts.devices != progress.devices:
                    console.print(_describe_devices(tick.counts), style="dim", markup=False)
                _count(progress, tick)
                display.show(progress)
                if _can_judge(job, progress):
                    summary.check_budget(job.max_rejected, progress.reasons, progress.durable)


def _can_judge(job: Encode, progress: Progress) -> bool:
    """Tells whether the rejections so far say something of the run.

    Those of samples that were rejected before do not; the totals at the end do.
    """
    if job.retry_rejected:
        return False
    return progress.durable >= _ENOUGH_TO_JUDGE or job.max_rejected >= 1


def _describe_devices(counts: Counts) -> str:
    warm_up = f", warmed up in {counts.warm_up_s:.1f} s" if counts.warm_up_s >= 1 else ""
    return f"  encoding on {', '.join(counts.devices)}{warm_up}"


def _count(progress: Progress, tick: engine.Tick) -> None:
    if tick.counts.devices and progress.start_up_s is None:
        progress.start_up_s = progress.seconds
    progress.devices = tick.counts.devices
    progress.encoded = tick.counts.encoded
    progress.read, progress.read_bytes = tick.counts.read, tick.counts.read_bytes
    for receipt in tick.receipts.to_pylist() if tick.receipts else ():
        progress.durable += receipt["encoded"] + receipt["rejected"]
        progress.reasons.update(receipt["reasons"])
        if receipt["committed"] is not None:
            progress.commit(receipt["shard"])


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns SIGTERM, with which spot machines are reclaimed, and Ctrl-C into a clean stop."""

    def stop(number: int, _: FrameType | None) -> None:
        raise IncompleteError(
            f"stopped by {signal.Signals(number).name}; everything committed is safe: run the same "
            "command again to finish"
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from jobs.cli import end_with, main

    end_with(main(["encode", *sys.argv[1:]]))
