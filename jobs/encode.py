"""Encode image shards into Parquet shards of discrete codes."""

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from types import FrameType
from typing import Any, Literal

from rich.console import Console

from jobs import summary
from jobs.console import print_fields
from jobs.model import ModelOptions
from pipeline import cluster, doctor, engine, plan, schema, storage
from pipeline.codec import CodecConfig, Device, DType
from pipeline.commit import Writer
from pipeline.doctor import AskedRange, RangeProbe
from pipeline.engine import EncodeWork, Resources
from pipeline.errors import ConfigError, IncompleteError
from pipeline.images import Preprocess
from pipeline.plan import Plan, Run, Staged
from pipeline.progress import Display, Progress
from pipeline.schema import Selection
from pipeline.sources import Listing, kept_schema, list_shards
from pipeline.tasks import Counts
from pipeline.weights import Weights

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
    skip_doctor: bool = False
    """[speed] Start without looking how the model reconstructs photos; needs --pixel-range."""
    address: str | None = None
    """[speed] Ray cluster to join, such as auto or head:6379; default: RAY_ADDRESS, else this
    machine alone."""
    stall_timeout_s: float = 900.0
    """[speed] Seconds without any progress before the run gives up with exit code 5."""

    def __post_init__(self) -> None:
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


def run(job: Encode) -> None:
    """Encodes what is left of the source and prints a summary.

    Raises:
        VqpipeError: If the run could not be completed; the exit code is the error's.
    """
    console = Console(stderr=True, highlight=False)
    work, listing = _prepare(job)
    _introduce(console, work, listing)
    progress = Progress(
        shards_total=len(work.writer.plan),
        shards_before=len(work.writer.plan) - len(work.todo),
        bytes_total=sum(work.writer.plan.size(index) for index in work.todo),
    )
    devices: tuple[str, ...] = ()
    error: IncompleteError | None = None
    if work.todo:
        try:
            devices = _encode(job, work, progress, console)
        except IncompleteError as stopped:  # the summary says how far it came
            error = stopped
    summary.finish(work.writer, progress, devices, job.max_rejected, error)


def _prepare(job: Encode) -> tuple[EncodeWork, Listing]:
    """Returns what is to be done, with plan and identity frozen in the sink."""
    source, sink = storage.normalise_uri(job.source), storage.normalise_uri(job.sink)
    _check_places(source, sink)
    weights = job.load_weights()
    grid = _grid(job, weights)
    selection = Selection(job.image, job.key, job.keep)
    listing = list_shards(source, job.format)
    kept = kept_schema(listing, selection)
    listed = Plan.of(listing.shards)
    codec, findings = _settle_codec(job, sink, weights)
    identity = _identity(job, source, listing.format, weights, codec)
    facts = _facts(weights, grid) | {"doctor": findings}
    run = plan.start_run(sink, Run(identity, facts, listed.sha256()), listed)
    frozen = plan.load_plan(sink)
    plan.check_frozen(sink, run, frozen)
    codes = schema.codes_field(weights.config.num_vq_embeddings, grid)
    how = Preprocess(job.resolution, job.resample, job.background, job.max_pixels)
    work = EncodeWork(
        writer=Writer(sink, run, frozen, kept, codes),
        selection=selection,
        preprocess=how,
        codec=codec,
        weights=weights,
        todo=_todo(sink, frozen),
    )
    return work, listing


def _check_places(source: str, sink: str) -> None:
    if sink == source or f"{sink}/".startswith(f"{source}/"):
        raise ConfigError(
            f"the sink {sink} is inside the source {source}, so that the next run would read its "
            "output; put it beside the source"
        )


def _grid(job: Encode, weights: Weights) -> tuple[int, int]:
    """Returns rows and columns of the code grid."""
    factor = weights.config.downsample_factor
    if job.resolution % factor:
        nearest = max(factor, round(job.resolution / factor) * factor)
        raise ConfigError(
            f"--resolution {job.resolution} is no multiple of {factor}, the pixels per code of "
            f"this model; use {nearest}"
        )
    if weights.config.in_channels != 3:
        raise ConfigError(f"the model takes {weights.config.in_channels} channels, not RGB's 3")
    return job.resolution // factor, job.resolution // factor


def _settle_codec(
    job: Encode, sink: str, weights: Weights
) -> tuple[CodecConfig, dict[str, Any] | None]:
    """Returns how pixels become codes, and what the doctor found out about it.

    A sink that has a run of these weights has settled it already.
    """
    begun = plan.find_run(sink)
    identity = begun.identity if begun else {}
    findings = None
    if identity.get("model_sha256") == weights.sha256():
        settled = identity["pixel_range"] if job.pixel_range == "auto" else job.pixel_range
    elif job.pixel_range == "auto" or not job.skip_doctor:
        settled, findings = doctor.check_start(weights, job.dtype, job.pixel_range)
    else:
        settled = job.pixel_range
    how = CodecConfig(dtype=job.dtype, pixel_range=settled, eager=job.eager)
    return how, findings


def _identity(
    job: Encode, source: str, fmt: str, weights: Weights, codec: CodecConfig
) -> dict[str, Any]:
    """Returns every choice that changes results."""
    return {
        "stage": "encode",
        "source": source,
        "format": fmt,
        "image": job.image,
        "key": job.key,
        "keep": list(job.keep),
        "resolution": job.resolution,
        "resample": job.resample,
        "background": list(job.background),
        "max_pixels": job.max_pixels,
        **asdict(codec),
        "model_sha256": weights.sha256(),
        "model_config": json.loads(json.dumps(asdict(weights.config))),  # tuples become lists
    }


def _facts(weights: Weights, grid: tuple[int, int]) -> dict[str, Any]:
    packages = ("vqpipe", "ray", "torch", "pyarrow", "pillow", "numpy")
    return {
        "grid": list(grid),
        "codebook_size": weights.config.num_vq_embeddings,
        "downsample_factor": weights.config.downsample_factor,
        "model": weights.where,
        "model_commit": weights.commit,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _todo(sink: str, frozen: Plan) -> dict[int, Staged]:
    done, staged = plan.committed(sink), plan.staged(sink)
    names = enumerate(frozen.names)
    return {i: staged.get(name, Staged()) for i, name in names if name not in done}


def _introduce(console: Console, work: EncodeWork, listing: Listing) -> None:
    """Says what was found and what is about to happen."""
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
        ("left to do", f"{len(work.todo):,} of {len(writer.plan):,} shard(s)"),
    ]
    if listing.ignored:
        others = (f"{count:,} {name or 'nameless'}" for name, count in listing.ignored.items())
        fields.append(("not read", "other files beside the shards: " + ", ".join(others)))
    if not plan.check_creates_once(writer.sink, writer.run):
        fields.append(
            ("take care", "this store ignores create-if-absent: run one command at a time")
        )
    print_fields(console, "encode", fields)


def _describe_findings(findings: dict[str, Any] | None) -> str:
    if findings is None:
        return "skipped"
    seen = RangeProbe(findings["psnr_db"]).describe()
    flips = findings.get("flips")
    return seen if flips is None else f"{seen}; {flips:.2%} of their codes are unlike float32's"


def _encode(job: Encode, work: EncodeWork, progress: Progress, console: Console) -> tuple[str, ...]:
    """Runs the graph to its end and keeps the display and the error budget; returns devices."""
    resources = Resources(
        address=job.address or os.environ.get("RAY_ADDRESS"),
        device=job.device,
        actors=job.actors,
        batch_size=job.batch_size,
        stall_timeout_s=job.stall_timeout_s,
    )
    devices: tuple[str, ...] = ()
    with cluster.connect(resources.address) as log_folder, _stoppable():  # Ray sets handlers too
        console.print(f"  Ray's logs are in {log_folder}", style="dim", markup=False)
        with Display(console, "encode") as display:
            display.show(progress)
            for tick in engine.encode(work, resources):
                if tick.counts.devices != devices:
                    devices = tick.counts.devices
                    console.print(_describe_devices(tick.counts), style="dim", markup=False)
                _count(progress, tick)
                display.show(progress)
                if progress.durable >= _ENOUGH_TO_JUDGE or job.max_rejected >= 1:
                    summary.check_budget(job.max_rejected, progress.rejected, progress.durable)
    return devices


def _describe_devices(counts: Counts) -> str:
    warm_up = f", warmed up in {counts.warm_up_s:.1f} s" if counts.warm_up_s >= 1 else ""
    return f"  encoding on {', '.join(counts.devices)}{warm_up}"


def _count(progress: Progress, tick: engine.Tick) -> None:
    if tick.counts.devices and progress.start_up_s is None:
        progress.start_up_s = progress.seconds
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
    from jobs.cli import main

    sys.exit(main(["encode", *sys.argv[1:]]))
