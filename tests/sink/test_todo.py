"""Shards that are planned anew, and rejected samples that are tried again, in plain loops."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink.runs import (
    check_committed,
    codes_of,
    encoded_rows,
    flips_of,
    psnr_of,
    query,
    read_data,
    start,
    tar_shard,
    visible,
)
from tests.storage.intercept import Amid
from vqpipe import storage
from vqpipe.errors import IncompleteError, StorageError
from vqpipe.inspection.verify import verify
from vqpipe.sink import layout, success, todo, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import read_footer, unpack_histogram
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import is_complete
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run
from vqpipe.stages.encode import CodesProduct

TOTAL = 8
ATTEMPT = Attempt("r1", {0: 1}, 5, "12")


def left_of(writer):
    return todo.unfinished(writer.sink)


def grown(writer, *shards):
    """Returns the writer of a command that takes in what is new and changed."""
    listed = Plan.of(shards)
    growth = Growth(extend=True, replace_changed=True)
    return replace(writer, sink=start_run(writer.sink.uri, writer.sink.run, listed, growth))


def commit(writer, index, total=TOTAL, numbers=None, rejected=()):
    commit_rows(encoded_rows(writer, index, total, numbers, rejected), writer)


def finish(writer):
    found = totals.read_totals(writer.sink)
    success.mark_success(writer.sink, found)
    breaches = verify(writer.sink, is_complete=True)
    assert list(breaches) == []


def retry(writer, tag="r1", revision=1):
    return replace(writer, attempt=replace(ATTEMPT, tag=tag, revisions={0: revision}))


def damaged(rows, row):
    """Says that the shard could not be read past a row, which is the last one."""
    reasons = rows["reason"].to_pylist()
    reasons[row] = "shard_damaged"
    at = rows.column_names.index("reason")
    return rows.set_column(at, "reason", pa.array(reasons, pa.string()))


def test_unfinished_are_shards_without_object_with_what_is_staged(tmp_path):
    writer = start(tmp_path, names=("a", "b", "c"))
    commit(writer, 0)
    commit(writer, 1, numbers=range(3, 8))
    left = left_of(writer)
    assert left == {1: layout.Staged(((3, 8),), TOTAL), 2: layout.Staged()}


def test_unfinished_after_growth_are_new_and_changed_shards(tmp_path):
    writer = start(tmp_path, names=("a", "c"))
    commit(writer, 0)
    commit(writer, 1)
    finish(writer)
    grown_ = grown(writer, tar_shard("a"), tar_shard("b"), tar_shard("c", version="2"))
    assert not (tmp_path / "_SUCCESS").exists()
    assert list(left_of(grown_)) == [1, 2]
    assert totals.read_totals(grown_.sink).shards == 1
    assert list(verify(grown_.sink, is_complete=False)) == []
    commit(grown_, 1)
    commit(grown_, 2, 5)
    assert left_of(grown_) == {}
    finish(grown_)
    check_committed(grown_, [TOTAL, TOTAL, 5])
    assert json.loads(read_data(grown_, 2)[1][b"vqpipe"])["source"]["version"] == "2"
    assert read_data(writer, 0)[1][b"vqpipe"] == read_data(grown_, 0)[1][b"vqpipe"]


def test_finished_leaves_out_what_waits_to_be_replaced(tmp_path):
    writer = start(tmp_path, names=("a", "b/c"))
    commit(writer, 0)
    commit(writer, 1)
    old = todo.finished(writer.sink.uri, writer.sink.run)
    assert list(old) == ["a", "b/c"]
    new = grown(writer, tar_shard("a"), tar_shard("b/c", version="2"))
    assert list(todo.finished(new.sink.uri, new.sink.run)) == ["a"]
    assert todo.finished(new.sink.uri, new.sink.run, {old["b/c"]}) == old
    commit(new, 1)
    done = todo.finished(new.sink.uri, new.sink.run, {old["b/c"]})
    assert done["a"] == old["a"]
    assert done["b/c"] != old["b/c"]


@pytest.mark.parametrize("name", ["other.parquet", "deep/a.parquet", "caf\udce9.parquet"])
def test_finished_object_of_no_shard_is_refused_by_name(tmp_path, name):
    writer = start(tmp_path, names=("a",))
    commit(writer, 0)
    path = tmp_path / "data" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "data" / "a.parquet", path)
    with pytest.raises(StorageError, match="belongs to no shard") as raised:
        todo.finished(writer.sink.uri, writer.sink.run)
    raised.value.message.encode()


def test_changed_shard_keeps_its_old_object_until_the_new_one_is_whole(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(1,))
    new = grown(writer, tar_shard("a", version="2"))
    before = (tmp_path / "data" / "a.parquet").read_bytes()
    commit(new, 0, 5, range(2))
    assert (tmp_path / "data" / "a.parquet").read_bytes() == before
    assert left_of(new) == {0: layout.Staged(((0, 2),), None)}
    commit(new, 0, 5, range(2, 5))
    check_committed(new, [5])
    finish(new)
    assert visible(tmp_path, "rejected") == []


def test_changed_shard_takes_nothing_that_was_staged_of_its_old_version(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, numbers=range(6))
    new = grown(writer, tar_shard("a", version="2"))
    assert left_of(new) == {0: layout.Staged()}
    commit(new, 0, 5, range(4, 5))
    assert visible(tmp_path, "data") == []
    commit(new, 0, 5, range(4))
    check_committed(new, [5])
    finish(new)
    assert visible(tmp_path, "staging") == []


def test_changed_shard_late_writer_of_the_old_version_changes_nothing(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    new = grown(writer, tar_shard("a", version="2"))
    commit(new, 0, 5)
    commit(writer, 0)
    check_committed(new, [5])


def test_changed_shard_committed_first_in_its_old_version_is_done_again(tmp_path):
    writer = start(tmp_path)
    new = grown(writer, tar_shard("a", version="2"))
    commit(writer, 0)  # by a command that started before the change
    assert list(left_of(new)) == [0]
    commit(new, 0, 5)
    check_committed(new, [5])
    assert left_of(new) == {}


def test_totals_of_an_object_of_an_unknown_version_are_refused(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    other = Plan.of([tar_shard("a", version="9")])
    with pytest.raises(StorageError, match="another version"):
        totals.read_totals(replace(writer.sink, plan=other))


def test_mark_success_of_a_plan_that_has_grown_meanwhile_is_incomplete(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    found = totals.read_totals(writer.sink)
    grown(writer, tar_shard("a"), tar_shard("b"))
    with pytest.raises(IncompleteError):
        success.mark_success(writer.sink, found)
    assert not (tmp_path / "_SUCCESS").exists()


def test_retriable_are_the_rejected_rows_alone(tmp_path):
    writer = start(tmp_path, names=("a", "b", "c", "d"))
    commit(writer, 0, rejected=(0, 3, 4))
    commit(writer, 1)
    commit_rows(damaged(encoded_rows(writer, 2, 5, rejected=(1, 4)), 4), writer)
    left = left_of(writer)
    assert todo.retriable(writer.sink, left) == {
        0: layout.Staged(((1, 3), (5, 8)), TOTAL),
        2: layout.Staged(((0, 1), (2, 4)), None),
    }


@pytest.mark.parametrize("order", [[(0, 1), (3, 5)], [(3, 5), (0, 1)]], ids=["forth", "back"])
def test_retry_that_helps_puts_the_rows_into_the_object_at_once(tmp_path, order):
    reference, writer = start(tmp_path / "whole"), start(tmp_path / "retried")
    commit(reference, 0, rejected=(4,))
    commit(writer, 0, rejected=(0, 3, 4))
    finish(writer)
    before = Path(writer.sink.uri, "data", "a.parquet").read_bytes()
    again = retry(writer)
    (first, second) = order
    commit(again, 0, numbers=range(*first), rejected=(4,))
    assert Path(writer.sink.uri, "data", "a.parquet").read_bytes() == before
    commit(again, 0, numbers=range(*second), rejected=(4,))
    check_committed(writer, [TOTAL], rejected=(4,))
    (table, footer), (expected, whole) = read_data(writer), read_data(reference)
    assert table.equals(expected)
    assert footer[b"vqpipe.histogram"] == whole[b"vqpipe.histogram"]
    found, other = json.loads(footer[b"vqpipe"]), json.loads(whole[b"vqpipe"])
    assert found.pop("retried") == {"max_pixels": 5, "pillow": "12"}
    assert (found.pop("revision"), other.pop("revision")) == (1, 0)
    assert found == other
    finish(writer)
    assert query(writer.sink.uri, "data", "count(*)") == [(7,)]


def test_writer_that_comes_late_leaves_rejections_as_the_first_one_has_them(tmp_path):
    first = start(tmp_path)
    commit(first, 0)
    finish(first)
    commit(first, 0, rejected=(5,))  # such as by a time limit, on a machine that is busy
    assert (tmp_path / "_SUCCESS").exists()
    assert visible(tmp_path, "rejected") == []
    finish(first)


def test_retry_takes_back_what_another_command_says_of_the_sink_meanwhile(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(5,))
    again = retry(writer)  # which has begun before the other command says so:
    finish(writer)
    commit(again, 0, numbers=[5])
    assert not (tmp_path / "_SUCCESS").exists()
    finish(writer)


def test_retries_leave_the_highest_limit_that_a_row_was_opened_under(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2, 5))
    commit(retry(writer, "r1"), 0, numbers=[2, 5], rejected=(5,))
    lower = replace(ATTEMPT, tag="r2", revisions={0: 2}, max_pixels=3, pillow="13")
    commit(replace(writer, attempt=lower), 0, numbers=[5])
    said = json.loads(read_data(writer, 0)[1][b"vqpipe"])["retried"]
    assert said == {"max_pixels": 5, "pillow": "13"}
    assert visible(tmp_path, "data") == ["a.parquet"]


def test_retry_of_all_leaves_no_rejections(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2, 5))
    finish(writer)
    commit(retry(writer), 0, numbers=(2, 5))
    check_committed(writer, [TOTAL])
    assert visible(tmp_path, "rejected") == []
    finish(writer)
    flips = [flips_of(row) for row in range(TOTAL) if flips_of(row) is not None]
    origin = json.loads(read_data(writer)[1][b"vqpipe"])
    assert (origin["audited"], origin["flips"]) == (len(flips), sum(flips))
    known = [psnr_of(row) for row in range(TOTAL) if psnr_of(row) is not None]
    assert (origin["psnr_images"], origin["psnr_db_sum"]) == (len(known), sum(known))


def test_retry_without_success_changes_no_object(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2, 5))
    paths = [tmp_path / area / "a.parquet" for area in ("data", "rejected")]
    before = [path.stat().st_mtime_ns for path in paths]
    commit(retry(writer), 0, numbers=(2, 5), rejected=(2, 5))
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_retry_takes_nothing_that_another_retry_has_staged(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2, 5))
    commit(retry(writer, "r1"), 0, numbers=(2,), rejected=(2,))
    commit(retry(writer, "r2"), 0, numbers=(5,))
    check_committed(writer, [TOTAL], rejected=(2, 5))
    commit(retry(writer, "r2"), 0, numbers=(2,))
    check_committed(writer, [TOTAL])
    finish(writer)
    assert visible(tmp_path, "staging") == []


def test_retry_of_a_cut_shard_takes_in_what_lies_behind_the_cut(tmp_path):
    writer = start(tmp_path)
    commit_rows(damaged(encoded_rows(writer, 0, 4, rejected=(1, 3)), 3), writer)
    assert len(query(tmp_path, "rejected", "row")) == 2
    commit(retry(writer), 0, numbers=(1, 3, 4, 5, 6, 7), rejected=(1,))
    check_committed(writer, [TOTAL], rejected=(1,))
    finish(writer)


def test_retry_beside_a_shard_that_is_half_done_finishes_that_too(tmp_path):
    writer = start(tmp_path, names=("a", "b"))
    commit(writer, 0, rejected=(1,))
    commit(writer, 1, numbers=range(4))
    assert left_of(writer) == {1: layout.Staged(((0, 4),), None)}
    again = retry(writer)
    commit(again, 0, numbers=(1,))
    commit(again, 1, numbers=range(4, 8))
    check_committed(writer, [TOTAL, TOTAL])
    assert "retried" not in json.loads(read_data(writer, 1)[1][b"vqpipe"])
    finish(writer)


def test_late_retry_of_an_old_version_leaves_the_new_one_alone(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(1,))
    new = grown(writer, tar_shard("a", version="2"))
    commit(new, 0, 5)
    finish(new)
    commit(retry(writer), 0, numbers=(1,))
    check_committed(new, [5])


def test_late_writer_of_an_older_generation_leaves_the_new_one_alone(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    second = grown(writer, tar_shard("a", version="2"))
    third = grown(second, tar_shard("a", version="3"))
    commit(third, 0, 5)
    finish(third)
    with pytest.raises(IncompleteError, match="planned shard a anew"):
        commit(second, 0)
    check_committed(third, [5])
    assert is_complete(writer.sink.uri)


def test_changed_shard_that_is_what_it_was_again_is_no_prey_of_a_late_writer(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    finish(writer)
    wrong = grown(writer, tar_shard("a", version="2"))  # reads all of it, and is slow to commit
    right = grown(wrong, tar_shard("a", version="1"))
    assert list(left_of(right)) == [0]
    commit(right, 0)
    finish(right)
    before = (tmp_path / "data" / "a.parquet").read_bytes()
    for numbers in (None, range(3), range(3, 5)):
        with contextlib.suppress(IncompleteError):
            commit(wrong, 0, 5, numbers, rejected=(1,))
    assert (tmp_path / "data" / "a.parquet").read_bytes() == before
    check_committed(right, [TOTAL])
    assert is_complete(writer.sink.uri)
    with pytest.raises(IncompleteError):
        finish(wrong)
    assert is_complete(writer.sink.uri)
    finish(right)
    assert visible(tmp_path, "staging") == []


def test_changed_shard_of_which_another_writer_puts_a_newer_one_there_amid_keeps_that(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2,))
    second = grown(writer, tar_shard("a", version="2"))
    third = []

    def newer():
        third.append(grown(second, tar_shard("a", version="3")))
        commit(third[0], 0, 4, rejected=(0,))

    uri = layout.data_uri(writer.sink.uri, "a")
    with Amid("replace_if", uri, newer):
        commit(second, 0, 5)
    check_committed(third[0], [4], rejected=(0,))
    assert json.loads(read_data(writer)[1][b"vqpipe"])["generation"] == 2
    finish(third[0])


def test_staged_ranges_that_disagree_about_the_end_are_read_anew_and_committed(tmp_path):
    writer = start(tmp_path)
    rows = damaged(encoded_rows(writer, 0, 5, (2, 3, 4), rejected=(4,)), 2)
    commit_rows(rows, writer)  # a bad day: the shard could not be read past row 4
    commit(writer, 0, numbers=range(5, 8))  # a good one: it goes on to row 7
    assert left_of(writer) == {0: layout.Staged(((5, 8),), TOTAL)}
    commit(writer, 0, numbers=range(5))
    check_committed(writer, [TOTAL])
    finish(writer)
    assert visible(tmp_path, "staging") == []


def test_staged_end_that_another_row_was_read_at_is_none(tmp_path):
    """Together they would make a shard of six rows, and what lies behind would be gone."""
    writer = start(tmp_path)
    commit_rows(damaged(encoded_rows(writer, 0, 6, (5,), rejected=(5,)), 0), writer)
    commit(writer, 0, numbers=range(6))
    assert visible(tmp_path, "data") == []
    commit(writer, 0, numbers=range(6, 8))
    check_committed(writer, [TOTAL])


def test_retry_that_cannot_read_as_far_as_before_takes_nothing_back(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(4, 6))
    before = (tmp_path / "data" / "a.parquet").read_bytes()
    commit_rows(damaged(encoded_rows(writer, 0, 5, (4,), rejected=(4,)), 0), retry(writer))
    assert (tmp_path / "data" / "a.parquet").read_bytes() == before
    commit(retry(writer), 0, numbers=(4, 6))
    check_committed(writer, [TOTAL])


def test_sweep_leaves_what_other_commands_have_staged_for_later_objects(tmp_path):
    writer = start(tmp_path, names=("a", "b"))
    commit(writer, 0, rejected=(2, 5))
    commit(writer, 1)
    other = retry(writer, "r2")
    commit(other, 0, numbers=(2,))
    finish(writer)
    commit(other, 0, numbers=(5,))
    check_committed(writer, [TOTAL, TOTAL])
    finish(writer)
    assert visible(tmp_path, "staging") == []


def test_retry_of_what_another_retry_has_just_revised_takes_nothing_back(tmp_path, monkeypatch):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2, 5))
    real = CodesProduct.finish

    def slow(*arguments):  # between reading what is there and publishing, another one comes
        monkeypatch.setattr(CodesProduct, "finish", real)
        commit(retry(writer, "r2"), 0, numbers=(2, 5))
        return real(*arguments)

    monkeypatch.setattr(CodesProduct, "finish", slow)
    commit(retry(writer, "r1"), 0, numbers=(2, 5), rejected=(5,))
    check_committed(writer, [TOTAL])


def test_new_shard_of_a_later_generation_is_created_once_like_any_other(tmp_path):
    writer = grown(start(tmp_path), tar_shard("a"), tar_shard("b"))
    assert [writer.slot(index).replaces for index in (0, 1)] == [False, False]


def test_command_beside_one_that_extends_is_told_to_run_again(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    other = grown(writer, tar_shard("a"), tar_shard("b"))
    commit(other, 1)
    with pytest.raises(IncompleteError, match="added to the plan"):
        totals.read_totals(writer.sink)


def test_is_complete_only_with_the_success_of_the_plan_as_it_is(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0)
    finish(writer)
    assert is_complete(writer.sink.uri)
    said = (tmp_path / "_SUCCESS").read_bytes()
    grown(writer, tar_shard("a"), tar_shard("b"))
    (tmp_path / "_SUCCESS").write_bytes(said)  # by a command that did not know
    assert not is_complete(writer.sink.uri)


@pytest.mark.parametrize("rejected", [(), (1, 2, 3)], ids=["larger", "smaller"])
@pytest.mark.parametrize("base", ["disk", pytest.param("bucket", marks=pytest.mark.s3)])
def test_footer_of_an_object_that_was_replaced_after_the_listing_is_read(base, rejected, request):
    place = request.getfixturevalue("tmp_path" if base == "disk" else "bucket")
    writer = start(f"{place}/sink")
    commit(writer, 0, rejected=(1, 2, 3) if not rejected else (1,))
    listed = layout.list_committed(writer.sink.uri)["a"]
    new = grown(writer, tar_shard("a", version="2"))
    commit(new, 0, 40 if not rejected else 4, rejected=rejected)
    assert read_footer(listed).origin["source"]["version"] == "2"


def test_retry_keeps_kept_columns(tmp_path):
    writer = start(tmp_path)
    commit(writer, 0, rejected=(2,))
    commit(retry(writer), 0, numbers=(2,))
    file = pq.read_table(tmp_path / "data" / "a.parquet")
    assert file["caption"].to_pylist() == [f"caption {row}" for row in range(TOTAL)]
    assert file["codes"].to_pylist() == [codes_of(writer, 0, row) for row in range(TOTAL)]
    histogram = unpack_histogram(read_data(writer)[1][b"vqpipe.histogram"])
    assert histogram.sum() == TOTAL * 6


def test_start_run_with_growth_twice_adds_nothing_the_second_time(tmp_path):
    writer = start(tmp_path)
    shards = (tar_shard("a"), tar_shard("b"))
    first, second = grown(writer, *shards), grown(writer, *shards)
    assert first.sink.plan.table.equals(second.sink.plan.table)
    stored = Plan(pq.read_table(tmp_path / "plan.parquet"))
    assert [stored.generation(i) for i in range(2)] == [0, 1]
    assert storage.read(layout.run_uri(str(tmp_path))) == writer.sink.run.to_json()
