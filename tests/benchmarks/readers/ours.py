"""`vqpipe.CodesDataset`."""

import vqpipe
from tests.benchmarks.readers import BATCH


def prepare(sink, place):
    place.symlink_to(sink)


def open_epochs(place, cache, workers, seen=0, **options):
    how = {"columns": ["codes"], "batch_size": BATCH, "seed": 1, "cache": cache, **options}
    data = vqpipe.CodesDataset(str(place), **how)
    batches = data.loader(num_workers=workers) if workers else data

    def epoch(number):
        batches.set_epoch(number)
        if seen:  # goes on in the middle
            batches.load_state_dict({**data.state_dict(), "seen": seen})
        for batch in batches:
            yield batch["codes"]

    return epoch
