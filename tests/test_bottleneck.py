"""The rule that names what a run was bound by, as arithmetic on occupancies."""

import itertools
from dataclasses import replace

import pytest

from vqpipe.bottleneck import BUSY, ENOUGH_S, IDLE, LEAD, find_bound
from vqpipe.occupancy import Occupancy, Setting, Spent

MINUTE = 60.0


def seen(*, kind="cuda", memory=None, images=6000, shards=6, seconds=MINUTE, **spent):
    """Returns the occupancy of a minute on 16 cores and one codec, in which so much was spent."""
    there = {"core_s": 16 * seconds, "codec_there_s": seconds}
    place = Setting(kind, gpu_memory=memory)
    return Occupancy.of(Spent(**{**there, **spent}), seconds, place, images=images, shards=shards)


def shares(reading=0.0, opening=0.0, codec=0.0, committing=0.0, **other):
    """Returns the occupancy of a minute in which parts were so busy."""
    return seen(
        read_s=16 * MINUTE * reading,
        held_s=16 * MINUTE * (1 - reading),
        open_s=16 * MINUTE * opening,
        codec_s=MINUTE * codec,
        full_s=MINUTE * committing,
        **other,
    )


def test_occupancy_is_what_was_spent_of_what_there_was():
    found = seen(read_s=240, asked_s=60, held_s=660, read_wait_s=120, open_s=240, codec_s=30)
    assert found.parts == {"reading": 0.25, "opening": 0.25, "codec": 0.5, "committing": 0.0}
    assert (found.reading_waits, found.cores, found.codecs) == (0.5, 16, 1)


def test_occupancy_of_half_a_reader_is_half_busy_however_much_it_reads():
    found = seen(read_s=MINUTE / 2)
    assert found.reading == 0.5


def test_occupancy_of_clocks_that_add_up_to_more_is_all_of_the_time():
    found = seen(open_s=20 * MINUTE, codec_s=61, full_s=61, read_wait_s=30, read_s=10)
    assert (found.opening, found.codec, found.committing, found.reading_waits) == (1, 1, 1, 1)


def test_spent_of_two_moments_is_their_difference():
    first, second = Spent(read_s=1, fetches=3), Spent(read_s=5, fetches=4, open_s=2)
    assert first.plus(second.minus(first)) == second


@pytest.mark.parametrize("part", ["reading", "opening", "codec", "committing"])
def test_bound_is_the_part_that_is_busy_while_the_others_wait(part):
    others = dict.fromkeys(("reading", "opening", "codec", "committing"), 0.3)
    bound = find_bound(shares(**{**others, part: 0.95}))
    assert bound.part == part
    assert "95%" in bound.sentence or "15.2 of 16 cores" in bound.sentence
    assert bound.advice


@pytest.mark.parametrize("pair", [*itertools.combinations(("reading", "opening", "codec"), 2)])
def test_bound_two_parts_at_their_limit_are_in_balance(pair):
    bound = find_bound(shares(**dict.fromkeys(pair, BUSY + LEAD / 2)))
    assert bound.part is None
    assert all(part in bound.sentence for part in pair)
    assert "gain little" in bound.advice


def test_bound_of_two_busy_parts_is_the_one_that_leads():
    assert find_bound(shares(codec=1.0, opening=BUSY + 0.05)).part == "codec"


def test_bound_where_nobody_is_busy_is_scheduling():
    bound = find_bound(shares(reading=0.2, opening=0.3, codec=IDLE - 0.01))
    assert bound.part == "scheduling"
    assert "same size" in bound.advice


def test_bound_where_nobody_stands_out_says_so_and_what_each_did():
    bound = find_bound(shares(opening=0.6, codec=0.7))
    assert (bound.part, bound.advice) == (None, "")
    assert "opening for 60%, codec for 70%" in bound.sentence


@pytest.mark.parametrize("part", ["opening", "codec", "committing"])
def test_bound_of_less_than_half_a_minute_is_not_told(part):
    assert find_bound(replace(shares(**{part: 1.0}), seconds=ENOUGH_S - 0.1)) is None
    assert find_bound(replace(shares(**{part: 1.0}), seconds=ENOUGH_S)).part == part


def test_bound_opening_tells_the_cores_that_a_gpu_needs():
    """16 cores keep it busy for a quarter of the time: four times as many for all of it."""
    assert "about 64 for a GPU" in find_bound(shares(opening=1.0, codec=0.25)).advice
    assert "about" not in find_bound(shares(opening=1.0, codec=0.0)).advice


def test_bound_codec_on_a_gpu_tells_what_nvml_said():
    memory = (20 * 2**30, 80 * 2**30)
    bound = find_bound(shares(codec=0.97, gpu_busy_s=54, gpu_seen_s=60, memory=memory))
    assert "90% busy by NVML, at most 20.0 of 80.0 GiB in use" in bound.sentence
    assert "--dtype bfloat16" in bound.advice
    assert "--batch-size" in bound.advice
    full = find_bound(shares(codec=0.97, memory=(79 * 2**30, 80 * 2**30)))
    assert "--batch-size" not in full.advice


def test_bound_codec_whose_device_waits_for_its_process_asks_for_larger_batches():
    bound = find_bound(shares(codec=0.97, device_s=30))
    assert bound.part == "codec"
    assert "50%" in bound.advice
    assert "larger --batch-size" in bound.advice
    assert "Another GPU" not in bound.advice


def test_bound_codec_on_a_cpu_asks_for_a_gpu():
    assert "A GPU would help" in find_bound(shares(codec=0.97, kind="cpu")).advice


def test_bound_reading_tells_bandwidth_from_latency_by_the_size_of_requests():
    waits = {"read_wait_s": 15 * MINUTE, "fetched_bytes": 6e9}
    large = find_bound(shares(reading=1.0, fetches=750, **waits))
    assert "100.0 MB/s, 12.5 requests/s of 8.00 MB and 1,200 ms" in large.sentence
    assert "more network" in large.advice
    small = find_bound(shares(reading=1.0, fetches=60_000, **waits))
    assert "larger tars" in small.advice


def test_bound_reading_that_does_not_wait_for_the_store_asks_for_cores():
    assert "cores" in find_bound(shares(reading=1.0, fetches=750, read_wait_s=60)).advice


def test_bound_reading_from_a_disk_says_nothing_of_requests():
    bound = find_bound(shares(reading=1.0, read_wait_s=15 * MINUTE, fetched_bytes=6e9))
    assert "requests" not in bound.sentence
    assert "disk" in bound.advice


def test_bound_committing_tells_a_slow_store_from_work():
    waits = {"commit_s": 240, "commit_wait_s": 200}
    slow = find_bound(shares(committing=1.0, written_bytes=6e8, **waits))
    assert "sink" in slow.advice
    assert "shards" not in slow.advice
    small = find_bound(shares(committing=1.0, written_bytes=6e5, **waits))
    assert "larger shards" in small.advice
    few = find_bound(shares(committing=1.0, written_bytes=6e5, images=6000, shards=200, **waits))
    assert "sink" in few.advice
    assert "larger shards" in few.advice
    assert "cores" in find_bound(shares(committing=1.0, commit_s=240, commit_wait_s=20)).advice


@pytest.mark.parametrize("busy", [{"reading": 1.0}, {"committing": 1.0}, {"codec": 0.1}])
def test_bound_of_shards_with_an_image_each_asks_for_larger_ones(busy):
    bound = find_bound(shares(**busy, images=6000, shards=6000))
    assert "fewer, larger shards" in bound.advice
    assert "fewer, larger shards" not in find_bound(shares(**busy)).advice


def test_bound_of_tiny_shards_that_keep_nobody_busy_all_the_time_is_scheduling():
    tiny = find_bound(shares(reading=0.66, opening=0.28, images=4000, shards=4000))
    assert tiny.part == "scheduling"
    assert find_bound(shares(reading=0.66, opening=0.28)).part is None
    assert find_bound(shares(reading=0.95, images=4000, shards=4000)).part == "reading"


def test_bound_without_images_to_open_is_found_among_the_rest():
    spent = Spent(codec_s=59, codec_there_s=60, core_s=960)
    found = Occupancy.of(spent, MINUTE, Setting("cuda", opens=False))
    assert "opening" not in found.parts
    assert find_bound(found).part == "codec"
