import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg, tar_of
from vqpipe import schema
from vqpipe.commands.progress import Progress
from vqpipe.engine.tasks import bytes_taken
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sink.ranges import Staged
from vqpipe.sources import codes, list_shards
from vqpipe.stages.evaluate import PairReader
from vqpipe.stages.read import SampleReader

ROWS = 200
NO_KEPT = pa.schema([])


def write_codes(folder):
    kind = pa.list_(pa.uint16(), 256)
    grids = np.random.default_rng(0).integers(0, 16384, (ROWS, 256))
    table = pa.table({"codes": pa.array(list(grids), kind)})
    pq.write_table(table, folder / "a.parquet", compression="zstd")
    return codes.list_shards(str(folder), "codes").shards, Selection(codes="codes")


def write_images(folder, row_group_size=None):
    images = [jpeg(40, 30, seed=i) for i in range(ROWS)]
    table = pa.table({"image": images, "text": [f"{i}" * 100 for i in range(ROWS)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=row_group_size)
    return list_shards(str(folder)).shards, Selection("image")


def write_parts(folder):
    """Writes one file that is several shards, each of the size of the whole file."""
    write_images(folder, ROWS // 4)
    return list_shards(str(folder), max_shard_bytes=1).shards, Selection("image")


def write_tar(folder):
    members = dict.fromkeys((f"{i:04d}.jpg" for i in range(ROWS)), jpeg(400, 300, seed=0))
    (folder / "a.tar").write_bytes(tar_of(members))
    return list_shards(str(folder)).shards, Selection()


@pytest.mark.parametrize("write", [write_codes, write_images, write_parts, write_tar])
def test_images_total_is_right_while_a_shard_is_read(tmp_path, write):
    shards, selection = write(tmp_path)
    plan, reader = Plan.of(shards), SampleReader(selection, NO_KEPT)
    sizes = [plan.size(index) for index in range(len(plan))]
    progress, rows = Progress(len(plan), sum(sizes)), reader.rows(plan, 0)
    for table in reader.read(plan, 0, Staged(), 32, 0):
        progress.read += len(table)
        progress.read_bytes += bytes_taken(table[shards[0].holds], sizes[0], rows)
        assert progress.images_total == pytest.approx(ROWS, rel=0.2)


def test_rows_of_picked_samples_are_the_quota(tmp_path):
    shards, selection = write_images(tmp_path)
    reader = PairReader(SampleReader(selection, NO_KEPT), "codes", {"a": 7})
    assert reader.rows(Plan.of(shards), 0) == 7


def test_rows_of_a_damaged_shard_are_not_known(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" * 10)
    plan = Plan.of(list_shards(str(tmp_path)).shards)
    assert SampleReader(Selection("image"), NO_KEPT).rows(plan, 0) is None


def test_rows_of_codes_and_latents_carry_them_under_their_own_names(tmp_path):
    columns = {"mine": [[1, 2]], "theirs": [[0.5, 1.5, 2.5, 3.5]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for kind, column, dtype in (("codes", "mine", "<i8"), ("latents", "theirs", "<f4")):
        plan = Plan.of(codes.list_shards(str(tmp_path), kind).shards)
        shape = (1, 2) if kind == "codes" else (2, 1, 2)
        reader = SampleReader(Selection(codes=column, shape=shape), NO_KEPT)
        (table,) = reader.read(plan, 0, Staged(), 32, 0)
        assert table.schema == schema.read_schema(NO_KEPT, kind)
        assert "image" not in table.column_names
        assert table[kind].to_pylist() == [np.array(columns[column], dtype).tobytes()]
