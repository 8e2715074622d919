"""The graph of `vqpipe encode`, with a stub in place of the network.

The stub takes the place of a GPU, so blocks have the sizes that they have with one.
"""

import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow as pa

from tests.benchmarks import curve
from tests.sink.runs import facts_of_codes, make_run
from vqpipe import schema
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.engine import cluster, graph
from vqpipe.engine.resources import Resources
from vqpipe.images import Preprocess, square
from vqpipe.schema import Selection
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.sources import list_shards
from vqpipe.stages.encode import CodesProduct, Encoding
from vqpipe.stages.read import SampleReader
from vqpipe.stages.work import Work

RESOLUTION, GRID, CODEBOOK = 256, 16, 16_384
CHECKPOINT = Path(__file__).parents[3] / "infra" / "demo" / "checkpoint"


class StubCodec:
    """Codes at no cost: what is left is the pipeline."""

    def __init__(self, *_, **__):
        pass

    def warm_up(self, *_):
        return 0.0

    def encode_vectors(self, images, vectors, on_batch):  # noqa: ARG002 (there are none)
        on_batch(len(images))
        curve.note(len(images))
        return np.zeros((len(images), GRID, GRID), np.int64), np.ones(len(images), bool)


def work_of(source, sink):
    """Returns the work of encoding a source into a new sink."""
    frozen = Plan.of(list_shards(source).shards)
    layout = CodeLayout.grid(GRID, GRID, CODEBOOK)
    facts = facts_of_codes(layout)
    opened = start_run(sink, make_run(plan_sha256=frozen.sha256(), facts=facts), frozen, Growth())
    codes = schema.codes_field(layout)
    kept = pa.schema([])
    return Work(
        writer=Writer(opened, CodesProduct(kept, codes, layout)),
        reader=SampleReader(Selection(), kept),
        opens=Preprocess(square(RESOLUTION)),
        step=Encoding(codes, CodecConfig(), square(RESOLUTION), audit=0.0),
        weights=Weights.load(str(CHECKPOINT)),
        todo={index: Staged() for index in range(len(frozen))},
    )


def main(source, sink):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    graph.BLOCK_IMAGES["cpu"] = graph.BLOCK_IMAGES["cuda"]
    with cluster.connect(None):
        for _ in graph.run(work_of(source, sink), Resources(), codec=StubCodec):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
