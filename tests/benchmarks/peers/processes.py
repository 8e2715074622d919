"""As many plain processes as cores, which share out the shards of a source."""

import multiprocessing

from vqpipe.engine import capacity


def run(work, source):
    """Runs `work(source, part, parts)` in a process for each part, and waits for all of them."""
    cores = capacity.cores()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(source, i, cores)) for i in range(cores)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
