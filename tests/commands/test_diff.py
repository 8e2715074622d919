import json

import pytest

from tests.sink import sinks
from vqpipe.commands import cli

NAMES = [f"s{index:02d}" for index in range(20)]


def turn_one(listed):
    for row in listed:
        if row["codes"]:
            row["codes"][0] = (row["codes"][0] + 1) % 16


def make(sink, names=NAMES, *, rejected=(), change=None, is_complete=True, **how):
    writer = sinks.begin(sink, names, **how)
    for index in range(len(names)):
        sinks.commit(writer, index, 4, rejected, change)
    sinks.end(writer, is_complete=is_complete)
    return writer


def diff(*arguments, capsys):
    assert cli.main(["diff", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    first = make(root / "first", rejected=(3,))
    second = make(root / "second", change=turn_one, dtype="bfloat16", is_complete=False)
    sinks.evaluate(first)
    sinks.evaluate(second, rfid=3.5)
    return root / "first", root / "second"


def test_diff_says_what_differs(pair, capsys):
    found = diff(*pair, capsys=capsys)
    assert found["fields"] == {"dtype": ["float32", "bfloat16"]}
    assert found["complete"] == [True, False]
    assert [each["rejected_by_reason"] for each in found["totals"]] == [{"corrupt": 20}, {}]
    assert [each["encoded"] for each in found["totals"]] == [60, 80]
    codes = found["codes"]
    assert (len(codes["shards"]), codes["shards_in_both"]) == (16, 20)
    assert (codes["samples"], codes["samples_unlike"]) == (16 * 3, 16 * 3)
    assert codes["samples_only"] == [0, 16]
    assert codes["equal"] == pytest.approx(5 / 6)
    assert 0 < found["jensen_shannon"] < 1
    assert found["metrics"]["psnr_db"] == [26.25, 26.25]
    assert found["metrics"]["rfid"] == [None, 3.5]


@pytest.mark.parametrize(
    ("options", "count"),
    [(["--share", "1"], 20), (["--share", "0.25"], 5), (["--shards", "3"], 3)],
)
def test_diff_options_say_of_how_many_shards(pair, options, count, capsys):
    found = diff(*pair, *options, capsys=capsys)["codes"]
    assert len(found["shards"]) == count
    larger = diff(*pair, "--share", "1", capsys=capsys)["codes"]
    assert set(found["shards"]) <= set(larger["shards"])


@pytest.mark.parametrize("how", [{"codebook_size": 8}, {"grid": (3, 2)}])
def test_diff_of_other_grids_or_codebooks_compares_no_codes_and_says_why(
    pair, tmp_path, how, capsys
):
    make(tmp_path, NAMES[:2], **how)
    found = diff(pair[0], tmp_path, capsys=capsys)
    assert not found["codes"]["compared"]
    assert "differ" in found["codes"]["why_not"]
    assert (found["jensen_shannon"] is None) == ("codebook_size" in how)
    assert cli.main(["diff", str(pair[0]), str(tmp_path)]) == 0
    assert found["codes"]["why_not"] in capsys.readouterr().out


def test_diff_of_plans_without_a_common_shard_says_so(pair, tmp_path, capsys):
    make(tmp_path, ["other"])
    found = diff(pair[0], tmp_path, capsys=capsys)
    assert found["shards"]["both"] == 0
    assert found["shards"]["only"] == [20, 1]
    assert not found["codes"]["compared"]


def test_diff_of_a_sink_with_itself_finds_nothing(pair, capsys):
    found = diff(pair[0], pair[0], capsys=capsys)
    assert found["fields"] == {}
    assert found["codes"]["equal"] == 1.0
    assert found["jensen_shannon"] == 0.0


def test_diff_prints_both_sides_and_ends_with_where_they_are(pair, capsys):
    assert cli.main(["diff", *map(str, pair)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["dtype", "float32", "bfloat16"] for line in lines)
    assert any(line.split() == ["encoded", "60", "80"] for line in lines)
    assert [line.split()[-1] for line in lines[-2:]] == [f"{sink}/data/" for sink in pair]


def test_diff_of_started_runs_without_codes_is_a_report_too(tmp_path, capsys):
    sinks.begin(tmp_path / "a")
    sinks.begin(tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b", capsys=capsys)
    assert (found["codes"]["compared"], found["jensen_shannon"]) == (False, None)


@pytest.mark.parametrize(
    "options", [["--shards", "0"], ["--share", "0"], ["--share", "1.5"],
                ["--shards", "2", "--share", "0.5"]],
)  # fmt: skip
def test_diff_option_out_of_bounds_is_a_config_error(pair, options):
    assert cli.main(["diff", *map(str, pair), *options]) == 4


def test_diff_place_without_a_run_is_a_config_error_that_names_it(pair, tmp_path, capsys):
    assert cli.main(["diff", str(pair[0]), str(tmp_path)]) == 4
    assert str(tmp_path) in capsys.readouterr().err


def test_diff_keys_cannot_control_the_terminal(tmp_path, capsys):
    make(tmp_path / "a", ["x\x1b[2J"])
    make(tmp_path / "b", ["y\x1b[2J"])
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_diff_says_which_run_was_evaluated_before_it_held_what_it_holds(tmp_path, capsys):
    writer = sinks.begin(tmp_path / "a", ["s", "t"])
    sinks.commit(writer, 0, 4)
    sinks.evaluate(writer)
    sinks.commit(writer, 1, 4)
    sinks.evaluate(make(tmp_path / "b", ["s", "t"]))
    found = diff(tmp_path / "a", tmp_path / "b", capsys=capsys)
    first, second = found["metrics_outdated"]
    assert "1 of 2 shards" in first
    assert second is None
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert first in capsys.readouterr().out


MAKERS = {"encode": make, "decode": sinks.decode, "evaluate": sinks.score}


@pytest.mark.parametrize(
    ("first", "second", "made"),
    [
        ("decode", "decode", "decoded"),
        ("evaluate", "evaluate", "evaluated"),
        ("encode", "decode", "encoded/decoded"),
        ("evaluate", "encode", "evaluated/encoded"),
    ],
)
def test_diff_of_any_stages_sets_their_counts_side_by_side(tmp_path, first, second, made, capsys):
    places = [tmp_path / "a", tmp_path / "b"]
    for place, stage in zip(places, (first, second), strict=True):
        MAKERS[stage](place, ["s"])
    assert cli.main(["diff", *map(str, places)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = ["4" if stage == "encode" else "3" for stage in (first, second)]
    assert [made, *counts] in lines
    found = diff(*places, capsys=capsys)
    assert not found["codes"]["compared"]
    assert "has no codes" in found["codes"]["why_not"]
    assert found["jensen_shannon"] is None
