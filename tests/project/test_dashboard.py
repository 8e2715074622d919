"""The dashboard for Grafana as a file; `tests.cluster` holds its questions against a run."""

import itertools
import json
import re
import shutil
import subprocess

import pytest

from tests.cluster import dashboard
from vqpipe.engine import metrics

SUFFIXES = ("_bucket", "_count", "_sum")
NAMES = {f"ray_vqpipe_{name}" for name in metrics._SAID}


@pytest.fixture(scope="module")
def board():
    return dashboard.load()


def bare(name):
    """Returns the name of a number of which a sample is one."""
    return next((name.removesuffix(each) for each in SUFFIXES if name.endswith(each)), name)


def test_dashboard_asks_for_numbers_that_a_run_tells_and_for_each_of_them():
    asked = {bare(name) for _, query in dashboard.queries() for name, _ in dashboard.numbers(query)}
    assert asked <= NAMES
    assert NAMES - asked == {"ray_vqpipe_left_out_total"}, "which few runs have"


def test_dashboard_queries_pick_stage_and_run_each_time():
    for panel, query in dashboard.queries():
        for name, labels in dashboard.numbers(query):
            assert {"stage", "run"} <= labels, f"{panel}: {name}"


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian: apt-get install prometheus")
def test_dashboard_queries_are_such_as_prometheus_reads(tmp_path):
    rules = [{"record": "any", "expr": query} for _, query in dashboard.queries()]
    file = tmp_path / "rules.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", str(file)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dashboard_counters_are_asked_for_rates_and_no_other_number_is():
    for panel, query in dashboard.queries():
        rated = set(re.findall(r"rate\((ray_vqpipe_\w+)", query))
        grows = {name for name in rated if name.endswith("_total") or name != bare(name)}
        assert rated == grows, panel


def test_dashboard_can_be_imported_into_any_grafana(board):
    assert not board.get("id"), "that of a dashboard in some other database"
    assert board["schemaVersion"] >= 39
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    kinds = {each["name"]: each["type"] for each in board["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "stage": "query", "run": "query"}
    sources = [each["datasource"]["uid"] for each in board["panels"]]
    sources += [each["datasource"]["uid"] for panel in board["panels"] for each in panel["targets"]]
    assert set(sources) == {"${datasource}"}


def test_dashboard_panels_lie_on_the_grid_and_not_on_each_other(board):
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= 24 for at in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


def test_dashboard_names_what_it_shows_as_the_readme_does():
    told = (dashboard.FILE.parents[1] / "README.md").read_text()
    assert set(re.findall(r"`(ray_vqpipe_\w+)`", told)) == NAMES
