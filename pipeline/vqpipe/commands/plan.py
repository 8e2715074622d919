"""Say what a run would take, before anybody pays for it: measured on a few images, and worked out.

find_asked      source, model, sink, as vqpipe encode finds them; nothing is written
census          how many images that is
sample, measure a few of them read, opened, encoded and made into an object, with a watch beside
rehearsal       Ray started once; on a cluster, opening and codec measured there
forecast        all the rest is arithmetic
"""

import functools
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from vqpipe import storage
from vqpipe.codec.codec import Codec
from vqpipe.codec.placed import place_codec
from vqpipe.commands.console import print_fields, print_warning, stderr, stdout
from vqpipe.commands.encode import Asked, find_asked
from vqpipe.commands.forecast_said import Forecast, describe, document
from vqpipe.commands.launch import growth_of, pick_gpus, resources_of, stoppable
from vqpipe.commands.plan_job import Plan
from vqpipe.commands.progress import announce
from vqpipe.engine import capacity, cluster, rehearsal
from vqpipe.engine.gpus import choose_gpus
from vqpipe.engine.surroundings import environment
from vqpipe.errors import ConfigError
from vqpipe.inspection import forecast
from vqpipe.sink.plan import Plan as Shards
from vqpipe.sink.ranges import Staged
from vqpipe.sink.run import Opened
from vqpipe.sink.start import foresee_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.census import count_images, judge_by_bytes
from vqpipe.stages.measure import measure_coding, measure_opening, measure_writing
from vqpipe.stages.measured import Coding, Measured, Opening, Reading, StartUp
from vqpipe.stages.read import SampleReader
from vqpipe.stages.sample import FirstRows, pick_shards, take_sample
from vqpipe.stages.work import Work

_REHEARSED_SHARDS, _REHEARSED_IMAGES = 16, 8
_YOUNG_S = 120.0


def run(job: Plan) -> None:
    """Prints what a run would take.

    Raises:
        VqpipeError: If the run would be refused, or a few images show that it cannot go on.
    """
    found = find(job)
    if job.json:
        print(json.dumps(document(found)))  # noqa: T201
        return
    print_fields(stdout(), "plan", describe(found))


def find(job: Plan) -> Forecast:
    """Returns what a run would take.

    Raises:
        VqpipeError: As `run`.
    """
    age_s, began = _age_s(), time.monotonic()
    with (
        stoppable(),
        environment(choose_gpus(pick_gpus(job))),
        tempfile.TemporaryDirectory(prefix="vqpipe-plan-") as folder,
    ):
        here = replace(job, sink=job.sink or f"{folder}/sink")
        asked = find_asked(here)
        opened = foresee_run(asked.sink, asked.run, asked.listed, growth_of(here))
        work, _ = asked.work(here, opened)
        command_s = age_s + time.monotonic() - began
        scene = _Scene(here, asked, work, folder, command_s)
        return scene.forecast(job) if work.todo else Forecast(job, asked, work, None)


def _age_s() -> float:
    """Returns the seconds since this process began, if it began for this command, as it seems.

    A program that calls a function has imported what it takes, and is older as a rule.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        since = time.process_time()
    return since if since < _YOUNG_S else 0.0


@dataclass(frozen=True)
class _Scene:
    """What there is to measure."""

    job: Plan
    asked: Asked
    work: Work
    folder: str
    """For what a rehearsal writes."""
    command_s: float

    def forecast(self, job: Plan) -> Forecast:
        """Returns what a run would take, measured on a few images.

        Args:
            job: What was asked for, as it was.
        """
        announce("counting the images of", len(self.work.todo))
        census = count_images(self.work, self.job.limit)
        rows, reading = take_sample(self.work, self.job.sample)
        if not len(rows):
            raise ConfigError("not one image could be read of what is left to do")
        census = census or judge_by_bytes(self.work, reading)
        measured = self._measure(rows, reading)
        listing = self.asked.found.listing
        todo = forecast.Work(census, listing.format, self._count_files(listing.format))
        return Forecast(job, self.asked, self.work, _make(job, todo, measured))

    def _count_files(self, fmt: str) -> int:
        """Returns of how many files the shards are that are left."""
        if fmt != "folder":
            return len(self.work.todo)
        plan = self.work.writer.sink.plan
        return sum(len(plan.shard(index).images) for index in self.work.todo)

    def _measure(self, rows: pa.Table, reading: Reading) -> Measured:
        if cluster.check_address(self.job.address):
            opening, coded, coding = self._measure_here(rows)
            start_up, cores = self._rehearse(), capacity.cores()
        else:
            there = rehearsal.measure_there(rows, self.work, resources_of(self.job))
            opening, coded, coding = there.opening, there.coded, there.coding
            start_up, cores = there.start_up, there.cores
            for said in there.notes:
                print_warning(stderr(), said)
        return Measured(
            reading=reading,
            opening=opening,
            coding=coding if coding.views else None,
            writing=measure_writing(coded, self.work.writer) if len(coded) else None,
            start_up=start_up,
            views=self.work.writer.product.views,
            cores=cores,
            command_s=self.command_s,
        )

    def _measure_here(self, rows: pa.Table) -> tuple[Opening, pa.Table, Coding]:
        how = self.asked.how
        placed = place_codec(
            functools.partial(Codec, self.asked.weights),
            self.job.device,
            batch_size=self.job.batch_size,
            shapes=len(how.shapes),
            threads=capacity.cores(),
        )
        opened, opening = measure_opening(rows, how, capacity.cores())
        coded, coding = measure_coding(opened, self.asked.step, placed)
        return opening, coded, coding

    def _rehearse(self) -> StartUp:
        """Runs a few images through the graph, into a folder that is gone afterwards."""
        plan, reader = self.work.writer.sink.plan, self.work.reader
        assert isinstance(reader, SampleReader), "as it was prepared"
        most = min(_REHEARSED_SHARDS, 4 * capacity.cores())
        few = Shards.of(plan.shard(index) for index in pick_shards(self.work, most))
        sink = Opened(storage.normalise_uri(f"{self.folder}/codes"), self.asked.run, few)
        each = -(-_REHEARSED_IMAGES // len(few))
        work = replace(
            self.work,
            writer=Writer(sink, self.work.writer.product),
            reader=FirstRows(reader, each),
            todo={index: Staged() for index in range(len(few))},
        )
        return rehearsal.rehearse(work, resources_of(self.job))


def _make(job: Plan, work: forecast.Work, measured: Measured) -> forecast.Outlook:
    """Returns what follows from what was measured."""
    prices = forecast.Prices(
        gpu_hour=job.gpu_price,
        core_hour=job.cpu_price,
        reads=job.get_price,
        writes=job.put_price,
        gb_month=job.storage_price,
    )
    stores = tuple("://" in (uri or job.source) for uri in (job.source, job.sink))
    return forecast.foresee(work, measured, job.for_gpus, job.cores, (prices, stores))
