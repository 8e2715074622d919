"""As many plain processes as cores that read, open and resize images, each of shards of its own."""

import sys

import pyarrow as pa

from tests.benchmarks import curve
from tests.benchmarks.peers import processes
from vqpipe.images import Preprocess, open_image, square
from vqpipe.schema import Selection
from vqpipe.sources import list_shards, read_shard


def work(source, part, parts):
    how, count = Preprocess(square(256)), 0
    for shard in list(list_shards(source).shards)[part::parts]:
        for sample in read_shard(shard, Selection(), pa.schema([])):
            open_image(sample.data, how)
            count += 1
            if count % 64 == 0:
                curve.note(64)


def main(source, _):
    processes.run(work, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
