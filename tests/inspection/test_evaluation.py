"""What `evaluation.json` says of two sinks that were made without a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.sink import sinks
from vqpipe.inspection import evaluation
from vqpipe.inspection.drift import measure_drift
from vqpipe.report import render_report
from vqpipe.sink.totals import read_totals

NAMES = [f"s{index:02d}" for index in range(30)]
PICKED = NAMES[::6]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An evaluation of three samples of each of five shards, and the sinks that it is of."""
    root = tmp_path_factory.mktemp("found")
    writer = sinks.begin(root / "codes", NAMES)
    for index in range(29):
        sinks.commit(writer, index, 5, rejected=(2,))
    scored = sinks.score(root / "scores", PICKED)
    codes, scores = writer.sink, scored.sink
    found = evaluation.gather(codes, scores, ["a note"], was_complete=True)
    return found, codes, scores


def test_document_has_the_usual_distance_of_all_shards_and_names_the_most_distant(found):
    said, codes = evaluation.to_document(found[0])["drift"], found[1]
    total = read_totals(codes).histogram
    distances = [each.distance for each in measure_drift(codes, total)]
    assert said["shards"] == len(distances) == 29
    assert said["median"] == np.median(distances)
    assert [each["distance"] for each in said["most"]] == distances[: evaluation.DRIFTED]


def test_document_says_what_it_was_measured_of(found):
    said, codes = evaluation.to_document(found[0]), found[1]
    assert said["run"] == {
        "plan_sha256": codes.plan.sha256(),
        "shards_planned": 30,
        "shards": 29,
        "encoded": 29 * 4,
        "data_bytes": sum(file.stat().st_size for file in Path(codes.uri, "data").glob("*")),
    }
    assert json.dumps(said, allow_nan=False)


def test_scores_are_those_of_all_shards_and_the_report_has_their_pictures(found):
    gathered, _, scores = found
    assert gathered.scores["shard"].to_pylist() == [name for name in PICKED for _ in range(3)]
    assert gathered.scores["psnr_db"].to_pylist() == [20, 21, 22] * len(PICKED)
    assert not {"original", "decoded"} & set(gathered.scores.column_names)
    report = evaluation.to_report(gathered, scores, evaluation.to_document(gathered))
    shown = {(each.original, each.width, each.height) for each in report.pictures.random}
    assert shown == {(sinks.PICTURE, 8, 8)}
    assert "s00/2" in render_report(report)
