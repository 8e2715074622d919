"""A sink is a data set as it is, for people, for `datasets`, and beside what else is in it."""

import json
import os
import re
import subprocess
import sys

import pyarrow as pa
import pytest
import yaml

from tests.sink import sinks
from vqpipe.sink.card import write_card
from vqpipe.sink.run import load_run
from vqpipe.sink.totals import read_totals

LOAD = """
import json, sys, datasets
found = {}
for folder in sys.argv[1:]:
    data = datasets.load_dataset(folder)
    (split,) = data
    rows = data[split]
    label = rows.features.get("label")
    found[folder] = [split, rows.column_names, list(rows["key"]), getattr(label, "names", None)]
print(json.dumps(found))
"""
NAMES = ["cat", "dog"]
FEATURES = {"label": {"names": NAMES, "_type": "ClassLabel"}}
KEPT = pa.schema(
    [("caption", pa.string()), ("score", pa.float32()), ("label", pa.int64())],
    metadata={b"huggingface": json.dumps({"info": {"features": FEATURES}})},
)


def load(tmp_path, *folders):
    """Returns what `datasets` makes of folders, in a process that reaches no hub."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", LOAD, *map(str, folders)]
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return [found[str(folder)] for folder in folders]


def encoded(sink, kept=KEPT, rows=3, **identity):
    """Makes a sink of two shards, one of them in a folder of its own; the last row is rejected."""
    writer = sinks.begin(sink, names=("a", "deep/b"), kept=kept, **identity)
    for index in range(2):
        sinks.commit(writer, index, rows, rejected={rows - 1})
    sinks.end(writer)
    finish(writer)
    return writer


def finish(writer):
    found = read_totals(writer.sink)
    write_card(writer.sink, found)


def front_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_sink_is_what_datasets_loads_with_the_names_of_its_classes(tmp_path):
    codes, images = tmp_path / "codes", tmp_path / "images"
    encoded(codes)
    finish(sinks.score(codes / "evaluation" / "0a1b2c"))
    (codes / "report.html").write_text("<html>")
    (codes / "evaluation.json").write_text('{"test": 1}')
    finish(sinks.decode(images))
    of_codes, of_images, of_scores = load(tmp_path, codes, images, codes / "evaluation" / "0a1b2c")
    split, columns, keys, names = of_codes
    assert (split, sorted(keys)) == ("train", ["a/0", "a/1", "deep/b/0", "deep/b/1"])
    assert {"key", "row", "codes", "caption", "score", "label"} <= set(columns)
    assert names == NAMES
    assert of_images[0] == of_scores[0] == "train"
    assert sorted(of_images[2]) == [f"{name}/{row}" for name in "abc" for row in range(3)]
    assert "psnr_db" in of_scores[1]


def test_sinks_of_one_name_are_not_taken_for_each_other_by_what_datasets_keeps(tmp_path):
    """And neither is a sink for what it was before it grew."""
    here, there = tmp_path / "here" / "codes", tmp_path / "there" / "codes"
    first, second = encoded(here), encoded(there, rows=5)
    assert first.sink.run.fingerprint == second.sink.run.fingerprint
    grown = sinks.begin(tmp_path / "grown" / "codes", names=("a", "b"))
    sinks.commit(grown, 0, 3)
    finish(grown)

    found = [load(tmp_path, folder)[0][2] for folder in (here, there, tmp_path / "grown" / "codes")]
    sinks.commit(grown, 1, 3)
    finish(grown)

    assert list(map(len, found)) == [4, 8, 3]
    assert len(load(tmp_path, tmp_path / "grown" / "codes")[0][2]) == 6


def test_write_card_leaves_a_name_that_somebody_gave(tmp_path):
    writer = encoded(tmp_path / "codes")
    card = tmp_path / "codes" / "README.md"
    named = re.sub(r"config_name: \S+", "config_name: photos", card.read_text())
    card.write_text(named)

    finish(writer)

    assert card.read_text() == named


def test_write_card_says_what_the_run_is_and_stays_yaml(tmp_path):
    writer = encoded(tmp_path / "codes")
    text = (tmp_path / "codes" / "README.md").read_text()
    (config,) = front_of(text)["configs"]
    assert config["data_files"][0]["path"].startswith("data/")
    assert "license" not in front_of(text)
    for said in (
        "6, 2 x 3",
        "16 entries",
        writer.sink.run.fingerprint,
        "vqgan/",
        "2 of 2",
        "row-major",
    ):
        assert said in text
    assert "| encoded | 4 |" in text
    assert "drafted" not in text
    encoded(tmp_path / "drafted", draft=True)
    text = (tmp_path / "drafted" / "README.md").read_text()
    assert "| pixels | 32 px, bicubic, large JPEGs drafted |" in text


def test_write_card_again_keeps_what_the_owner_wrote(tmp_path):
    writer = sinks.begin(tmp_path, names=("a", "b"))
    sinks.commit(writer, 0, 3)
    finish(writer)
    path = tmp_path / "README.md"
    assert "1 of 2" in path.read_text()
    mine = path.read_text().replace("tags:", "license: cc0-1.0\ntags:") + "\nAsk Ada.\n"
    path.write_text(mine)
    sinks.commit(writer, 1, 3)
    finish(writer)
    text = path.read_text()
    assert front_of(text)["license"] == "cc0-1.0"
    assert text.endswith("\nAsk Ada.\n")
    assert "2 of 2" in text
    assert "1 of 2" not in text


@pytest.mark.parametrize("mine", [b"# My data\n", b"\xff\xfe no text", b""])
def test_write_card_leaves_a_readme_of_somebody_else(tmp_path, mine):
    (tmp_path / "README.md").write_bytes(mine)
    encoded(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == mine


def test_write_card_of_names_with_marks_stays_a_table(tmp_path):
    source = "s3://photos/a|b\n---\nlicense: mit\n<!-- from here on it is yours -->\x1b[31m"
    writer = sinks.begin(tmp_path, names=("a",), source=source)
    sinks.commit(writer, 0, 1)
    for _ in range(2):
        finish(writer)
    text = (tmp_path / "README.md").read_text()
    assert "license" not in front_of(text)
    assert text.count("<!-- from here on it is yours -->") == 1
    assert "\x1b" not in text
    assert load_run(str(tmp_path)).identity.source == source
