import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sink import sinks
from tests.sink.runs import encoded_rows, query, tar_shard
from vqpipe.commands import cli
from vqpipe.inspection import survey
from vqpipe.sink import todo
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run

NAMES = ("a", "b")


def rejecting(sink):
    """Makes a sink of two shards that reject seven and one of their samples."""
    writer = sinks.begin(sink, NAMES)
    for index, rejected in enumerate([range(1, 8), (3,)]):
        commit_rows(encoded_rows(writer, index, 9, rejected=rejected), writer)
    return str(sink)


def test_inspect_rejected_names_the_first_of_each_reason(tmp_path, capsys):
    sink = rejecting(tmp_path)
    assert cli.main(["inspect", sink, "--rejected", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rejected_by_reason"] == {"corrupt": query(sink, "rejected", "count(*)")[0][0]}
    first = query(sink, "rejected", "key, row, message")[:5]
    assert [(r["key"], r["row"], r["message"]) for r in found["rejections"]["corrupt"]] == first
    assert {r["shard"] for r in found["rejections"]["corrupt"]} == {"a"}


def test_inspect_rejected_prints_counts_keys_and_what_a_reason_means(tmp_path, capsys):
    sink = rejecting(tmp_path)
    assert cli.main(["inspect", sink, "--rejected"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("8 of 18 samples" in line for line in lines)
    assert any(line.split()[:2] == ["corrupt", "8:"] for line in lines)
    assert sum("a/" in line and "row" in line for line in lines) == 5


def test_inspect_rejected_keys_cannot_control_the_terminal(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    rows = encoded_rows(writer, 0, 2, rejected=(1,)).to_pylist()
    rows[1]["key"] = "evil\x1b[2J\nkey [bold]é"
    table = encoded_rows(writer, 0, 2).from_pylist(rows, encoded_rows(writer, 0, 2).schema)
    commit_rows(table, writer)
    assert cli.main(["inspect", str(tmp_path), "--rejected"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"evil\x1b[2J\nkey [bold]é" in out


def inspected(sink, *options, capsys):
    capsys.readouterr()
    assert cli.main(["inspect", str(sink), *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def printed(sink, *options, capsys):
    """Returns the lines, by what they begin with."""
    capsys.readouterr()
    assert cli.main(["inspect", str(sink), *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return {line[2:18].strip(): line[20:] for line in lines}


@pytest.fixture
def complete(tmp_path):
    writer = sinks.begin(tmp_path / "sink")
    for index in range(3):
        sinks.commit(writer, index, 20)
    sinks.end(writer, sinks.LAST | {"devices": ["CPU"]})
    return writer


def without_flips(listed):
    for row in listed:
        row["flips"] = None


def test_inspect_complete_sink_answers_every_question(tmp_path, capsys):
    writer = sinks.begin(tmp_path / "sink", NAMES)
    for index in range(2):
        sinks.commit(writer, index, 20, change=without_flips)
    sinks.end(writer)
    found = inspected(writer.sink.uri, capsys=capsys)
    assert found["ready"]["answer"] == "yes"
    assert (found["complete"], found["shards"], found["shards_left"]) == (True, 2, 0)
    assert (found["totals_from"], found["estimated"]) == ("_SUCCESS", False)
    assert found["pace"]["images_per_second"] == sinks.LAST["images_per_second"]
    assert (found["reader"]["codes_dtype"], found["reader"]["layout"]["shapes"]) == (
        "uint8",
        [[2, 3]],
    )
    assert found["run"]["fingerprint"] == writer.sink.run.fingerprint
    lines = printed(writer.sink.uri, capsys=capsys)
    assert lines["train on it?"].startswith("yes")
    assert list(lines)[-1] == "output"
    assert lines["output"] == f"{writer.sink.uri}/data/"
    assert "bound by" not in lines


def test_inspect_says_what_bound_the_last_command_as_its_summary_did(tmp_path, capsys):
    writer = sinks.begin(tmp_path / "sink", NAMES)
    said = {"bound": "codec", "bound_by": "The codec was the limit. A GPU would help."}
    sinks.end(writer, sinks.LAST | said, is_complete=False)
    assert printed(writer.sink.uri, capsys=capsys)["bound by"] == said["bound_by"]
    pace = inspected(writer.sink.uri, capsys=capsys)["pace"]
    assert {name: pace[name] for name in said} == said


def test_inspect_says_how_images_became_views(complete, tmp_path, capsys):
    drafted = sinks.begin(tmp_path / "drafted", draft=True)
    lines = [printed(each.sink.uri, capsys=capsys)["pixels"] for each in (complete, drafted)]
    assert lines == [
        "32 px, bicubic, signed range, float32",
        "32 px, bicubic, large JPEGs drafted, signed range, float32",
    ]


def test_inspect_exact_reads_every_footer_and_finds_the_same(complete, capsys):
    quick = inspected(complete.sink.uri, capsys=capsys)
    exact = inspected(complete.sink.uri, "--exact", capsys=capsys)
    assert (exact.pop("totals_from"), exact.pop("footers_read")) == ("footers", 3)
    assert (quick.pop("totals_from"), quick.pop("footers_read")) == ("_SUCCESS", 0)
    assert exact == quick


def shown_by(command, **environment):
    """Returns what a command prints that a person copies into a shell."""
    how = {"shell": True, "capture_output": True, "text": True, "check": True}
    return subprocess.run(command, env=os.environ | environment, **how).stdout


def test_inspect_read_line_is_a_command_that_works(complete, capsys):
    shown = shown_by(inspected(complete.sink.uri, capsys=capsys)["read_with"])
    assert "key: string" in shown
    assert "a/0" in shown


@pytest.mark.parametrize("name", ["it's", 'a "b" $HOME', "`x`"])
def test_inspect_read_line_of_an_odd_place_works_too(tmp_path, name, capsys):
    writer = sinks.begin(tmp_path / name)
    sinks.commit(writer, 0, 6)
    assert "a/0" in shown_by(inspected(writer.sink.uri, capsys=capsys)["read_with"])


@pytest.mark.s3
def test_inspect_read_line_of_a_bucket_works_too(bucket, capsys):
    writer = sinks.begin(f"{bucket}/it's here")
    sinks.commit(writer, 0, 6)
    assert "a/0" in shown_by(inspected(writer.sink.uri, capsys=capsys)["read_with"])


@pytest.mark.parametrize("name", ["it's", 'a "b" $HOME', "`x`"])
def test_inspect_read_line_is_one_of_duckdb_where_that_is_installed(
    tmp_path, name, monkeypatch, capsys
):
    program = tmp_path / "bin" / "duckdb"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys, duckdb\nprint(duckdb.sql(sys.argv[2]).fetchall())\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    writer = sinks.begin(tmp_path / name)
    sinks.commit(writer, 0, 6)
    command = inspected(writer.sink.uri, capsys=capsys)["read_with"]
    assert command.startswith("duckdb -c ")
    assert "('a/0', 0" in shown_by(command)


def test_inspect_unfinished_sink_says_what_is_safe_and_how_long_it_takes(tmp_path, capsys):
    writer = sinks.begin(tmp_path, [f"{index:02d}" for index in range(10)])
    for index in range(4):
        sinks.commit(writer, index, 20, change=without_flips)
    sinks.end(writer, is_complete=False)
    found = inspected(tmp_path, capsys=capsys)
    assert (found["ready"]["answer"], found["complete"]) == ("no", False)
    assert (found["shards"], found["shards_left"]) == (4, 6)
    assert (found["pace"]["images_left"], found["pace"]["seconds_left"]) == (120, 30)
    lines = printed(tmp_path, capsys=capsys)
    assert lines["train on it?"].startswith("not yet: 4 of 10 shards")
    assert "30.0 s" in lines["left"]


def test_inspect_started_sink_without_any_object_says_so(tmp_path, capsys):
    sinks.begin(tmp_path)
    assert inspected(tmp_path, capsys=capsys)["pace"] is None
    assert printed(tmp_path, capsys=capsys)["train on it?"].startswith("not yet: 0 of 3")


def test_inspect_evaluation_and_report_are_shown(complete, tmp_path, capsys):
    said = sinks.evaluate(complete, drift=sinks.drift(0.9, 0.2, 0.1, median=0.2, shards=3))
    (tmp_path / "sink" / "report.html").write_text("<html>")
    found = inspected(complete.sink.uri, capsys=capsys)
    assert found["evaluation"] == said
    assert found["report"] == f"{complete.sink.uri}/report.html"
    assert "drift" in {why["check"] for why in found["ready"]["why"]}
    lines = printed(complete.sink.uri, capsys=capsys)
    assert "26.25 dB" in lines["reconstruction"]
    assert "LPIPS" not in lines["reconstruction"]
    assert lines["report"] == found["report"]


def test_inspect_evaluation_of_another_run_is_not_shown(complete, capsys):
    sinks.evaluate(complete, fingerprint="0" * 64)
    assert inspected(complete.sink.uri, capsys=capsys)["evaluation"] is None
    assert "reconstruction" not in printed(complete.sink.uri, capsys=capsys)


def retried(writer):
    """Tries the rejected samples of the first shard again."""
    left = todo.retriable(writer.sink, {})
    again = replace(writer, attempt=Attempt("again", dict.fromkeys(left, 1), 5, "13"))
    commit_rows(encoded_rows(again, 0, 20, range(1, 2)), again)
    sinks.end(writer)


def encoded_again(writer):
    """Makes the first shard anew, after its object was removed, with other codes."""
    Path(writer.sink.uri, "data", "a.parquet").unlink()
    sinks.commit(writer, 0, 20, rejected=(1,), change=same_codes)
    sinks.end(writer)


def same_codes(rows):
    without_flips(rows)
    for row in rows:
        row["codes"] = row["codes"] and [1] * 6


def extended(writer):
    """Plans another shard."""
    listed = Plan.of(tar_shard(name) for name in (*writer.sink.plan.names, "d"))
    start_run(writer.sink.uri, writer.sink.run, listed, Growth(extend=True))


def finished(writer):
    sinks.commit(writer, 2, 20, change=without_flips)
    sinks.end(writer)


@pytest.mark.parametrize(
    ("done", "change", "when"),
    [
        (3, retried, "when 59 samples were encoded, not 60"),
        (3, encoded_again, "before shards were encoded again"),
        (3, extended, "before shards were added or changed"),
        (2, finished, "when 2 of 3 shards were done"),
    ],
)
def test_inspect_evaluation_of_other_codes_is_said_to_be_and_does_not_count(
    tmp_path, done, change, when, capsys
):
    writer = sinks.begin(tmp_path / "sink")
    for index in range(done):
        sinks.commit(writer, index, 20, rejected=() if index else (1,), change=without_flips)
    sinks.end(writer, is_complete=done == 3)
    far = sinks.drift(0.9, 0.2, 0.1, median=0.2, shards=3)
    sinks.evaluate(writer, drift=far, codes_unlike_float32=0.9)
    sound = inspected(writer.sink.uri, capsys=capsys)
    assert sound["evaluation_outdated"] is None
    assert {"drift", "unlike"} <= {why["check"] for why in sound["ready"]["why"]}
    change(writer)
    found = inspected(writer.sink.uri, capsys=capsys)
    assert when in found["evaluation_outdated"]
    assert not {"drift", "unlike"} & {why["check"] for why in found["ready"]["why"]}
    assert when in printed(writer.sink.uri, capsys=capsys)["evaluation"]


@pytest.mark.parametrize("name", ["summary.json", "evaluation.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff{", b'{"metrics": null}'])
def test_inspect_strange_side_files_are_no_error(complete, tmp_path, name, content, capsys):
    (tmp_path / "sink" / name).write_bytes(content)
    printed(complete.sink.uri, capsys=capsys)


def test_inspect_stage_that_it_does_not_know_is_refused_by_name(tmp_path, capsys):
    sinks.begin(tmp_path)
    said = json.loads((tmp_path / "run.json").read_bytes())
    said["identity"]["stage"] = "other"
    (tmp_path / "run.json").write_text(json.dumps(said))
    assert cli.main(["inspect", str(tmp_path)]) == 3
    assert "'other'" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 120])
def test_inspect_on_a_terminal_breaks_between_words_and_keeps_commands_whole(
    complete, width, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    sinks.evaluate(complete, drift=sinks.drift(0.9, 0.2, 0.1, median=0.2, shards=3))
    capsys.readouterr()
    assert cli.main(["inspect", complete.sink.uri]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    long = [line for line in text.splitlines() if len(line) > width]
    assert all(complete.sink.uri in line for line in long)
    assert inspected(complete.sink.uri, capsys=capsys)["read_with"] in text


def test_inspect_many_shards_under_way_reads_a_share_and_says_about(tmp_path, capsys):
    names = [f"{index:04d}" for index in range(survey.FEW + 200)]
    writer = sinks.begin(tmp_path, names)
    sinks.fill(writer, survey.FEW + 100, survey.FEW)  # a footer of another shard would be refused
    found = inspected(tmp_path, capsys=capsys)
    assert (found["estimated"], found["footers_read"]) == (True, survey.FEW)
    assert found["shards"] == survey.FEW + 100
    assert found["samples"] == 8 * (survey.FEW + 100)
    lines = printed(tmp_path, capsys=capsys)
    assert lines["samples"].startswith("about ")
