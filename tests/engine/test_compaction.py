"""How rows come together in a shuffle: partitions of as many files each, by Ray's own hash."""

import numpy as np
import pyarrow as pa
import pytest
from ray.data._internal.arrow_ops.transform_pyarrow import hash_partition

from vqpipe.engine.compact_tasks import KEY
from vqpipe.engine.compaction import partition_keys


@pytest.mark.parametrize("count", [1, 2, 3, 16, 100, 1000])
def test_partition_keys_go_to_partitions_of_their_own(count):
    keys = partition_keys(count)
    assert len(np.unique(keys)) == count
    table = pa.table({KEY: np.repeat(keys, 3)})
    parts = hash_partition(table, hash_cols=[KEY], num_partitions=count)
    assert sorted(len(part) for part in parts.values()) == [3] * count
