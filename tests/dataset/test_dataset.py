"""What a trainer is given, held against the rows of the sink as DuckDB reads them."""

import itertools
import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dataset.sinks import begin, fill, grids, make, rows_of
from tests.sink import sinks
from tests.sink.runs import tar_shard
from tests.sink.sinks import end
from vqpipe import CodesDataset
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import (
    ConfigError,
    DamagedError,
    IncompleteError,
    MismatchError,
    StorageError,
)
from vqpipe.permutation import Permutation
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.start import start_run

ROWS = (7, 1, 12, 5)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sink(tmp_path):
    make(tmp_path / "codes", ROWS)
    return str(tmp_path / "codes")


def column(batches, name):
    """Returns the values of a column in all batches, one behind the other."""
    values = (batch[name] for batch in batches)
    return [
        each.tolist() if isinstance(each, np.ndarray | torch.Tensor) else each
        for each in itertools.chain.from_iterable(values)
    ]


def samples(batches):
    return [int(each) for batch in batches for each in batch["__sample__"]]


def test_dataset_has_the_rows_of_the_sink_in_the_order_of_the_permutation(sink):
    data = CodesDataset(sink, batch_size=4, seed=5, tail="uneven", columns=None)
    data.set_epoch(2)
    rows = rows_of(sink)

    batches = list(data)

    order = Permutation(25, 5, 2, "units of window 0").at(np.arange(25)).tolist()
    assert samples(batches) == order
    assert len(batches) == len(list(data)) == len(data) == 7
    for name in ("codes", "label", "caption", "tags"):
        assert column(batches, name) == [rows[number][name] for number in order]
    scores = np.array(column(batches, "score"))
    expected = [rows[number]["score"] for number in order]
    assert np.array_equal(scores, np.array(expected, float), equal_nan=True)
    assert set(batches[0]) == {
        *("codes", "label", "caption", "score", "tags"),
        *("__sample__", "__repeat__", "__seen__", "__shape__"),
    }
    assert batches[0]["codes"].dtype == torch.int64
    assert batches[0]["__shape__"] == (2, 3)


def test_dataset_that_is_not_shuffled_has_the_rows_as_they_lie(sink):
    names = ("key", "row", "view", "codes", "width", "crop", "flip", "height", "label")

    batches = list(CodesDataset(sink, batch_size=10, shuffle=False, tail="uneven", columns=names))

    found = [column(batches, name) for name in names]
    assert found == [[row[name] for row in rows_of(sink)] for name in names]


@pytest.mark.parametrize(
    ("dtype", "expected"), [("int64", np.int64), ("int32", np.int32), ("stored", np.uint16)]
)
def test_dataset_of_numpy_has_arrays_of_the_type_that_is_asked_for(sink, dtype, expected):
    data = CodesDataset(sink, batch_size=30, dtype=dtype, as_numpy=True, columns=["codes", "flip"])

    (batch,) = data

    assert batch["codes"].dtype == expected
    assert batch["flip"].dtype == np.bool_
    assert type(batch["__sample__"]) is np.ndarray


@pytest.mark.parametrize("codebook_size", [2, 256, 257, 65_536, 65_537, 262_144])
def test_dataset_of_any_codebook_has_its_codes(tmp_path, codebook_size):
    make(tmp_path / "codes", [40], layout=CodeLayout.grid(2, 3, codebook_size))
    sink = str(tmp_path / "codes")

    data = CodesDataset(sink, batch_size=40, shuffle=False, columns=["codes"])
    (batch,) = data

    assert data.codebook_size == codebook_size
    assert batch["codes"].tolist() == [row["codes"] for row in rows_of(sink)]
    assert int(batch["codes"].max()) > codebook_size // 2 - 1


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (CodeLayout("sequence", ((8,),), (64,)), (8,)),
        (CodeLayout("stacked", ((2, 2, 4),), (16,) * 4), (2, 2, 4)),
        (CodeLayout("scales", ((1, 1), (2, 2), (3, 3)), (64,)), (14,)),
    ],
)
def test_dataset_of_any_layout_says_its_shape(tmp_path, layout, shape):
    make(tmp_path / "codes", [5], layout=layout)

    data = CodesDataset(str(tmp_path / "codes"), batch_size=5, shuffle=False, columns=["codes"])
    (batch,) = data

    assert batch["__shape__"] == shape == data.shapes[0]
    assert batch["codes"].tolist() == [row["codes"] for row in rows_of(tmp_path / "codes")]


# tails


def test_dataset_that_pads_marks_what_comes_again(sink):
    data = [CodesDataset(sink, batch_size=4, rank=rank, world=2) for rank in range(2)]

    steps = list(zip(*data, strict=True))

    found = [batch for step in steps for batch in step]
    again = [bool(each) for batch in found for each in batch["__repeat__"]]
    numbers = samples(found)
    assert len(numbers) == 32
    assert again == [False] * 25 + [True] * 7
    assert sorted(numbers[:25]) == list(range(25))
    assert numbers[25:] == numbers[:7]
    assert found[-1]["__seen__"] == 25


def test_dataset_that_drops_leaves_other_samples_out_in_each_epoch(sink):
    data = CodesDataset(sink, batch_size=4, tail="drop")
    left = []
    for epoch in range(4):
        data.set_epoch(epoch)
        found = samples(data)
        assert len(found) == len(set(found)) == 24
        left.append(set(range(25)) - set(found))
    assert len({each.pop() for each in left}) > 1


def test_dataset_of_fewer_samples_than_a_batch_pads_with_all_of_them_again(sink):
    data = CodesDataset(sink, batch_size=60)

    (batch,) = data

    assert Counter(batch["__sample__"].tolist()).most_common()[-1][1] == 2
    assert int(batch["__repeat__"].sum()) == 35


@pytest.mark.parametrize(("batch", "world"), [(26, 1), (9, 3)])
def test_dataset_that_would_drop_all_samples_is_refused(sink, batch, world):
    with pytest.raises(ConfigError, match='tail="drop" leaves none'):
        CodesDataset(sink, batch_size=batch, rank=0, world=world, tail="drop")


def test_dataset_says_what_it_is(sink):
    said = repr(CodesDataset(sink, batch_size=4, rank=1, world=2))

    assert said == f"<CodesDataset {sink}: 25 samples of 2 x 3 codes, batches of 4, rank 1 of 2>"


# worlds that change


@pytest.mark.parametrize("seed", range(12))
def test_dataset_in_worlds_that_change_gives_each_sample_once_in_one_order(tmp_path, seed):
    """Killed and begun anew at random, with other ranks and batches: the order of all is one."""
    lot = random.Random(seed)
    make(tmp_path / "codes", [lot.randrange(1, 30) for _ in range(6)])
    window = lot.choice([None, 20])
    how = {"seed": seed, "columns": ["codes", "label"], "window": window, "tail": "uneven"}
    whole = list(CodesDataset(str(tmp_path / "codes"), batch_size=5, **how))
    state, found = None, []
    while True:
        world, batch = lot.choice([1, 2, 3]), lot.choice([1, 3, 8])
        ranks = [
            CodesDataset(str(tmp_path / "codes"), batch_size=batch, rank=rank, world=world, **how)
            for rank in range(world)
        ]
        for rank in ranks:
            if state:
                rank.load_state_dict(json.loads(json.dumps(state)))
        if not len(ranks[-1]):
            break
        steps = itertools.islice(itertools.zip_longest(*ranks), lot.randrange(1, 12))
        taken = [[batch for batch in step if batch] for step in steps]
        found += [batch for step in taken for batch in step]
        states = [
            rank.state_dict(batch)
            for step in taken[-1:]
            for rank, batch in zip(ranks, step, strict=False)
        ]
        assert all(each == states[0] for each in states)
        state = states[0]

    assert samples(found) == samples(whole)
    assert sorted(samples(found)) == list(range(len(rows_of(tmp_path / "codes"))))
    assert column(found, "codes") == column(whole, "codes")


def test_dataset_state_is_four_numbers(sink):
    data = CodesDataset(sink, batch_size=4, seed=9)
    data.set_epoch(3)
    batches = iter(data)
    next(batches), next(batches)

    state = data.state_dict()

    assert state == {"seed": 9, "epoch": 3, "seen": 8, "digest": data.digest}
    assert all(type(number) is int and -(2**63) <= number < 2**63 for number in state.values())
    assert torch.tensor(list(state.values())).tolist() == list(state.values())


def test_dataset_of_a_seed_of_numpy_has_a_plain_state(sink):
    state = CodesDataset(sink, seed=np.int64(3)).state_dict()

    assert json.loads(json.dumps(state)) == CodesDataset(sink, seed=3).state_dict()


def test_dataset_asked_for_one_sample_says_how_they_are_had(sink):
    with pytest.raises(TypeError, match="for batch in data"):
        CodesDataset(sink, seed=0)[3]


def test_dataset_of_a_state_before_the_beginning_is_refused(sink):
    state = CodesDataset(sink).state_dict() | {"seen": -16}

    with pytest.raises(MismatchError, match="seen is -16"):
        CodesDataset(sink).load_state_dict(state)


def test_dataset_that_goes_on_with_another_seed_takes_that_of_the_state(sink):
    first = CodesDataset(sink, batch_size=4, seed=9)
    passed = samples(itertools.islice(first, 3))
    other = CodesDataset(sink, batch_size=4, seed=1)

    other.load_state_dict(first.state_dict())

    assert len(other) == 4
    assert passed + samples(other) == samples(CodesDataset(sink, batch_size=4, seed=9))


@pytest.mark.parametrize(
    "other",
    [{"filter": "label < 5"}, {"shuffle": False}, {"window": 10}, {"views": "all"}],
)
def test_dataset_of_another_order_refuses_the_state(sink, other):
    state = CodesDataset(sink).state_dict()

    with pytest.raises(MismatchError, match="another order"):
        CodesDataset(sink, **other).load_state_dict(state)


def test_dataset_of_a_sink_that_was_copied_takes_the_state(sink, tmp_path):
    """What a sink holds counts, not where it is, nor when its files were written."""
    shutil.copytree(sink, tmp_path / "copy")
    shutil.rmtree(sink)

    make(sink, ROWS)

    first, second = CodesDataset(sink), CodesDataset(str(tmp_path / "copy"))
    assert first.digest == second.digest


# views


def test_dataset_of_views_shows_one_of_each_image_another_one_in_other_epochs(tmp_path):
    make(tmp_path / "codes", ROWS, views=4)
    rows = {(row["key"], row["view"]): row for row in rows_of(tmp_path / "codes")}
    data = CodesDataset(
        str(tmp_path / "codes"), tail="uneven", columns=["codes", "key", "view", "label", "flip"]
    )
    shown = []
    for epoch in range(40):
        data.set_epoch(epoch)
        batches = list(data)
        keys, views = column(batches, "key"), column(batches, "view")
        assert sorted(keys) == sorted({key for key, _ in rows})
        for name in ("codes", "label", "flip"):
            expected = [rows[each][name] for each in zip(keys, views, strict=True)]
            assert column(batches, name) == expected
        shown.append(dict(zip(keys, views, strict=True)))
    for key in shown[0]:
        assert {each[key] for each in shown} == {0, 1, 2, 3}
    counts = Counter(view for each in shown for view in each.values())
    assert min(counts.values()) > 0.8 * max(counts.values())


def test_dataset_of_views_draws_them_by_key_wherever_it_stands(tmp_path):
    """Another filter, and so another order, changes no image's view."""
    make(tmp_path / "codes", ROWS, views=4)
    names = ["key", "view"]

    whole = CodesDataset(str(tmp_path / "codes"), columns=names, tail="uneven")
    some = CodesDataset(str(tmp_path / "codes"), columns=names, tail="uneven", filter="label < 4")

    views = [
        dict(zip(column(each, "key"), column(each, "view"), strict=True))
        for each in (list(whole), list(some))
    ]
    assert 0 < len(views[1]) < len(views[0])
    assert views[1].items() <= views[0].items()


def test_dataset_of_all_views_has_each_as_a_sample(tmp_path):
    make(tmp_path / "codes", ROWS, views=4)

    data = CodesDataset(
        str(tmp_path / "codes"), views="all", columns=["key", "view"], tail="uneven", batch_size=7
    )
    batches = list(data)

    assert data.samples == 100
    found = list(zip(column(batches, "key"), column(batches, "view"), strict=True))
    assert sorted(found) == sorted((r["key"], r["view"]) for r in rows_of(tmp_path / "codes"))


def test_dataset_of_views_in_row_groups_that_cut_a_sample_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vqpipe.sink.objects._GROUP_ROWS", 5)
    make(tmp_path / "codes", ROWS, views=4)

    batches = list(CodesDataset(str(tmp_path / "codes"), columns=["key", "view"], tail="uneven"))

    assert len(set(column(batches, "key"))) == 25


# filters


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("label < 5", "label < 5"),
        ("label in [1, 2] or height > 40", "label IN (1, 2) OR height > 40"),
        ("caption is not None and score >= 0.5", "caption IS NOT NULL AND score >= 0.5"),
        ("width == 64 and height * 2 < 70", "width = 64 AND height * 2 < 70"),
        ("key == '00002/3'", "key = '00002/3'"),
    ],
)
def test_dataset_with_a_filter_has_what_sql_selects(sink, text, sql):
    data = CodesDataset(sink, filter=text, tail="uneven", columns=["key", "codes"], shuffle=False)

    batches = list(data)

    rows = rows_of(sink, sql)
    assert data.samples == len(rows)
    assert column(batches, "key") == [row["key"] for row in rows]
    assert column(batches, "codes") == [row["codes"] for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("labels < 5", "filter names 'labels'"),
        ("label <", "filter 'label <'"),
        ("label < 'a'", "filter label < 'a'"),
        ("__import__('os')", "functions cannot be used"),
        ("1 < 2", "the same for all rows"),
    ],
)
def test_dataset_with_a_filter_that_makes_no_sense_is_refused(sink, text, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        CodesDataset(sink, filter=text)


def test_dataset_with_a_filter_of_what_views_differ_in_is_refused(tmp_path):
    make(tmp_path / "codes", ROWS, views=2)

    with pytest.raises(ConfigError, match='views="all"'):
        CodesDataset(str(tmp_path / "codes"), filter="view == 0")

    data = CodesDataset(str(tmp_path / "codes"), filter="view == 0", views="all")
    assert data.samples == 25


# shapes that differ

SHAPES = grids((2, 3), (3, 2), (4, 4))


@pytest.mark.parametrize("tail", ["pad", "drop", "uneven"])
@pytest.mark.parametrize("window", [None, 15])
def test_dataset_of_several_shapes_has_batches_of_one_shape_each(tmp_path, tail, window):
    make(tmp_path / "codes", (7, 1, 12, 25, 2), layout=SHAPES)
    rows = {row["key"]: row for row in rows_of(tmp_path / "codes")}
    how = {"batch_size": 3, "tail": tail, "columns": ["codes", "key", "grid_h"], "window": window}

    ranks = [CodesDataset(str(tmp_path / "codes"), rank=rank, world=2, **how) for rank in range(2)]
    steps = list(itertools.zip_longest(*ranks))

    found = [batch for step in steps for batch in step if batch]
    for batch in found:
        shape = batch["__shape__"]
        assert all((rows[key]["grid_h"], rows[key]["grid_w"]) == shape for key in batch["key"])
        assert batch["codes"].tolist() == [rows[key]["codes"] for key in batch["key"]]
        assert tail == "uneven" or len(batch["key"]) == 3
    once = [
        key
        for batch in found
        for key, again in zip(batch["key"], batch["__repeat__"].tolist(), strict=True)
        if not again
    ]
    assert len(once) == len(set(once))
    assert tail == "drop" or set(once) == set(rows)
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]


def test_dataset_of_several_shapes_goes_on_in_another_world(tmp_path):
    make(tmp_path / "codes", (7, 1, 12, 25, 2), layout=SHAPES)
    how = {"batch_size": 3, "tail": "uneven", "columns": ["codes"]}
    whole = samples(CodesDataset(str(tmp_path / "codes"), **how))
    pair = [CodesDataset(str(tmp_path / "codes"), rank=rank, world=2, **how) for rank in range(2)]
    first = [batch for step in itertools.islice(zip(*pair, strict=True), 3) for batch in step]
    alone = CodesDataset(str(tmp_path / "codes"), **how)

    alone.load_state_dict(pair[1].state_dict())

    assert samples(first) + samples(alone) == whole
    assert sorted(whole) == list(range(47))


# sinks


def test_dataset_of_a_sink_that_is_not_complete_is_refused_unless_asked_for(tmp_path):
    writer = begin(tmp_path / "codes", ROWS)
    fill(writer, 0, 7)
    fill(writer, 2, 12)

    with pytest.raises(IncompleteError, match=r"2 of 4 shards are not there \(00001, 00003\)"):
        CodesDataset(str(tmp_path / "codes"))

    assert CodesDataset(str(tmp_path / "codes"), allow_incomplete=True).samples == 19


def test_dataset_with_a_snapshot_reads_the_same_as_more_comes_in(tmp_path):
    writer = begin(tmp_path / "codes", ROWS)
    fill(writer, 0, 7)
    how = {"allow_incomplete": True, "snapshot": str(tmp_path / "first.parquet")}
    first = CodesDataset(str(tmp_path / "codes"), **how)
    fill(writer, 2, 12)

    again = CodesDataset(str(tmp_path / "codes"), **how)

    assert again.samples == first.samples == 7
    assert again.digest == first.digest
    assert samples(again)[:7] == samples(first)[:7]
    assert CodesDataset(str(tmp_path / "codes"), allow_incomplete=True).samples == 19


def grow(writer, *names):
    """Adds shards to the plan; returns a writer of it."""
    shards = [*writer.sink.plan.shards(), *map(tar_shard, names)]
    listed, run = Plan.of(shards), writer.sink.run
    opened = start_run(writer.sink.uri, run, listed, Growth(extend=True))
    return replace(writer, sink=opened)


def test_dataset_of_a_generation_is_what_it_was_before_the_sink_grew(tmp_path):
    writer = make(tmp_path / "codes", ROWS)
    before = CodesDataset(str(tmp_path / "codes"))
    writer = grow(writer, "99998", "99999")
    fill(writer, 4, 3)

    first = CodesDataset(str(tmp_path / "codes"), generation=0)

    assert (first.samples, first.digest) == (25, before.digest)
    with pytest.raises(IncompleteError, match="99999"):
        CodesDataset(str(tmp_path / "codes"))
    fill(writer, 5, 2)
    assert CodesDataset(str(tmp_path / "codes")).samples == 30


def test_dataset_whose_shard_is_made_again_while_it_is_read_names_it(tmp_path):
    writer = make(tmp_path / "codes", ROWS)
    data = CodesDataset(str(tmp_path / "codes"))
    (tmp_path / "codes" / "data" / "00002.parquet").unlink()
    fill(writer, 2, 12, seed=1)

    with pytest.raises(MismatchError, match=r"00002\.parquet is not the object that it was"):
        list(data)

    other = CodesDataset(str(tmp_path / "codes"))
    with pytest.raises(MismatchError, match="another order"):
        other.load_state_dict(data.state_dict())


def test_dataset_of_a_sink_with_an_object_of_another_run_names_it(sink, tmp_path):
    make(tmp_path / "other", ROWS, pixel_range="unit")
    shutil.copy(tmp_path / "other/data/00001.parquet", f"{sink}/data/00001.parquet")

    with pytest.raises(StorageError, match=r"00001\.parquet belongs to another run"):
        CodesDataset(sink)


def test_dataset_of_a_sink_with_an_object_of_no_shard_names_it(sink):
    shutil.copy(f"{sink}/data/00001.parquet", f"{sink}/data/mine.parquet")

    with pytest.raises(StorageError, match=r"mine\.parquet.*belongs to no shard"):
        CodesDataset(sink)


def test_dataset_of_a_damaged_object_names_it(sink, tmp_path):
    path = tmp_path / "codes/data/00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)

    with pytest.raises(DamagedError, match=r"00002\.parquet is damaged"):
        list(CodesDataset(sink))


@pytest.mark.parametrize("stage", ["decode", "evaluate", None])
def test_dataset_of_what_is_no_sink_of_codes_says_what_it_is(tmp_path, stage):
    makers = {"decode": sinks.decode, "evaluate": sinks.score}
    if stage:
        makers[stage](tmp_path / "sink")

    with pytest.raises(MismatchError if stage else ConfigError, match=stage or r"no run\.json"):
        CodesDataset(str(tmp_path / "sink"))


def test_dataset_takes_paths_and_a_column_by_itself(sink, tmp_path):
    data = CodesDataset(Path(sink), columns="key", batch_size=25, snapshot=tmp_path / "kept")

    (batch,) = data

    assert sorted(batch["key"]) == sorted(row["key"] for row in rows_of(sink))


def test_dataset_that_is_given_no_state_says_so(sink):
    with pytest.raises(ConfigError, match="lacks digest, seen"):
        CodesDataset(sink).load_state_dict({"seed": 1, "epoch": 0})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"filter": "label > 99"}, "filter 'label > 99' leaves none of 25 images"),
        ({"generation": 7}, "generation is 7"),
        ({"window": 0}, "window is 0"),
        ({"columns": []}, "columns is empty"),
        ({"columns": ["cods"]}, "'cods'"),
        ({"rank": 2, "world": 2}, "rank is 2"),
        ({"rank": 1}, "go together"),
        ({"columns": ["label"], "decode": True}, "decode needs codes"),
        ({"views": "two"}, "views is 'two'"),
        ({"tail": "cut"}, "tail is 'cut'"),
        ({"dtype": "uint8"}, "dtype is 'uint8'"),
    ],
)
def test_dataset_with_options_that_are_not_possible_says_which(sink, how, said):
    with pytest.raises(ConfigError, match=said):
        CodesDataset(sink, **how)


def test_dataset_of_whole_numbers_with_nulls_says_how_to_leave_them_out(tmp_path):
    writer = begin(tmp_path / "codes", [9])
    fill(writer, 0, 9, without_label=(3, 4))
    end(writer)

    with pytest.raises(ConfigError, match='filter="label is not None"'):
        list(CodesDataset(str(tmp_path / "codes")))

    data = CodesDataset(str(tmp_path / "codes"), filter="label is not None", tail="uneven")
    assert len(samples(data)) == 7
