"""Reads shards, each in a process of its own, and prints what came out and what it took.

python -m tests.images.peak shard.tar other.parquet     a line of JSON each
"""

import json
import os
import sys
import time
from pathlib import Path

from vqpipe.errors import VqpipeError
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, list_shards, read_shard


def _read(path):
    started, before = time.monotonic(), _peak_mb()
    count, image_bytes, last, error = 0, 0, None, None
    try:
        listing = list_shards(path)
        selection = Selection("jpg" if listing.format == "parquet" else None)
        kept = kept_schema(listing, selection)
        for shard in listing.shards:
            for sample in read_shard(shard, selection, kept):
                assert sample.row == count
                count, last = count + 1, sample
                image_bytes += len(sample.data or b"")
    except VqpipeError as caught:
        error = type(caught).__name__, str(caught)
    rejection = last and last.rejection
    return {
        "samples": count,
        "image_bytes": image_bytes,
        "reason": rejection and rejection.reason,
        "message": rejection and rejection.message,
        "error": error,
        "peak_mb": _peak_mb() - before,
        "seconds": time.monotonic() - started,
    }


def _peak_mb():
    """Returns the most memory that this program took; getrusage's is that of its parent, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(paths):
    for path in paths:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            print(json.dumps(_read(path)))
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"died": status}))


if __name__ == "__main__":
    main(sys.argv[1:])
