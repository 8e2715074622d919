"""Sinks in a bucket, read by processes that are made by fork and by spawn."""

import pytest
from torch.utils.data import DataLoader

from tests.dataset.sinks import make
from tests.dataset.test_dataset import column, samples
from tests.storage.fault_proxy import Faults
from vqpipe import CodesDataset
from vqpipe.errors import StorageError

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataset_of_a_bucket_has_what_that_of_a_disk_has(bucket, tmp_path, context, monkeypatch):
    make(tmp_path / "codes", [20, 1, 30])
    make(f"{bucket}/codes", [20, 1, 30])
    how = {"batch_size": 8, "tail": "uneven", "columns": ["codes", "caption"]}
    monkeypatch.setenv("VQPIPE_CACHE", str(tmp_path / "cache-of-disk"))
    local = list(CodesDataset(str(tmp_path / "codes"), **how))
    monkeypatch.setenv("VQPIPE_CACHE", str(tmp_path / "cache-of-bucket"))
    data = CodesDataset(f"{bucket}/codes", **how)  # has asked the store in this process already

    found = list(DataLoader(data, None, num_workers=2, multiprocessing_context=context))

    assert samples(found) == samples(local)
    assert column(found, "codes") == column(local, "codes")
    assert column(found, "caption") == column(local, "caption")


def test_dataset_of_a_bucket_with_a_snapshot_there(bucket):
    make(f"{bucket}/codes", [20, 1, 30])
    first = CodesDataset(f"{bucket}/codes", snapshot=f"{bucket}/snapshots/first.parquet")

    again = CodesDataset(f"{bucket}/codes", snapshot=f"{bucket}/snapshots/first.parquet")

    assert (again.digest, again.samples) == (first.digest, 51)


def test_dataset_goes_on_after_a_store_has_refused(proxy, bucket):
    make(f"{bucket}/codes", [20, 1, 30])
    data = CodesDataset(f"{bucket}/codes", columns=["codes"], tail="uneven")
    proxy.faults = Faults(refuse=0.25, cut=0.1)

    assert sorted(samples(data)) == list(range(51))


def test_dataset_of_a_bucket_that_is_not_there_says_so(bucket):
    with pytest.raises(StorageError):
        CodesDataset(f"{bucket}-gone/codes")
