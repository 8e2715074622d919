"""Ranks of torch.distributed that train one model on one sink: DDP and FSDP."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.dataset.sinks import make
from vqpipe.permutation import Permutation

TRAIN = """
    import json, os, sys
    import torch
    import torch.distributed as dist
    import vqpipe

    sink, cache, kind = sys.argv[1:]
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    data = vqpipe.CodesDataset(sink, batch_size=4, columns=["codes"], cache=cache, seed=3)
    loader = data.loader(num_workers=1)
    model = torch.nn.Linear(6, 1)
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        model = fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    for epoch in range(2):
        for batch in loader:
            loss = model(batch["codes"].float() / 1024).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(batch["__sample__"].tolist())
    print(json.dumps({"rank": data.rank, "seen": seen, "state": loader.state_dict()}), flush=True)
    dist.destroy_process_group()
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.soak), "fsdp"])
def test_ranks_of_a_trainer_share_the_order_of_each_epoch(tmp_path, kind):
    make(tmp_path / "codes", [20, 1, 9])
    words = [sys.executable, "-c", textwrap.dedent(TRAIN)]
    words += [str(tmp_path / "codes"), str(tmp_path / "cache"), kind]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            words, env=os.environ | world | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]

    said = [json.loads(rank.communicate()[0].splitlines()[-1]) for rank in ranks]

    assert [each["rank"] for each in said] == [0, 1]
    assert said[0]["state"] == said[1]["state"]
    pairs = zip(said[0]["seen"], said[1]["seen"], strict=True)
    found = [number for pair in pairs for batch in pair for number in batch]
    for epoch in range(2):
        order = Permutation(30, 3, epoch, "units of window 0").at(np.arange(30)).tolist()
        assert found[epoch * 32 : epoch * 32 + 32] == order + order[:2]
