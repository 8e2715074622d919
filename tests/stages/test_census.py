"""How many images there are, judged by some of the shards: against sources that were counted."""

import json
import random

import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from vqpipe.commands.encode import foresee
from vqpipe.commands.stage_jobs import Encode
from vqpipe.schema import Selection
from vqpipe.sources import list_shards
from vqpipe.sources.webdataset import scan_samples
from vqpipe.stages import census
from vqpipe.stages.census import Look, count_images, scale_up


def work_of(source, tmp_path, **options):
    job = Encode(
        source=str(source),
        sink=str(tmp_path / "sink"),
        model=str(shell.CHECKPOINT),
        pixel_range="signed",
        skip_doctor=True,
        resolution=16,
        **options,
    )
    return foresee(job)[0]


def write_tars(folder, counts, size=100):
    folder.mkdir()
    for place, count in enumerate(counts):
        photos = {f"{i:04d}.jpg": bytes(size) for i in range(count)}
        texts = {f"{i:04d}.txt": b"a caption" for i in range(count)}
        members = dict(sorted((photos | texts).items()))
        (folder / f"{place:03d}.tar").write_bytes(tar_of(members))


def test_scan_samples_whole_tar_is_counted_with_all_its_bytes(tmp_path):
    write_tars(tmp_path / "tars", [30])
    (shard,) = list_shards(str(tmp_path / "tars")).shards
    assert scan_samples(shard, Selection(), 2**30) == (30, shard.size)


def test_scan_samples_beginning_of_a_tar_is_whole_samples_with_their_own_bytes(tmp_path):
    write_tars(tmp_path / "tars", [300], size=5_000)
    (shard,) = list_shards(str(tmp_path / "tars")).shards
    samples, seen = scan_samples(shard, Selection(), 10**5)
    assert 16 <= samples < 30
    assert seen / samples == 512 + 5120 + 512 + 512  # headers, and contents in whole blocks


def test_count_images_of_a_few_tars_is_known(tmp_path):
    write_tars(tmp_path / "tars", [5, 0, 17])
    found = count_images(work_of(tmp_path / "tars", tmp_path))
    assert (found.images, found.is_exact, found.shards) == (22, True, 3)


def test_count_images_of_many_tars_is_within_its_spread(tmp_path, monkeypatch):
    counts = [random.Random(i).randint(20, 40) for i in range(60)]
    write_tars(tmp_path / "tars", counts)
    monkeypatch.setattr(census, "TARS", 12)
    found = count_images(work_of(tmp_path / "tars", tmp_path))
    assert found.looked_at == 12
    assert abs(found.images - sum(counts)) <= found.spread + 1


def test_count_images_of_a_limited_run_is_its_limit(tmp_path):
    write_tars(tmp_path / "tars", [20] * 4)
    assert count_images(work_of(tmp_path / "tars", tmp_path, limit=33), 33).images == 33


def test_count_images_of_a_folder_is_its_listing(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(7):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(16, 16))
    found = count_images(work_of(tmp_path / "photos", tmp_path))
    assert (found.images, found.is_exact) == (7, True)


def test_scale_up_spread_holds_the_truth_in_19_of_20_samples():
    """Of shards whose images go with their bytes, with noise: the estimator's own promise."""
    lots = random.Random(5)
    sizes = [lots.randint(10**6, 10**7) for _ in range(2000)]
    truth = [size / 10**4 * lots.uniform(0.8, 1.2) for size in sizes]
    held = 0
    for round_ in range(200):
        some = random.Random(round_).sample(range(2000), 32)
        looks = [Look(sizes[i], truth[i], is_whole=True) for i in some]
        images, spread = scale_up(looks, sum(sizes), 2000)
        held += abs(images - sum(truth)) <= spread
    assert 180 <= held <= 200


@pytest.mark.parametrize(("looks", "spread"), [(1, None), (2, 0.0)])
def test_scale_up_one_shard_of_several_tells_nothing_of_its_spread(looks, spread):
    assert scale_up([Look(10, 5.0, is_whole=True)] * looks, 20, 2) == (10.0, spread)


def test_census_of_some_tars_is_plain_numbers_as_json_has_them():
    looks = [Look(100, 10.5, is_whole=True), Look(200, 19.0, is_whole=False)]
    images, spread = scale_up(looks, 10_000, 64)
    said = json.loads(json.dumps([images, spread, spread == 0]))
    assert said == [images, spread, False]
