import errno
import io
import json
import re
import sys

import pytest

from tests.sink import sinks
from vqpipe.commands import summary
from vqpipe.commands.progress import Progress
from vqpipe.commands.summary import Allowance
from vqpipe.engine.counter import Share
from vqpipe.errors import IncompleteError
from vqpipe.occupancy import Spent


def finish(writer, *, images, before=0, error=None):
    progress = Progress(3, 300, before, encoded=images, durable=images, start_up_s=0.0)
    progress.devices = ("NVIDIA H200",) if images else ()
    summary.finish(writer, progress, Allowance(0.5), error).check()


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


def test_finish_complete_run_whose_workers_died_counts_no_image_twice(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    for index in range(3):
        sinks.commit(writer, index, 20)
    progress = Progress(3, 300, encoded=67, durable=60, start_up_s=0.0)
    progress.devices = ("cpu",)
    for index in range(3):
        progress.commit(index)
    summary.finish(writer, progress, Allowance(0.5), None).check()
    shown = capsys.readouterr().out
    assert "60 images in" in shown
    assert "not safe" not in shown
    assert said(tmp_path)["throughput"][-1][1] == 60


def test_finish_command_that_does_something_has_its_own_speed(tmp_path):
    writer = sinks.begin(tmp_path)
    for images in (40, 20):
        with pytest.raises(IncompleteError):
            finish(writer, images=images)
    assert said(tmp_path)["images_this_run"] == 20


def test_finish_run_on_several_machines_says_what_each_of_them_did(tmp_path, capsys):
    shares = {"10.0.0.2/bbbbbb": Share(encoded=20), "10.0.0.1/aaaaaa": Share(opened=20)}
    progress = Progress(3, 300, encoded=20, durable=20, start_up_s=0.0, shares=shares)
    progress.devices = ("cpu",)
    with pytest.raises(IncompleteError):
        summary.finish(sinks.begin(tmp_path), progress, Allowance(0.5), None).check()
    shown = capsys.readouterr().out
    assert "10.0.0.1/aaaaaa: 20 opened, 0 encoded" in shown
    assert "10.0.0.2/bbbbbb: 0 opened, 20 encoded" in shown
    assert said(tmp_path)["machines"] == {
        "10.0.0.1/aaaaaa": {"opened": 20, "encoded": 0},
        "10.0.0.2/bbbbbb": {"opened": 0, "encoded": 20},
    }


class FullDisk(io.StringIO):
    """Standard output that goes to a file on a disk without room."""

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_finish_summary_that_cannot_be_printed_leaves_the_sink_complete(tmp_path, monkeypatch):
    writer = sinks.begin(tmp_path)
    for index in range(3):
        sinks.commit(writer, index, 20)
    monkeypatch.setattr(sys, "stdout", FullDisk())
    with pytest.raises(OSError, match="No space"):
        finish(writer, images=60)
    assert (tmp_path / "_SUCCESS").exists()


def test_finish_stopped_command_says_what_was_encoded_and_is_not_safe(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    progress = Progress(3, 300, encoded=50, durable=0, start_up_s=0.0)
    progress.devices = ("CPU",)
    with pytest.raises(IncompleteError, match="stopped"):
        summary.finish(writer, progress, 0.5, IncompleteError("stopped")).check()
    shown = capsys.readouterr().out
    assert re.search(r"not safe +50 more had been encoded", shown)
    assert "images/s" not in shown, "there is none of no images"


def test_finish_run_of_seconds_is_given_no_verdict_on_what_it_waited_for(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    for index in range(3):
        sinks.commit(writer, index, 20)
    for seconds, verdicts in ((5.0, 0), (300.0, 1)):
        progress = worked_for(seconds)
        summary.finish(writer, progress, Allowance(0.5), None).check()
        assert capsys.readouterr().out.count("bound by") == verdicts
        assert bool(said(tmp_path)["bound_by"]) == bool(verdicts)


def worked_for(seconds):
    """Returns the progress of a command whose GPU was at work for 97 % of so many seconds."""
    progress = Progress(3, 300, encoded=1, start_up_s=0.0)
    progress.devices, progress.gpu_memory = ("NVIDIA H200",), (2**34, 2**37)
    progress.note()
    progress.encoded = progress.durable = 60
    progress.started -= seconds
    progress.spent = Spent(
        codec_s=0.97 * seconds,
        codec_there_s=seconds,
        open_s=seconds,
        core_s=4 * seconds,
        gpu_busy_s=0.9 * seconds,
        gpu_seen_s=seconds,
    )
    progress.note()
    return progress


def test_finish_says_what_bound_it_in_the_summary_and_in_numbers(tmp_path, capsys):
    writer = sinks.begin(tmp_path)
    for index in range(3):
        sinks.commit(writer, index, 20)
    summary.finish(writer, worked_for(300.0), Allowance(0.5), None).check()
    shown = " ".join(capsys.readouterr().out.split())
    assert "bound by The codec was the limit: it worked 97% of the time" in shown
    assert "90% busy by NVML, at most 16.0 of 128.0 GiB in use" in shown
    found = said(tmp_path)
    assert (found["bound"], found["codec_busy"]) == ("codec", pytest.approx(0.97, abs=0.01))
    occupancy = found["occupancy"]
    assert occupancy["opening"] == pytest.approx(0.25, abs=0.01)
    assert occupancy["seconds"] == pytest.approx(300, abs=5)
    assert (occupancy["gpu"], occupancy["gpu_memory_bytes"]) == (0.9, 2**34)
