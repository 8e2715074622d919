"""The example that trains on codes: what it learns, and that a kill changes nothing of it."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from infra.demo.gpt_picture import CURVE, GAP, LEFT, SIDE, TEXT
from PIL import Image

from tests import plain, shell
from tests.makers import jpeg, tar_of
from vqpipe import CodesDataset

ROOT = Path(__file__).parents[2]
STEPS, SAVED = 100, 20
SAMPLES, CAPTIONS = 52, 3  # six batches of eight an epoch, and four samples that are left out


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    """Codes of photos of 16 px, of which those with the same caption are the same."""
    home = tmp_path_factory.mktemp("photos")
    members = {}
    for number in range(SAMPLES):
        kind = number % CAPTIONS
        members[f"{number:03d}.jpg"] = jpeg(64, 64, seed=kind)
        members[f"{number:03d}.txt"] = f"a piece of photo_{kind}".encode()
    (home / "0.tar").write_bytes(tar_of(members))
    how = ["--resolution", "16", "--keep", "txt", "--pixel-range", "signed", "--skip-doctor"]
    source = ["--source", home / "0.tar", "--sink", home / "codes", "--model", shell.CHECKPOINT]
    assert plain.run([["encode", *source, *how]]) == [0]
    return home / "codes"


def begin(sink, output, cache):
    """Returns the example as a process that trains."""
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "VQPIPE_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "infra.demo.gpt", str(sink), str(output), str(STEPS)],
        cwd=ROOT,
        env={**os.environ, **alone},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(sink, tmp_path_factory):
    """What it leaves, and its checkpoint, when nothing happens to it."""
    output = tmp_path_factory.mktemp("trained")
    with begin(sink, output / "gpt", output / "cache") as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    return output / "gpt", torch.load(output / "gpt" / "checkpoint.pt", weights_only=True)


def test_gpt_learns_more_than_how_often_each_code_is_there(sink, trained):
    losses = trained[1]["losses"]

    times = duckdb.sql(
        f"SELECT count(*) FROM (SELECT unnest(codes) AS code FROM '{sink}/data/*.parquet') "
        "GROUP BY code"
    ).fetchnumpy()["count_star()"]
    share = times / times.sum()
    entropy = -(share * np.log(share)).sum()  # no guess that is blind to what is around does better
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(np.log(1024), abs=0.4)
    assert np.mean(losses[-SAVED:]) < entropy / 2


@pytest.mark.slow
@pytest.mark.soak
def test_gpt_that_was_killed_goes_on_as_if_it_was_not(sink, trained, tmp_path):
    with begin(sink, tmp_path / "gpt", tmp_path / "cache") as process:
        said = next(line for line in process.stdout if line.startswith(f"step {SAVED} "))
        process.kill()
    assert process.returncode == -signal.SIGKILL, said
    kept = torch.load(tmp_path / "gpt" / "checkpoint.pt", weights_only=True)
    with begin(sink, tmp_path / "gpt", tmp_path / "cache") as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said

    found = torch.load(tmp_path / "gpt" / "checkpoint.pt", weights_only=True)
    done = len(kept["losses"])
    assert SAVED <= done < STEPS
    assert f"goes on behind step {done}\n" in said
    assert following(sink, tmp_path, kept["data"]) == batches(sink, tmp_path)[done : done + 6]
    assert found["losses"] == trained[1]["losses"]
    assert found["data"] == trained[1]["data"]
    for name, weights in trained[1]["gpt"].items():
        assert torch.equal(weights, found["gpt"][name]), name
    pictures = [Path(each, "samples.png").read_bytes() for each in (tmp_path / "gpt", trained[0])]
    assert pictures[0] == pictures[1]


def batches(sink, cache):
    """Returns which samples are in each batch of as many epochs as it trains for."""
    data = open_as_it_does(sink, cache)
    found = []
    for epoch in range(STEPS // 6 + 1):
        data.set_epoch(epoch)
        found += [batch["__sample__"].tolist() for batch in data]
    return found


def following(sink, cache, state):
    """Returns which samples are in the six batches behind a state."""
    loader = open_as_it_does(sink, cache).loader()
    loader.load_state_dict(state)
    both = itertools.chain(loader, loader)  # what is left of an epoch, and the next
    return [batch["__sample__"].tolist() for batch in itertools.islice(both, 6)]


def open_as_it_does(sink, cache):
    return CodesDataset(str(sink), batch_size=8, tail="drop", cache=cache / "cache")


def test_gpt_draws_a_column_a_caption(trained):
    with Image.open(trained[0] / "samples.png") as picture:
        size = picture.size
        shown = np.asarray(picture.convert("RGB"))

    assert size == (LEFT + CAPTIONS * (SIDE + GAP), TEXT + 4 * (SIDE + GAP) + CURVE)
    for column in range(CAPTIONS):
        for row in range(4):
            top, left = TEXT + row * (SIDE + GAP), LEFT + column * (SIDE + GAP)
            assert shown[top : top + SIDE, left : left + SIDE].std() > 1  # a picture, no paper
