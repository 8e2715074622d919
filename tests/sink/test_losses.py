"""What is lost of damaged shards is counted: in footers, totals, budget, summary and answers."""

import json

import pyarrow as pa
import pytest

from tests.sink import sinks
from tests.sink.runs import query
from vqpipe import schema
from vqpipe.commands import summary
from vqpipe.commands.inspect import Inspect
from vqpipe.commands.inspect import run as inspect
from vqpipe.commands.progress import Progress
from vqpipe.commands.summary import Allowance
from vqpipe.commands.verify import Verify
from vqpipe.commands.verify import run as verify
from vqpipe.errors import DamagedShardsError, IncompleteError, TooManyRejectionsError
from vqpipe.inspection import survey
from vqpipe.sink.footer import read_footer
from vqpipe.sink.losses import describe_loss, find_damage, least_images
from vqpipe.sink.todo import retriable
from vqpipe.sink.totals import read_totals
from vqpipe.storage import stat

NAMES = ("a", "b", "c", "d")


def damage(lost, lost_by):
    """Returns a change of a shard's rows: the last one stands for what damage hides."""

    def change(rows):
        rows[-1] |= {"key": None, "reason": "shard_damaged", "message": "cut"}
        rows[-1] |= {"lost": lost, "lost_by": lost_by}

    return change


def damaged_sink(sink):
    """Returns the writer of a sink of 4 shards, of 6 rows each, of which three are damaged.

    There are 20 good samples; rejections stand for 1 + 60 + 13 images and one unknown number.
    """
    writer = sinks.begin(sink, NAMES)
    sinks.commit(writer, 0, 6, rejected=(2, 5), change=damage(60, "known"))
    sinks.commit(writer, 1, 6, rejected=(5,), change=damage(13, "estimated"))
    sinks.commit(writer, 2, 6, rejected=(5,), change=damage(None, "unknown"))
    sinks.commit(writer, 3, 6)
    return writer


def end(writer, allowed):
    progress = Progress(shards_total=4, shards_before=4, bytes_total=0)
    summary.finish(writer, progress, allowed, None).check()


def test_totals_of_damaged_shards_know_names_numbers_and_how(tmp_path):
    writer = damaged_sink(tmp_path)
    found = read_totals(writer.sink)
    stated = found.to_dict()
    assert (found.good, found.rejected, found.rejected_images) == (20, 4, 1 + 60 + 13 + 1)
    assert stated["damaged"] == [
        {"shard": "a", "lost": 60, "lost_by": "known"},
        {"shard": "b", "lost": 13, "lost_by": "estimated"},
        {"shard": "c", "lost": None, "lost_by": "unknown"},
    ]
    lost = ("damaged_shards", "lost_known", "lost_estimated", "lost_unknown")
    assert [stated[name] for name in lost] == [3, 60, 13, 1]


def test_rejected_of_a_damaged_shard_says_what_is_lost_as_duckdb_reads_it(tmp_path):
    damaged_sink(tmp_path)
    found = query(tmp_path, "rejected", "reason, lost, lost_by")
    assert ("shard_damaged", 60, "known") in found
    assert ("shard_damaged", 13, "estimated") in found
    assert ("shard_damaged", None, "unknown") in found
    assert ("corrupt", None, None) in found


def test_footer_of_a_damaged_shard_needs_no_rows_to_say_so(tmp_path):
    writer = damaged_sink(tmp_path)
    footer = read_footer(stat(f"{writer.sink.uri}/data/a.parquet"))
    assert footer.origin["damage"] == {"row": 5, "lost": 60, "lost_by": "known"}
    assert footer.total is None
    again = retriable(writer.sink, {})
    assert {writer.sink.plan.name(index): rows.total for index, rows in again.items()} == {
        "a": None,
        "b": None,
        "c": None,
    }


def test_run_with_damaged_shards_ends_with_2_each_time_and_says_what_is_lost(tmp_path):
    writer = damaged_sink(tmp_path)
    for _ in range(2):
        with pytest.raises(DamagedShardsError) as caught:
            end(writer, Allowance(0.99))
        assert caught.value.exit_code == 2
        said = caught.value.message
        parts = (
            "3 shard(s)",
            "(a, b, c)",
            "60 image(s)",
            "about 13",
            "unknown number of images in 1",
        )
        for part in parts:
            assert part in said
        assert not (tmp_path / "_SUCCESS").exists()
    for cure in ("--replace-changed", "--retry-rejected", "--allow-damaged-shards"):
        assert cure in said


def test_run_with_damaged_shards_that_another_command_accepted_is_no_longer_complete(tmp_path):
    """Exit code and `_SUCCESS` say the same, whatever was said before."""
    writer = damaged_sink(tmp_path)
    for accepted in (Allowance(75, damaged_shards=True), Allowance(0.99, damaged_shards=True)):
        end(writer, accepted)
        assert (tmp_path / "_SUCCESS").exists()
    for refused in (Allowance(0.99), Allowance(74, damaged_shards=True)):
        end(writer, accepted)
        with pytest.raises(IncompleteError):
            end(writer, refused)
        assert not (tmp_path / "_SUCCESS").exists()


def test_run_that_may_have_damaged_shards_is_complete_and_counts_them(tmp_path, capsys):
    writer = damaged_sink(tmp_path)
    end(writer, Allowance(0.99, damaged_shards=True))
    stated = json.loads((tmp_path / "_SUCCESS").read_bytes())
    assert (stated["damaged_shards"], stated["rejected_images"]) == (3, 75)
    assert "3 shard(s)" in capsys.readouterr().out
    verify(Verify(sink=writer.sink.uri))
    assert "60 image(s)" in capsys.readouterr().out


@pytest.mark.parametrize(("most", "is_enough"), [(74, False), (75, True), (0.78, False)])
def test_budget_counts_the_images_that_are_lost(tmp_path, most, is_enough):
    writer = damaged_sink(tmp_path)
    allowed = Allowance(most, damaged_shards=True)
    if is_enough:
        end(writer, allowed)
        return
    with pytest.raises(TooManyRejectionsError, match="75 of 95 images"):
        end(writer, allowed)


def printed(capsys, sink, **how):
    inspect(Inspect(sink=sink, **how))
    return capsys.readouterr().out


def test_inspect_of_damaged_shards_is_no_plain_yes(tmp_path, capsys):
    writer = damaged_sink(tmp_path)
    end_early(writer)
    capsys.readouterr()
    first = printed(capsys, writer.sink.uri).splitlines()[1]
    assert "no: all 4 shard(s) are committed, but 3 shard(s)" in first
    found = json.loads(printed(capsys, writer.sink.uri, json=True))
    assert found["ready"]["answer"] == "no"
    assert (found["damaged_shards"], found["rejected_images"]) == (3, 75)
    end(writer, Allowance(0.99, damaged_shards=True))
    capsys.readouterr()
    found = json.loads(printed(capsys, writer.sink.uri, json=True, rejected=True))
    assert found["ready"]["answer"] == "with care"
    assert {each["lost"] for each in found["rejections"]["shard_damaged"]} == {60, 13, None}
    assert "about 13 images" in printed(capsys, writer.sink.uri, rejected=True)


def end_early(writer):
    with pytest.raises(DamagedShardsError):
        end(writer, Allowance(0.99))


def test_verify_of_damaged_shards_says_that_they_are_all_that_is_open(tmp_path, capsys):
    writer = damaged_sink(tmp_path)
    end_early(writer)
    capsys.readouterr()
    with pytest.raises(IncompleteError, match="could not be read to the end"):
        verify(Verify(sink=writer.sink.uri, json=True))
    assert json.loads(capsys.readouterr().out)["damaged_shards"] == 3


def test_totals_of_some_footers_scale_what_is_lost(tmp_path):
    writer = damaged_sink(tmp_path)
    seen = survey.look(writer.sink.uri, writer.sink.run)
    whole = survey.count(seen).totals
    assert (whole["damaged_shards"], whole["rejected_images"]) == (3, 75)
    better = survey.refine(survey.count(seen, most=1), survey.count_rejections(seen)).totals
    assert (better["damaged_shards"], better["rejected_images"]) == (3, 75)


def test_rejected_sample_stands_for_the_images_that_it_has_beside_it(tmp_path):
    def change(rows):
        for number, row in enumerate(rows):
            row |= {"passed_over": number}  # of good samples 0, 1, 3 and 4 other images
        rows[5] |= {"lost": 9, "lost_by": "known"}

    writer = sinks.begin(tmp_path, NAMES[:1])
    sinks.commit(writer, 0, 6, rejected=(2, 5), change=change)
    found = read_totals(writer.sink)
    assert (found.good, found.passed_over, found.rejected_images) == (4, 0 + 1 + 3 + 4, 3 + 9)
    assert query(tmp_path, "rejected", "row, lost, lost_by") == [(2, 3, "known"), (5, 9, "known")]


def rejected(*rows):
    names = schema.REJECTED.names
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], schema.REJECTED
    )


def test_find_damage_is_where_a_shard_could_not_be_read_on():
    plain = ("a", 1, "corrupt", "", None, None)
    assert find_damage(rejected(plain)) is None
    found = find_damage(rejected(plain, (None, 7, "shard_damaged", "", 9, "known")))
    assert found == {"row": 7, "lost": 9, "lost_by": "known"}


def test_least_images_counts_one_where_nothing_is_known():
    rows = rejected(
        ("a", 1, "no_image", "", 300, "known"),
        ("b", 2, "corrupt", "", None, None),
        (None, 3, "shard_damaged", "", None, "unknown"),
        ("d", 4, None, None, None, None),
    )
    assert least_images(rows) == 302


@pytest.mark.parametrize(
    ("lost", "by", "said"),
    [
        (None, None, ""),
        (9, "known", ", for 9 images"),
        (1200, "estimated", ", for about 1,200 images"),
        (None, "unknown", ", for an unknown number of images"),
    ],
)
def test_describe_loss_says_how_it_is_known(lost, by, said):
    assert describe_loss({"lost": lost, "lost_by": by}) == said


def test_kept_column_that_is_null_is_counted_and_said(tmp_path, capsys):
    def lose(rows):
        for row in rows:
            row["kept.caption"] = None

    writer = sinks.begin(tmp_path, ("a", "b"))
    sinks.commit(writer, 0, 6, rejected=(2,), change=lose)
    sinks.commit(writer, 1, 6)
    sinks.end(writer)
    found = json.loads(printed(capsys, writer.sink.uri, json=True))
    nulls = query(tmp_path, "data", "count(*) - count(caption)")
    assert found["kept_nulls"] == {"caption": 5}
    assert nulls == [(5,)]
    assert "caption, which is kept, is null in 5 of 11" in printed(capsys, writer.sink.uri)
