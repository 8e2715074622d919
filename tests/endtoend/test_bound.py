"""What a run was bound by, where that is slowed down on purpose: each part in turn."""

import io
import sys
import time
import uuid
from types import SimpleNamespace

import boto3
import cloudpickle
import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import curve
from tests.benchmarks.peers.ours import StubCodec, work_of
from tests.benchmarks.tars import build_tars
from tests.makers import tar_of
from tests.storage import fault_proxy
from tests.storage.fault_proxy import Faults
from vqpipe import storage
from vqpipe.bottleneck import ENOUGH_S, find_bound
from vqpipe.commands import launch
from vqpipe.commands.progress import Progress
from vqpipe.engine import cluster, committer, graph
from vqpipe.engine.resources import Resources

pytestmark = [pytest.mark.ray, pytest.mark.soak]


class SlowCodec(StubCodec):
    """Takes 20 ms for each image."""

    def encode_vectors(self, images, vectors, on_batch):
        for _ in images:
            time.sleep(0.02)
        return super().encode_vectors(images, vectors, on_batch)


@pytest.fixture(scope="module")
def place(s3_server, tmp_path_factory):
    """Ray, whose workers see the S3 server through a proxy, and a folder with 4,000 images."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cloudpickle.register_pickle_by_value(sys.modules[StubCodec.__module__])
    root = tmp_path_factory.mktemp("bound")
    images = build_tars(root / "tars", 4_000, 40)
    with fault_proxy.serve(s3_server) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        patch.setenv(curve.FILE, str(root / "curve"))
        storage.forget()
        with cluster.connect(None):
            yield SimpleNamespace(proxy=proxy, server=s3_server, images=images)
    cloudpickle.unregister_pickle_by_value(sys.modules[StubCodec.__module__])
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    storage.forget()


@pytest.fixture
def bucket(place):
    """An empty bucket behind the proxy."""
    name = f"bound-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=place.server).create_bucket(Bucket=name)
    yield name
    place.proxy.faults = Faults()


def bound_of(source, sink, codec=StubCodec):
    """Returns what a run was bound by, from what its driver saw."""
    work = work_of(str(source), str(sink))
    plan = work.writer.sink.plan
    progress = Progress(len(plan), sum(plan.size(index) for index in work.todo))
    for tick in graph.run(work, Resources(), codec=codec):
        launch._count(progress, tick)
        progress.note()
    assert progress.is_through
    seen = progress.occupancy
    bound = find_bound(seen)
    print(seen, bound, sep="\n")
    assert seen.seconds >= ENOUGH_S, "it was too fast to tell"
    return bound


def big_jpeg(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (150, 200, 3), np.uint8)
    image = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)
    image.save(file := io.BytesIO(), "JPEG", quality=85)
    return file.getvalue()


def test_bound_large_images_is_opening_and_asks_for_cores(place, tmp_path):  # noqa: ARG001
    source, jpeg = tmp_path / "source", big_jpeg(0)
    source.mkdir()
    for shard in range(20):
        members = {f"{shard}-{i}.jpg": jpeg for i in range(40)}
        (source / f"{shard:03}.tar").write_bytes(tar_of(members))
    bound = bound_of(source, tmp_path / "sink")
    assert bound.part == "opening"
    assert "More cores" in bound.advice


def test_bound_slow_codec_is_the_codec(place, tmp_path):
    assert bound_of(place.images, tmp_path / "sink", SlowCodec).part == "codec"


def test_bound_slow_store_of_the_source_is_reading(place, bucket, tmp_path):
    client = boto3.client("s3", endpoint_url=place.server)
    for path in place.images.iterdir():
        client.upload_file(str(path), bucket, path.name)
    source = f"s3://{bucket}"
    place.proxy.faults = Faults(delay_s=2.0, delayed=rf"(GET|HEAD) /{bucket}/\d")
    bound = bound_of(source, tmp_path / "sink")
    assert bound.part == "reading"
    assert "waited for the store" in bound.sentence
    assert "MB/s" in bound.sentence


def test_bound_slow_store_of_the_sink_is_committing(place, bucket, tmp_path, monkeypatch):
    source = build_tars(tmp_path / "source", 2_000, 40)  # which little else takes long
    monkeypatch.setattr(committer, "GATHER_S", 0.5)
    place.proxy.faults = Faults(delay_s=10.0, delayed=rf"PUT /{bucket}/sink/(data|staging)/")
    bound = bound_of(source, f"s3://{bucket}/sink")
    assert bound.part == "committing"
    assert "sink" in bound.advice


def test_bound_shards_of_one_image_asks_for_larger_ones(place, tmp_path):  # noqa: ARG001
    source = tmp_path / "source"
    build_tars(source, 4_000, 4_000)
    bound = bound_of(source, tmp_path / "sink")
    assert "larger shards" in bound.advice
