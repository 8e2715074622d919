"""As many plain processes as cores that do what vqpipe's workers do up to the codec, without Ray.

What it lacks to the floor is the price of the sandbox and of the tables, what vqpipe lacks to it
the price of Ray and of the codes.
"""

import sys
from unittest.mock import MagicMock

import pyarrow as pa

from tests.benchmarks import curve
from tests.benchmarks.peers import processes
from vqpipe.engine import graph, tasks
from vqpipe.images import Preprocess, square
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sources import list_shards
from vqpipe.stages.read import SampleReader


def work(source, part, parts):
    plan = Plan.of(list_shards(source).shards)
    reader, nobody = SampleReader(Selection(), pa.schema([])), MagicMock()
    tables = (
        table
        for index in range(part, len(plan), parts)
        for table in reader.read(plan, index, Staged(), graph.BLOCK_IMAGES["cuda"], 0)
    )
    for table in tasks.open_ahead(tables, Preprocess(square(256)), nobody):
        curve.note(len(table))


def main(source, _):
    processes.run(work, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
