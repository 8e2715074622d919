"""What a run tells Prometheus, without Ray: numbers that note what they are told."""

from collections import Counter as Multiset
from types import SimpleNamespace

import pytest

from vqpipe.engine import metrics
from vqpipe.engine.counter import Tally
from vqpipe.engine.metrics import CodecMetrics, RunMetrics, tags_of
from vqpipe.occupancy import Setting, Spent

TAGS = tags_of("encode", "0123456789abcdef")


class Numbers:
    """In the place of Ray's: has the value of each, by name and tags beside those of the run."""

    def __init__(self):
        self.values, self.seen = Multiset(), []

    def of(self, name, tag_keys):
        assert tag_keys[:2] == ("stage", "run")

        def key(tags):
            assert set(tags or ()) == set(tag_keys[2:])
            return (name, *(tags or {}).values())

        def inc(more, tags=None):
            assert more > 0
            self.values[key(tags)] += more

        def put(value, tags=None):
            self.values[key(tags)] = value

        made = SimpleNamespace(inc=inc, set=put, observe=self.seen.append)
        made.set_default_tags = lambda tags: made if tags == TAGS else pytest.fail(str(tags))
        return made

    def __getitem__(self, key):
        return self.values[f"vqpipe_{key[0]}", *key[1:]]


@pytest.fixture
def numbers(monkeypatch):
    found = Numbers()

    def make(name, said, tag_keys, **_):
        assert said
        return found.of(name, tag_keys)

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, make)
    return found


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def receipt(good=0, reasons=(), left_out=0, committed=None):
    return {
        "good": good,
        "reasons": list(reasons),
        "rejected": len(reasons),
        "left_out": left_out,
        "committed": committed,
    }


def test_tags_are_stage_and_the_start_of_the_fingerprint():
    assert TAGS == {"stage": "encode", "run": "0123456789ab"}


def test_metrics_count_what_came_since_the_last_time(numbers, clock):
    told = RunMetrics(TAGS, Setting("cuda"), shards=5)
    for images in (10, 30):
        clock.now += 1
        spent = Spent(fetched_bytes=100 * images, written_bytes=images)
        told.note(Tally(read=images + 4, opened=images + 2, encoded=images, spent=spent), [])
    assert numbers["encoded_images_total",] == 30
    assert numbers["opened_images_total",] == 32
    assert numbers["read_samples_total",] == 34
    assert (numbers["read_bytes_total",], numbers["written_bytes_total",]) == (3000, 30)
    assert (numbers["queue_images",], numbers["shards_left",]) == (2, 5)


@pytest.mark.usefixtures("clock")
def test_metrics_count_what_became_safe_and_reasons(numbers):
    told = RunMetrics(TAGS, Setting("cpu"), shards=5)
    first = receipt(5, ["corrupt", "corrupt", "empty"], committed=8)
    told.note(Tally(opened=20, encoded=6), [first, receipt(1, left_out=2)])
    assert numbers["images_total",] == 6
    assert numbers["rejections_total", "corrupt"] == 2
    assert numbers["rejections_total", "empty"] == 1
    assert numbers["left_out_total",] == 2
    assert (numbers["committed_shards_total",], numbers["shards_left",]) == (1, 4)
    assert numbers["queue_images",] == 20 - 6 - 3 - 2


@pytest.mark.usefixtures("clock")
def test_metrics_tell_counts_once_a_second_at_most_and_receipts_at_once(numbers):
    told = RunMetrics(TAGS, Setting("cpu"), shards=5)
    told.note(Tally(encoded=1), [])
    told.note(Tally(encoded=2), [])
    assert numbers["encoded_images_total",] == 1
    told.note(Tally(encoded=3), [receipt(1)])
    assert numbers["encoded_images_total",] == 3


@pytest.mark.usefixtures("clock")
def test_metrics_of_busy_and_of_all_seconds_make_the_occupancy(numbers):
    told = RunMetrics(TAGS, Setting("cuda"), shards=5)
    spent = Spent(
        read_s=6,
        asked_s=1,
        held_s=5,
        open_s=30,
        codec_s=9,
        full_s=2,
        seconds=10,
        core_s=40,
        codec_there_s=10,
    )
    told.note(Tally(spent=spent), [])
    found = {
        part: (numbers["busy_seconds_total", part], numbers["available_seconds_total", part])
        for part in ("reading", "opening", "codec", "committing")
    }
    assert found == {
        "reading": (6, 12),
        "opening": (30, 40),
        "codec": (9, 10),
        "committing": (2, 10),
    }


def test_metrics_say_what_bound_the_last_minute_and_not_the_hour_before(numbers, clock):
    told = RunMetrics(TAGS, Setting("cuda"), shards=5)
    opened = worked = 0
    for second in range(300):
        clock.now += 1
        opened, worked = (opened, worked + 1) if second < 150 else (opened + 4, worked)
        spent = Spent(open_s=opened, core_s=4 * second, codec_s=worked, codec_there_s=second)
        told.note(Tally(encoded=second + 1, spent=spent), [])
        if second == 140:
            assert (numbers["bound", "codec"], numbers["bound", "opening"]) == (1, 0)
    assert (numbers["bound", "codec"], numbers["bound", "opening"]) == (0, 1)


def test_metrics_say_of_nothing_that_it_binds_before_half_a_minute(numbers, clock):
    told = RunMetrics(TAGS, Setting("cuda"), shards=5)
    for second in range(29):
        clock.now += 1
        told.note(Tally(encoded=9, spent=Spent(codec_s=second, codec_there_s=second)), [])
    assert not any(numbers["bound", part] for part in metrics.PARTS)


def test_codec_metrics_tell_batches_and_of_a_gpu_what_is_known(numbers):
    told = CodecMetrics(TAGS)
    told.time_batch(0.5)
    told.show_gpu(None, None)
    assert numbers.seen == [0.5]
    assert ("vqpipe_gpu_utilization_ratio",) not in numbers.values
    told.show_gpu(0.9, (10, 80))
    assert numbers["gpu_utilization_ratio",] == 0.9
    assert (numbers["gpu_memory_peak_bytes",], numbers["gpu_memory_size_bytes",]) == (10, 80)
