"""Who reads what, and how many shards at a time."""

import random

import pytest

from vqpipe.engine.portions import TASK_BYTES, are_enough, portions


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10] * 32, True),
        ([10] * 31, False),
        ([2**30] * 32, True),
        ([2**31] * 32, False),
        ([10] * 63 + [60 * 2**30], False),  # seven cores would have nothing to do
        ([10] * 63 + [90], True),
        ([], False),
    ],
)
def test_shards_are_enough_for_cores_that_read_what_they_open(sizes, expected):
    assert are_enough(sizes, cores=8) is expected


@pytest.mark.parametrize(
    ("sizes", "cores", "expected"),
    [
        ([10] * 20, 2, [5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]),
        ([10] * 5, 0.5, [2, 1, 1, 1]),  # of a core; there is one all the same
        ([TASK_BYTES // 2] * 20, 2, [2] * 7 + [1] * 6),
        ([TASK_BYTES + 1] * 3, 1, [1, 1, 1]),
        ([100] * 4 + [10] * 12, 1, [2, 1, 2, 5, 3, 1, 1, 1]),  # large ones first
        ([10] * 12 + [100] * 4, 1, [8, 4, 2, 1, 1]),
        ([0] * 8, 1, [4, 2, 1, 1]),
        ([10] * 3, float("inf"), [1, 1, 1]),
        ([], 2, []),
    ],
)
def test_portions_are_many_at_first_and_one_at_the_end(sizes, cores, expected):
    assert list(portions(sizes, cores)) == expected


@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize(
    "sizes", [[100] * 10 + [10] * 30, [10] * 30 + [100] * 10, [64] * 16 + [4] * 240]
)
def test_portions_leave_no_core_at_work_for_long_after_the_others(sizes, cores):
    """Each task goes to whoever is done first, as Ray has it."""
    ends, left = [0] * cores, iter(sizes)
    for count in portions(sizes, cores):
        first = ends.index(min(ends))
        ends[first] += sum(next(left) for _ in range(count))
    assert max(ends) - min(ends) <= max(sizes)


@pytest.mark.parametrize("count", [1, 7, 400, 99_999])
@pytest.mark.parametrize("cores", [1, 3, 640, float("inf")])
def test_portions_are_all_shards_and_never_too_many_tasks(count, cores):
    rng = random.Random(count)
    found = list(portions([rng.randrange(2**28) for _ in range(count)], cores))
    assert sum(found) >= count > sum(found[:-1])
    assert min(found) >= 1
    assert len(found) <= 10_000
