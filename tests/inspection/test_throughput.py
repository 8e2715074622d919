"""What the report is told of the last command's speed, out of `summary.json`."""

import json

import pytest

from vqpipe.inspection.evaluation import _throughput

SEEN = {
    "seconds": 300.0,
    "reading": 0.1,
    "opening": 0.95,
    "codec": 0.4,
    "committing": 0.0,
    "gpu": 0.38,
    "gpu_memory_bytes": 2**34,
    "gpu_memory_total_bytes": 2**37,
}


@pytest.mark.parametrize("lacks", [(), ("opening", "gpu", "gpu_memory_bytes")])
def test_throughput_of_a_report_is_what_the_summary_says(tmp_path, lacks):
    seen = {name: value for name, value in SEEN.items() if name not in lacks}
    said = {"throughput": [[1.0, 0], [9.0, 80]], "bound_by": "It was slow.", "occupancy": seen}
    (tmp_path / "summary.json").write_text(json.dumps(said))
    found = _throughput(str(tmp_path))
    parts = ("reading", "opening", "codec", "committing")
    assert found.busy == [(part, seen[part]) for part in parts if part in seen]
    assert (found.bound_by, found.points) == ("It was slow.", [(1.0, 0), (9.0, 80)])
    assert found.gpu == seen.get("gpu")
    assert found.gpu_memory == (None if lacks else (2**34, 2**37))


def test_throughput_of_an_older_summary_has_no_parts(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"throughput": [], "bound_by": None}))
    assert _throughput(str(tmp_path)).busy == []
