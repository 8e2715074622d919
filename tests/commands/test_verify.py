"""A sound sink passes; a sink damaged in any way does not, and the check at fault is named."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink import sinks
from tests.sink.damage import rewrite, set_column
from tests.sink.runs import encoded_rows
from vqpipe.commands import cli
from vqpipe.inspection.verify import CHECKS
from vqpipe.sink import success, totals
from vqpipe.sink.commit import commit_rows

NAMES, ROWS, REJECTED = ("a", "b/c", "d"), (9, 4, 6), {0: (2, 5), 1: (), 2: (0,)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    sink = tmp_path_factory.mktemp("sound") / "sink"
    writer = sinks.begin(sink, NAMES)
    for index, count in enumerate(ROWS):
        commit_rows(encoded_rows(writer, index, count, rejected=REJECTED[index]), writer)
    found = totals.read_totals(writer.sink)
    success.mark_success(writer.sink, found)
    return sink


@pytest.fixture
def sink(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "sink")
    return tmp_path / "sink"


def verify(sink, capsys):
    """Returns exit code and the checks that found something."""
    code = cli.main(["verify", str(sink), "--json"])
    return code, {each["check"] for each in json.loads(capsys.readouterr().out)["breaches"]}


def origin(path):
    return json.loads(pq.read_metadata(path).metadata[b"vqpipe"])


def test_verify_sound_sink_passes_every_check(sink, capsys):
    assert verify(sink, capsys) == (0, set())
    assert cli.main(["verify", str(sink)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CHECKS if name not in {"images", "latents", "same"})


def test_verify_sink_under_way_is_incomplete_not_damaged(sink, capsys):
    (sink / "_SUCCESS").unlink()
    (sink / "data" / "d.parquet").unlink()
    assert verify(sink, capsys) == (2, set())


def test_verify_place_without_a_run_is_a_config_error(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 4
    assert "run.json" in capsys.readouterr().err


def lose_shard(sink):
    (sink / "data" / "d.parquet").unlink()


def copy_shard(sink):
    shutil.copy(sink / "data" / "a.parquet", sink / "data" / "copy.parquet")


def cut_short(sink):
    path = sink / "data" / "a.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(sink):
    path = sink / "data" / "a.parquet"
    data = bytearray(path.read_bytes())
    data[pq.read_metadata(path).row_group(0).column(0).data_page_offset + 40] ^= 4
    path.write_bytes(data)


def lose_a_row(sink):
    rewrite(sink / "data" / "a.parquet", lambda table: table.slice(1))


def repeat_a_row(sink):
    path = sink / "data" / "a.parquet"
    rewrite(path, lambda table: pa.concat_tables([table, table.slice(0, 1)]))


def repeat_a_key(sink):
    path = sink / "data" / "a.parquet"
    rewrite(path, set_column("key", lambda keys: keys.__setitem__(1, keys[0])))


def change_a_code(sink):
    path = sink / "data" / "a.parquet"
    rewrite(path, set_column("codes", lambda rows: rows[0].__setitem__(0, (rows[0][0] + 1) % 16)))


def overflow_a_code(sink):
    path = sink / "data" / "a.parquet"
    rewrite(path, set_column("codes", lambda rows: rows[0].__setitem__(0, 16)))


def widen_codes(sink):
    def change(table):
        place = table.schema.get_field_index("codes")
        return table.set_column(place, "codes", table["codes"].cast(pa.list_(pa.uint32(), 6)))

    rewrite(sink / "data" / "a.parquet", change)


def lose_a_kept_column(sink):
    rewrite(sink / "data" / "a.parquet", lambda table: table.drop_columns("caption"))


def rename_a_kept_column(sink):
    def change(table):
        return table.rename_columns({"caption": "text"})

    rewrite(sink / "data" / "a.parquet", change)


def widen_a_kept_column(sink):
    def change(table):
        place = table.schema.get_field_index("score")
        return table.set_column(place, "score", table["score"].cast(pa.float64()))

    rewrite(sink / "data" / "a.parquet", change)


def take_from_another_run(sink):
    path = sink / "data" / "a.parquet"
    rewrite(path, metadata={"vqpipe": json.dumps(origin(path) | {"fingerprint": "0" * 64})})


def take_another_version(sink):
    path = sink / "data" / "a.parquet"
    other = origin(path)["source"] | {"version": "2"}
    rewrite(path, metadata={"vqpipe": json.dumps(origin(path) | {"source": other})})


def lose_rejections(sink):
    (sink / "rejected" / "a.parquet").unlink()


def change_a_rejection(sink):
    rewrite(sink / "rejected" / "a.parquet", set_column("reason", lambda r: r.__setitem__(0, "x")))


def leave_staging(sink):
    (sink / "staging" / "a").mkdir(parents=True)
    shutil.copy(sink / "data" / "a.parquet", sink / "staging" / "a" / "00000000-00000002.parquet")


def change_the_plan(sink):
    path = sink / "plan.parquet"
    change = set_column("size", lambda sizes: sizes.__setitem__(0, 1))
    pq.write_table(change(pq.read_table(path)), path)


def change_the_totals(sink):
    said = json.loads((sink / "_SUCCESS").read_bytes())
    (sink / "_SUCCESS").write_text(json.dumps(said | {"encoded": said["encoded"] + 1}))


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (lose_shard, "complete"),
        (copy_shard, "foreign"),
        (cut_short, "readable"),
        (flip_a_bit, "readable"),
        (lose_a_row, "rows"),
        (repeat_a_row, "rows"),
        (repeat_a_key, "keys"),
        (change_a_code, "counts"),
        (overflow_a_code, "codes"),
        (widen_codes, "schema"),
        (lose_a_kept_column, "schema"),
        (rename_a_kept_column, "schema"),
        (widen_a_kept_column, "schema"),
        (take_from_another_run, "source"),
        (take_another_version, "source"),
        (lose_rejections, "rejected"),
        (change_a_rejection, "rejected"),
        (leave_staging, "foreign"),
        (change_the_plan, "plan"),
        (change_the_totals, "totals"),
    ],
)
def test_verify_damage_is_caught_and_named(sink, capsys, damage, check):
    damage(sink)
    code, found = verify(sink, capsys)
    assert code == 1
    assert check in found
    assert cli.main(["verify", str(sink)]) == 1
    assert "BROKEN" in capsys.readouterr().out
