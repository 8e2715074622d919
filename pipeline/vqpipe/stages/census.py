"""How many images a command has before it: known where the source says so, else judged by some."""

from vqpipe.stages.work import Work
from vqpipe.storage.ahead import map_ahead

_READERS = 32


def count_claimed(work: Work) -> int | None:
    """Returns how many images are left to do, if every shard says how many it has.

    Tars do not, nor do Parquet files with lists of images.
    """
    plan = work.writer.sink.plan
    total = 0
    counts = map_ahead(lambda index: work.reader.rows(plan, index), work.todo, _READERS)
    for rows, staged in zip(counts, work.todo.values(), strict=False):
        if rows is None:
            return None
        total += max(0, rows - staged.count)
    return total
