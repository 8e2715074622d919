import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pyarrow as pa
import pytest

from tests import shell
from tests.faults.killer import KINDS
from tests.images import poison
from tests.makers import encoded, jpeg, picture, tar_of
from vqpipe.engine.tasks import ahead
from vqpipe.errors import ConfigError
from vqpipe.images import Compressed, Preprocess, View, open_images, square
from vqpipe.images.sandbox import Sandbox
from vqpipe.rejections import Reason, Rejection

HOW = Preprocess(square(32), max_pixels=1_000_000)
BAD = (b"", b"<html>", jpeg(50, 40)[:400], encoded(picture(1100, 1000), "PNG"))


@pytest.fixture
def sandbox():
    sandbox = Sandbox(HOW, time_limit_s=1.0)
    yield sandbox
    sandbox.close()


def test_child_is_known_to_what_kills_processes_of_a_run(sandbox):
    run(sandbox, [jpeg(50, 40)])
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert [line for line in lines if re.match(KINDS["sandbox"], line)]


@pytest.fixture
def poisoned(tmp_path, monkeypatch, sandbox):
    """A sandbox whose child obeys poisoned images."""
    monkeypatch.syspath_prepend(poison.write_site(tmp_path))
    return sandbox


def run(sandbox, images):
    return sandbox.open(Compressed.of(images))


def check_equal(found, images, how=HOW):
    """Checks that all is as in the process itself."""
    expected = open_images(Compressed.of(images), how)
    assert np.array_equal(found.pixels, expected.pixels)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, tuple):
            check_views(one, other)
        else:
            assert one == other


def check_views(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one[1:] == other[1:]
        assert np.array_equal(one.pixels, other.pixels)


def test_open_gives_what_opening_in_the_process_gives(sandbox):
    images = [jpeg(60, 40, seed=i) for i in range(5)] + [None, *BAD, jpeg(30, 90)]
    check_equal(run(sandbox, images), images)


def test_open_tables_of_any_size_one_after_the_other(sandbox):
    for count in (1, 0, 40, 3):
        images = [jpeg(60 + count, 40, seed=i) for i in range(count)]
        check_equal(run(sandbox, images), images)
    big = [encoded(picture(900, 900), "BMP")]
    check_equal(run(sandbox, big), big)


def test_prepare_in_another_thread_goes_on_while_images_are_opened(poisoned):
    """Tables that grow need other memory and with it a new child, and some images kill it."""
    tables = [
        [jpeg(60, 40 + each, seed=i) for i in range(5 * each % 13)]
        + [poison.CRASH] * (each % 4 == 1)
        for each in range(12)
    ]
    prepared = (poisoned.prepare(Compressed.of(images)) for images in tables)
    found = [poisoned.open_prepared(each) for each in ahead(prepared)]
    assert len(found) == len(tables)
    for opened, images in zip(found, tables, strict=True):
        good = [image for image in images if image != poison.CRASH]
        assert [bool(each) for each in opened.rejections] == [each not in good for each in images]
        expected = open_images(Compressed.of(good), HOW)
        assert np.array_equal(opened.pixels, expected.pixels)


def test_prepare_needs_no_other_child_while_one_is_at_work(poisoned, tmp_path):
    images = [jpeg(60, 40, seed=i) for i in range(3)]
    check_equal(run(poisoned, images), images)
    child = poisoned._child
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(run, poisoned, [poison.AWAIT])
        while not (tmp_path / "reached").exists():
            assert not first.done()
        second = poisoned.prepare(Compressed.of(images))
        assert not first.done()
        (tmp_path / "go").touch()
        assert first.result().is_open.all()
    check_equal(poisoned.open_prepared(second), images)
    assert poisoned._child is child


def test_open_pixels_stay_as_long_as_anyone_refers_to_them(sandbox):
    first, second = [jpeg(60, 40, seed=i) for i in range(3)], [jpeg(60, 40, seed=i) for i in (7, 8)]
    held = pa.py_buffer(run(sandbox, first).pixels)
    check_equal(run(sandbox, second), second)
    check_equal(run(sandbox, [*second, *second]), [*second, *second])
    expected = open_images(Compressed.of(first), HOW)
    assert np.array_equal(np.frombuffer(held, np.uint8), expected.pixels.ravel())


def used(sandbox):
    """Returns whether anything has been written to each piece of memory."""
    return [os.fstat(each.file.fileno()).st_blocks > 0 for each in sandbox._memories]


def test_open_uses_memory_again_that_nobody_refers_to(sandbox):
    images = [jpeg(60, 40, seed=i) for i in range(3)]
    for _ in range(5):
        held = pa.py_buffer(run(sandbox, images).pixels)
        child = sandbox._child._process.pid
        del held
    assert used(sandbox) == [True, False, False, False]
    found = [run(sandbox, images)]
    for _ in range(5):
        check_equal(run(sandbox, images), images)
    assert used(sandbox) == [True, True, False, False]
    found += [run(sandbox, images) for _ in range(3)]
    assert (used(sandbox), sandbox._child._process.pid) == ([True] * 4, child)
    found.append(run(sandbox, images))
    assert (len(sandbox._memories), sandbox._child._process.pid == child) == (8, False)
    for opened in found:
        check_equal(opened, images)
    del found, opened
    check_equal(run(sandbox, images * 9), images * 9)
    assert len(sandbox._memories) == 4  # what was too small is gone


def test_open_tells_how_many_are_through(poisoned):
    told = []
    poisoned.open(Compressed.of([jpeg(), None, poison.SLEEP_ONCE, jpeg()]), told.append)
    assert set(told) <= {0, 1, 2, 3}
    assert 2 in told


def test_open_views_of_any_proportions():
    how = Preprocess(((16, 40),))
    images = [jpeg(60, 40), b"", jpeg(30, 90), None]
    sandbox = Sandbox(how)
    try:
        check_equal(run(sandbox, images), images, how)
    finally:
        sandbox.close()


def test_open_takes_images_as_arrow_holds_them(sandbox):
    images = [jpeg(60, 40), jpeg(50, 50)]
    found = run(sandbox, [memoryview(pa.py_buffer(image)) for image in images])
    check_equal(found, images)


def test_open_keeps_its_child(sandbox):
    run(sandbox, [jpeg()])
    child = sandbox._child._process.pid
    run(sandbox, [jpeg(), b"not an image"])
    assert sandbox._child._process.pid == child


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (poison.CRASH, Reason.DECODER_CRASHED),
        (poison.ABORT, Reason.DECODER_CRASHED),
        (poison.KILL, Reason.TOO_MUCH_MEMORY),
        (poison.HANG, Reason.TIMED_OUT),
        (poison.SLEEP, Reason.TIMED_OUT),
        (poison.MEMORY, Reason.TOO_MUCH_MEMORY),
        (poison.NAMELESS, Reason.DECODER_CRASHED),
    ],
    ids=["crash", "abort", "kill", "hang", "sleep", "memory", "nameless"],
)
def test_open_poison_costs_itself_alone(poisoned, image, reason):
    good = [jpeg(60, 40, seed=i) for i in range(4)]
    images = [good[0], image, good[1], good[2], image, good[3]]
    started = time.monotonic()
    found = run(poisoned, images)
    assert time.monotonic() - started < 30
    for place in (1, 4):
        assert isinstance(found[place], Rejection)
        assert found[place].reason is reason
        assert found[place].message
    expected = open_images(Compressed.of(good), HOW)
    assert np.array_equal(found.pixels, expected.pixels)
    for place, other in zip((0, 2, 3, 5), expected, strict=True):
        check_views(found[place], other)


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "image",
    [poison.CRASH_ONCE, poison.KILL_ONCE, poison.HANG_ONCE, poison.SLEEP_ONCE],
    ids=["crash", "kill", "hang", "sleep"],
)
def test_open_trouble_that_does_not_come_again_costs_nothing(poisoned, image):
    found = run(poisoned, [jpeg(), image, jpeg(seed=1)])
    assert [type(each) for (each,) in found] == [View] * 3
    assert (found[1][0].pixels == (255, 0, 0)).all()


def test_open_child_that_was_killed_between_tables_is_replaced(sandbox):
    images = [jpeg(), jpeg(seed=1)]
    run(sandbox, images)
    sandbox._child._process.kill()
    sandbox._child._process.wait()
    check_equal(run(sandbox, images), images)


@pytest.mark.fault(32)
def test_open_child_sees_nothing_of_the_environment(poisoned, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1234")
    (found,) = run(poisoned, [poison.ENVIRONMENT])
    assert "PYTHONPATH=" in found.message
    assert "canary" not in found.message
    assert "AWS" not in found.message


@pytest.mark.fault(1)
def test_open_child_that_is_killed_before_it_is_ready_is_replaced(tmp_path, monkeypatch, sandbox):
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/killed ] && exec {sys.executable} "$@"\n'
        f": > {tmp_path}/killed; kill -KILL $$\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    images = [jpeg(), jpeg(seed=1)]
    check_equal(run(sandbox, images), images)
    assert (tmp_path / "killed").exists()


def test_open_without_a_python_is_a_config_error(sandbox, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="exit code 1"):
        run(sandbox, [jpeg()])


def test_open_that_is_interrupted_leaves_nothing_for_the_next(poisoned):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poisoned.open(Compressed.of([jpeg(), poison.SLEEP_ONCE, jpeg()]), interrupt)
    images = [jpeg(60, 40, seed=i) for i in range(3)]
    check_equal(run(poisoned, images), images)


@pytest.mark.fault(20)
def test_memory_cannot_be_cut_off_under_a_reader(sandbox):
    run(sandbox, [jpeg()])
    memory, *_ = sandbox._memories
    with pytest.raises(PermissionError):
        memory.file.truncate(0)


def test_close_ends_the_child(sandbox):
    run(sandbox, [jpeg()])
    pid = sandbox._child._process.pid
    assert pid in {child.pid for child in psutil.Process(os.getpid()).children()}
    sandbox.close()
    assert not psutil.pid_exists(pid)


PARENT = """
from vqpipe.images import Compressed, Preprocess, square
from vqpipe.images.sandbox import Sandbox
from tests.images import poison

sandbox = Sandbox(Preprocess(square(32)), time_limit_s=1000)
sandbox.open(Compressed.of([b""]))
print(sandbox._child._process.pid, flush=True)
sandbox.open(Compressed.of({images}))
input()
"""


@pytest.mark.fault(1)
@pytest.mark.parametrize("images", ["[poison.HANG]", "[poison.SLEEP]", "[]"])
def test_parent_that_is_killed_takes_its_child_along(tmp_path, images):
    path = os.pathsep.join((str(poison.write_site(tmp_path)), *filter(None, sys.path)))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(images=images)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive


OPEN_ONE = """
from vqpipe.images import Compressed, Preprocess, square
from vqpipe.images.sandbox import Sandbox
from tests.images import poison

sandbox = Sandbox(Preprocess(square(32)), time_limit_s=1)
sandbox.open(Compressed.of([b""]))
child = sandbox._child
(found,) = sandbox.open(Compressed.of([poison.AWAIT]))
print(type(found[0]).__name__, sandbox._child is child, flush=True)
"""


@pytest.mark.fault(20)
def test_open_image_while_all_is_suspended_is_opened(tmp_path):
    path = os.pathsep.join((str(poison.write_site(tmp_path)), *filter(None, sys.path)))
    parent = psutil.Popen(
        [sys.executable, "-c", OPEN_ONE],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    while not (tmp_path / "reached").exists():
        assert parent.poll() is None
    everything = [parent, *parent.children(recursive=True)]
    for process in everything:
        process.suspend()
    time.sleep(3)  # the clock may show 2
    (tmp_path / "go").touch()
    for process in reversed(everything):
        process.resume()
    output, _ = parent.communicate(timeout=60)
    assert output.split() == ["View", "True"], "its child was not to blame, and not replaced"


@pytest.mark.fault(20)
def test_open_image_that_takes_longer_by_the_clock_than_of_the_processor_is_opened(
    poisoned, tmp_path
):
    opened = {}
    thread = threading.Thread(target=lambda: opened.update(found=run(poisoned, [poison.AWAIT])))
    thread.start()
    while not (tmp_path / "reached").exists():
        assert thread.is_alive()
    time.sleep(1.2)  # above the limit of processor time, below that by the clock
    (tmp_path / "go").touch()
    thread.join()
    ((found,),) = opened["found"]
    assert isinstance(found, View)


@pytest.mark.soak
@pytest.mark.fault(20)
@pytest.mark.ray
@pytest.mark.slow
def test_encode_image_that_crashes_its_decoder_is_one_rejection(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(poison.write_site(tmp_path / "site")))
    images = {f"{i}.jpg": jpeg(70, 64, seed=i) for i in range(6)} | {"3.jpg": poison.CRASH}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "0.tar").write_bytes(tar_of(images))
    shell.encode(tmp_path / "source", tmp_path / "sink", "--max-rejected", "1")
    assert set(shell.codes_by_key(tmp_path / "sink")) == {"0", "1", "2", "4", "5"}
    (rejected,) = shell.rows(tmp_path / "sink", "rejected")
    assert (rejected["key"], rejected["reason"]) == ("3", "decoder_crashed")
    assert "SIGSEGV" in rejected["message"]
