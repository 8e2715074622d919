"""The same batches through DataLoaders: by workers that are forked or spawned, kept or made anew,
killed and resumed."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.dataset.sinks import grids, make
from tests.dataset.test_dataset import column, samples
from vqpipe import CodesDataset
from vqpipe.errors import ConfigError, DamagedError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # by torchdata 0.11
]

ROWS = (30, 1, 12, 25, 9, 40)
HOW = {"batch_size": 4, "columns": ["codes", "key", "caption"], "seed": 3, "tail": "uneven"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sink(tmp_path):
    make(tmp_path / "codes", ROWS)
    return str(tmp_path / "codes")


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.soak), 2, 3])
def test_loader_of_any_workers_has_the_batches_of_one_process(sink, workers, context):
    alone = list(CodesDataset(sink, **HOW))
    how = {"multiprocessing_context": context} if workers else {}

    found = list(DataLoader(CodesDataset(sink, **HOW), None, num_workers=workers, **how))

    assert samples(found) == samples(alone)
    for name in ("codes", "key", "caption"):
        assert column(found, name) == column(alone, name)
    assert len(alone) == len(found) == len(CodesDataset(sink, **HOW)) == 30


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_batches_as_the_dataset_does(sink, workers):
    data = CodesDataset(sink, **HOW, as_numpy=True)

    for batch, same in zip(data.loader(workers), data, strict=True):
        assert {name: type(each) for name, each in batch.items()} == {
            name: type(each) for name, each in same.items()
        }
        assert isinstance(batch["codes"], np.ndarray)
        assert batch["__shape__"] == (2, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_goes_through_other_epochs_without_being_told(sink, workers):
    loader = CodesDataset(sink, **HOW).loader(workers)

    epochs = [samples(loader) for _ in range(3)]

    data = CodesDataset(sink, **HOW)
    for epoch, found in enumerate(epochs):
        data.set_epoch(epoch)
        assert found == samples(data)
    assert loader.state_dict()["epoch"] == 2


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_with_workers_that_stay_hears_of_another_epoch(sink, context):
    data = CodesDataset(sink, **HOW)
    loader = DataLoader(
        data, None, num_workers=2, persistent_workers=True, multiprocessing_context=context
    )
    found = []
    for epoch in (4, 1):
        data.set_epoch(epoch)
        found.append(samples(loader))

    for epoch, numbers in zip((4, 1), found, strict=True):
        alone = CodesDataset(sink, **HOW)
        alone.set_epoch(epoch)
        assert numbers == samples(alone)


@pytest.mark.parametrize("taken", [0, 5, 30])
@pytest.mark.parametrize(("first", "second"), [(0, 2), (2, 0), (2, 3), (3, 1)])
def test_loader_goes_on_where_it_was_with_other_workers(sink, taken, first, second):
    whole = samples(CodesDataset(sink, **HOW))
    loader = CodesDataset(sink, **HOW).loader(first)
    before = samples(itertools.islice(loader, taken))
    state = json.loads(json.dumps(loader.state_dict()))
    other = CodesDataset(sink, **HOW).loader(second)

    other.load_state_dict(state)

    assert len(other) == (30 - taken or 30)
    assert taken == 30 or before + samples(other) == whole
    assert samples(other) == epoch_of(sink, 1)


def epoch_of(sink, epoch):
    data = CodesDataset(sink, **HOW)
    data.set_epoch(epoch)
    return samples(data)


def test_loader_that_was_left_begins_the_next_epoch(sink):
    loader = CodesDataset(sink, **HOW).loader(2)

    next(iter(loader))

    assert samples(loader) == epoch_of(sink, 1)


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("taken", [0, 1, 7, 30])
def test_stateful_dataloader_goes_on_where_it_was(sink, workers, taken):
    whole = samples(CodesDataset(sink, **HOW))
    loader = StatefulDataLoader(CodesDataset(sink, **HOW), batch_size=None, num_workers=workers)
    before = samples(itertools.islice(loader, taken))
    state = loader.state_dict()
    other = StatefulDataLoader(CodesDataset(sink, **HOW), batch_size=None, num_workers=workers)

    other.load_state_dict(state)

    assert before + samples(other) == whole


def test_stateful_dataloader_of_several_epochs_and_shapes_goes_on(tmp_path):
    make(tmp_path / "codes", ROWS, layout=grids((2, 3), (3, 2), (4, 4)))
    sink, how = str(tmp_path / "codes"), HOW | {"batch_size": 3}
    data = CodesDataset(sink, **how)
    loader = StatefulDataLoader(data, batch_size=None, num_workers=2)
    first = samples(loader)
    data.set_epoch(1)
    before = samples(itertools.islice(loader, 9))
    state = loader.state_dict()
    again = CodesDataset(sink, **how)
    again.set_epoch(1)
    other = StatefulDataLoader(again, batch_size=None, num_workers=2)

    other.load_state_dict(state)

    found = before + samples(other)
    assert sorted(found) == sorted(first) == list(range(sum(ROWS)))
    assert found != first


class Slow(CodesDataset):
    """Whose workers begin a pass only once all of them have been told where."""

    def __iter__(self):
        time.sleep(1.0)  # workers start within that; else nothing is shown, and nothing fails
        return super().__iter__()


def test_stateful_dataloader_whose_workers_are_told_at_once_tells_each_its_own(sink):
    whole = samples(CodesDataset(sink, **HOW))
    loader = StatefulDataLoader(CodesDataset(sink, **HOW), batch_size=None, num_workers=3)
    before = samples(itertools.islice(loader, 7))
    state = loader.state_dict()
    other = StatefulDataLoader(Slow(sink, **HOW), batch_size=None, num_workers=3)

    other.load_state_dict(state)

    assert before + samples(other) == whole


def test_loader_whose_workers_stay_takes_the_seed_of_a_state(sink):
    one = CodesDataset(sink, **HOW).loader()
    before = samples(itertools.islice(one, 7))
    other = CodesDataset(sink, **HOW | {"seed": 99}).loader(2)
    next(iter(other))

    other.load_state_dict(one.state_dict())

    assert before + samples(other) == samples(CodesDataset(sink, **HOW))
    assert other.state_dict()["seed"] == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("tail", ["uneven", pytest.param("drop", marks=pytest.mark.soak), "pad"])
def test_ranks_at_the_end_of_an_epoch_have_one_state(sink, workers, tail):
    how = HOW | {"tail": tail, "batch_size": 6}
    for world in (2, 3, 7):
        ranks = [
            CodesDataset(sink, **how, rank=r, world=world).loader(workers) for r in range(world)
        ]
        for rank in ranks:
            list(rank)

        states = [rank.state_dict() for rank in ranks]

        assert all(state == states[0] for state in states)
        again = CodesDataset(sink, **how).loader()
        again.load_state_dict(states[0])
        assert tail == "drop" or again.state_dict()["epoch"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_whose_data_set_is_told_the_epoch_goes_through_that_one(sink, workers):
    data = CodesDataset(sink, **HOW)
    loader = data.loader(workers)
    found = []
    for epoch in (0, 1, 5):
        data.set_epoch(epoch)
        assert loader.state_dict() == {**data.state_dict(), "epoch": epoch, "seen": 0}
        found.append(samples(loader))

    assert found == [epoch_of(sink, epoch) for epoch in (0, 1, 5)]


@pytest.mark.parametrize("option", ["batch_size", "shuffle", "sampler", "collate_fn"])
def test_loader_refuses_to_make_batches_otherwise(sink, option):
    with pytest.raises(ConfigError, match=option):
        CodesDataset(sink, **HOW).loader(**{option: 4})


def test_loader_refuses_batches_out_of_order(sink):
    with pytest.raises(ConfigError, match="in_order"):
        CodesDataset(sink, **HOW).loader(2, in_order=False)


def test_pass_that_was_begun_stays_in_its_epoch(tmp_path):
    make(tmp_path / "codes", ROWS, views=4)
    how = HOW | {"columns": ["key", "view"]}
    data = CodesDataset(str(tmp_path / "codes"), **how)
    expected = column(data, "view")

    begun = iter(data)
    data.set_epoch(1)

    assert column(begun, "view") == expected


def test_program_that_ends_amid_a_pass_is_silent(sink):
    code = "import sys, vqpipe; batches = iter(vqpipe.CodesDataset(sys.argv[1])); next(batches)"
    words = [sys.executable, "-c", code, sink]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_loader_of_a_damaged_sink_says_so_through_its_workers(sink, tmp_path):
    path = tmp_path / "codes/data/00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)

    with pytest.raises(DamagedError, match=r"00002\.parquet"):
        list(CodesDataset(sink, **HOW).loader(2))


TRAIN = """
    import json, os, sys, time
    import torch
    from vqpipe import CodesDataset

    sink, log, workers = sys.argv[1:]
    how = {"batch_size": 4, "columns": ["codes"], "seed": 3, "tail": "uneven"}
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    loader = CodesDataset(sink, **how).loader(int(workers))
    if os.path.exists(f"{log}.state"):
        loader.load_state_dict(json.load(open(f"{log}.state")))
    for batch in loader:
        with open(f"{log}.{rank}", "w") as file:
            json.dump(loader.state_dict(), file)
        print(json.dumps(batch["__sample__"].tolist()), flush=True)
        sys.stdin.readline()
"""


class Rank:
    """A process that trains, one batch for each line that it is sent."""

    def __init__(self, sink, log, rank, world, workers):
        env = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world)}
        words = [sys.executable, "-c", textwrap.dedent(TRAIN), sink, str(log), str(workers)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def batch(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.mark.soak
@pytest.mark.slow
def test_ranks_that_are_killed_and_come_back_as_others_have_one_order(sink, tmp_path):
    """SIGKILL of all ranks, with workers at work, and another world each time."""
    log, found = tmp_path / "log", []
    for world, workers, steps in ((2, 2, 5), (3, 0, 4), (1, 3, 100)):
        ranks = [Rank(sink, log, rank, world, workers) for rank in range(world)]
        for _ in range(steps):
            batches = [rank.batch() for rank in ranks]
            if not any(batches):
                break
            found += [number for batch in batches if batch for number in batch]
            last = [json.loads((tmp_path / f"log.{rank}").read_text()) for rank in range(world)]
            assert all(state == last[0] for state in last)
            for rank in ranks:
                rank.go_on()
        for rank in ranks:
            rank.kill()
        (tmp_path / "log.state").write_text(json.dumps(last[0]))

    assert found == samples(CodesDataset(sink, **HOW))
    assert sorted(found) == list(range(sum(ROWS)))


ONE_BATCH = """
    import sys
    from vqpipe import CodesDataset

    if __name__ == "__main__":
        loader = CodesDataset(sys.argv[1], batch_size=2).loader(2)
        for batch in loader:
            print("ready", flush=True)
            sys.stdin.readline()
"""


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(each, marks=pytest.mark.soak) for each in (signal.SIGINT, signal.SIGTERM)),
        signal.SIGKILL,
    ],
)
def test_loader_that_is_stopped_leaves_nothing_in_shared_memory(sink, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ONE_BATCH), sink],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"

    process.send_signal(kind)
    process.communicate()

    named = [re.fullmatch(r"torch_(\d+)_.*", name) for name in os.listdir("/dev/shm")]
    assert not [each[0] for each in named if each and not psutil.pid_exists(int(each[1]))]
    assert samples(CodesDataset(sink, **HOW)) != []


def test_ranks_of_torch_distributed_are_found(sink, tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        data = CodesDataset(sink, **HOW)
    finally:
        torch.distributed.destroy_process_group()

    assert (data.rank, data.world) == (0, 1)


def test_ranks_of_torchrun_are_found(sink, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")

    data = CodesDataset(sink, **HOW)

    assert (data.rank, data.world) == (2, 3)
