import json

from jobs import cli
from pipeline.commit import commit_rows
from tests.runs import encoded_rows, query, start

NAMES = ("a", "b")


def rejecting(sink):
    """Makes a sink of two shards that reject seven and one of their samples."""
    writer = start(sink, names=NAMES)
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
    writer = start(tmp_path)
    rows = encoded_rows(writer, 0, 2, rejected=(1,)).to_pylist()
    rows[1]["key"] = "evil\x1b[2J\nkey [bold]é"
    table = encoded_rows(writer, 0, 2).from_pylist(rows, encoded_rows(writer, 0, 2).schema)
    commit_rows(table, writer)
    assert cli.main(["inspect", str(tmp_path), "--rejected"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"evil\x1b[2J\nkey [bold]é" in out
