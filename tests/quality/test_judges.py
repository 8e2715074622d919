import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save
from torch import nn

from tests.hub import server as hub_server
from vqpipe.errors import CheckpointError
from vqpipe.quality.judges import Judge, build_network, load_same, read_state
from vqpipe.vqgan.tensors import digest_tensors

OLD, NEW = (save({"weight": torch.full((2,), value)}) for value in (1.0, 2.0))
FILES = {"main": {"nets/a.safetensors": NEW}, "v1": {"nets/a.safetensors": OLD}}
READ = """
import json, sys
from vqpipe.errors import VqpipeError
from vqpipe.quality.judges import read_state
for where in json.loads(sys.argv[1]):
    try:
        print(json.dumps(read_state(where)["weight"].tolist()))
    except VqpipeError as error:
        print(json.dumps([type(error).__name__, error.message]))
"""


def read_elsewhere(places, endpoint, cache):
    """Reads in a process of its own: the client reads the environment once, when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(places)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_read_state_from_the_hub_takes_a_file_of_a_revision_and_explains_what_it_lacks(tmp_path):
    first = hub_server.commit_of(FILES["v1"])
    places = [
        "hf://org/judge/nets/a.safetensors",
        "hf://org/judge@v1/nets/a.safetensors",
        f"hf://org/judge@{first}/nets/a.safetensors",
        "hf://org/judge/nets/b.safetensors",
        "hf://org/missing/a.safetensors",
        "hf://org/judge@v2/a.safetensors",
        "hf://judge",
    ]
    with hub_server.serve({"org/judge": FILES}) as (endpoint, _):
        found = read_elsewhere(places, endpoint, tmp_path)
    assert found[:3] == [[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]
    for (kind, message), part in zip(
        found[3:], ["nets/b.safetensors", "org/missing", "'v2'", "hf://judge"], strict=True
    ):
        assert kind == "CheckpointError"
        assert part in message


def test_read_state_from_a_path_gives_its_tensors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(NEW)
    torch.save({"weight": torch.full((2,), 2.0)}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        assert read_state(str(tmp_path / name))["weight"].tolist() == [2, 2]


def test_read_state_of_no_file_or_a_damaged_one_is_checkpoint_error_that_names_it(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(NEW[:-3])
    (tmp_path / "html.pth").write_bytes(b"<html>404</html>")
    for name in ("missing.pth", "cut.safetensors", "html.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_state(str(tmp_path / name))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_read_state_of_a_file_with_code_runs_none_of_it(tmp_path):
    made = tmp_path / "made"
    torch.save({"weight": Touch(str(made))}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        read_state(str(tmp_path / "evil.pth"))
    assert not made.exists()


def load_plain(where, device):
    state = read_state(where)
    return build_network(lambda: nn.Linear(2, 1, bias=False), state, where, "get it").to(device)


def write_plain(path, value):
    path.write_bytes(save({"weight": torch.full((1, 2), value)}))
    network = load_plain(str(path), "cpu")
    return Judge(str(path), digest_tensors(network.state_dict()))


def test_load_same_gives_the_network_that_was_meant(tmp_path):
    judge = write_plain(tmp_path / "a.safetensors", 1.0)
    found = load_same(load_plain, judge, torch.device("cpu"))
    assert found.weight.tolist() == [[1, 1]]


def test_load_same_of_a_file_that_is_another_here_names_it_and_the_machine(tmp_path):
    judge = write_plain(tmp_path / "a.safetensors", 1.0)
    write_plain(tmp_path / "a.safetensors", 2.0)
    with pytest.raises(CheckpointError) as caught:
        load_same(load_plain, judge, torch.device("cpu"))
    for part in (judge.where, platform.node(), "other weights", "s3:// or hf://"):
        assert part in str(caught.value)


def test_load_same_of_a_file_that_is_not_here_says_where_to_put_it(tmp_path):
    judge = Judge(str(tmp_path / "a.safetensors"), "0" * 64)
    with pytest.raises(CheckpointError) as caught:
        load_same(load_plain, judge, torch.device("cpu"))
    for part in ("there is no file", judge.where, platform.node(), "s3:// or hf://"):
        assert part in str(caught.value)
