import json
import re

import pytest

from jobs import summary
from pipeline.errors import IncompleteError
from pipeline.progress import Progress
from tests import sinks


def finish(writer, *, images, before=0, error=None):
    progress = Progress(3, 300, before, encoded=images, durable=images, start_up_s=0.0)
    progress.devices = ("NVIDIA H200",) if images else ()
    summary.finish(writer, progress, 0.5, error)


def said(sink):
    return json.loads((sink / "summary.json").read_bytes())


SPEED = ("seconds", "images_this_run", "images_per_second", "devices", "throughput")


def test_finish_command_with_nothing_to_do_leaves_the_speed_of_the_last_one_that_had(
    tmp_path, capsys
):
    writer = sinks.begin(tmp_path)
    for index in range(2):
        sinks.commit(writer, index, 20)
    with pytest.raises(IncompleteError):
        finish(writer, images=40)
    before = said(tmp_path)
    assert (before["images_this_run"], before["devices"]) == (40, ["NVIDIA H200"])
    sinks.commit(writer, 2, 20)
    capsys.readouterr()
    finish(writer, images=0, before=3)
    after = said(tmp_path)
    assert {name: after[name] for name in SPEED} == {name: before[name] for name in SPEED}
    assert (before["shards"], after["shards"]) == (2, 3)
    assert re.search(r"this run +nothing was left to do", capsys.readouterr().out)


def test_finish_first_command_that_gets_nowhere_says_so(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    with pytest.raises(IncompleteError, match="stopped"):
        finish(writer, images=0, error=IncompleteError("stopped"))
    assert (said(tmp_path)["images_this_run"], said(tmp_path)["devices"]) == (0, [])
    shown = capsys.readouterr().out
    assert "0 of 3 committed" in shown
    assert "no worker was ready" in shown
    assert "perplexity" not in shown, "there is none of no codes"


def test_finish_command_that_does_something_has_its_own_speed(tmp_path):
    writer = sinks.begin(tmp_path)
    for images in (40, 20):
        with pytest.raises(IncompleteError):
            finish(writer, images=images)
    assert said(tmp_path)["images_this_run"] == 20
