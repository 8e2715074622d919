"""The cache: below its cap, shared, whole after any crash, and never in a reader's way."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from tests.dataset.sinks import begin, fill, grids, make, rows_of
from tests.dataset.test_dataset import column, samples
from tests.sink.sinks import end
from vqpipe import CodesDataset
from vqpipe.code_layout import CodeLayout
from vqpipe.dataset.cache import Cache
from vqpipe.dataset.segment import Segment
from vqpipe.errors import ConfigError, MismatchError, VqpipeError

WIDE = CodeLayout.grid(32, 32, 1024)
"""2,048 bytes a row."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def size_of(folder):
    return sum(
        os.stat(os.path.join(base, name)).st_size
        for base, _, names in os.walk(folder)
        for name in names
    )


def keys(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_cache_is_filled_once_and_read_by_other_epochs_and_datasets(tmp_path, folder):
    make(tmp_path / "codes", [50, 50])
    first = CodesDataset(str(tmp_path / "codes"), cache=folder, columns=["codes"])
    list(first)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.numbers")}
    for path in (tmp_path / "codes" / "data").iterdir():
        path.write_bytes(b"")  # nobody looks here again

    first.set_epoch(1)

    assert len(samples(first)) == 256
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.numbers")} == before
    assert len(keys(folder)) == 1


def test_cache_of_other_columns_filters_and_sinks_is_another_one(tmp_path, folder):
    make(tmp_path / "codes", [50])
    make(tmp_path / "other", [51])
    for sink, how in [
        ("codes", {"columns": ["codes"]}),
        ("codes", {"columns": ["codes", "label"]}),
        ("codes", {"columns": ["codes"], "filter": "label < 3"}),
        ("other", {"columns": ["codes"]}),
        ("codes", {"columns": ["codes"], "seed": 3}),  # the same
    ]:
        list(CodesDataset(str(tmp_path / sink), cache=folder, **how))

    assert len(keys(folder)) == 4


def test_cache_at_its_cap_gives_way_to_what_is_read_now(tmp_path, folder):
    for name in ("a", "b", "c"):
        make(tmp_path / name, [100 + ord(name)], layout=WIDE)
    found = []
    for name in ("a", "b", "a", "c"):
        data = CodesDataset(
            str(tmp_path / name), cache=folder, columns=["codes"], cache_bytes=900_000
        )
        list(data)
        del data
        found.append(keys(folder))
        assert size_of(folder) < 900_000

    a, b = set(found[0]), set(found[1]) - set(found[0])
    assert set(found[2]) == a | b
    assert a < set(found[3])
    assert not b & set(found[3])


def test_cache_that_is_too_small_says_what_to_do(tmp_path, folder):
    make(tmp_path / "codes", [500], layout=WIDE)
    how = {"cache": folder, "columns": ["codes"], "cache_bytes": 900_000}

    with pytest.raises(ConfigError, match=r"0\.9 MB, and 1\.0 MB are needed.*cache_bytes.*window"):
        CodesDataset(str(tmp_path / "codes"), **how)
    with pytest.raises(ConfigError, match="window"):
        CodesDataset(str(tmp_path / "codes"), **how, window=499)


def test_cache_too_small_for_texts_is_refused_at_once(tmp_path, folder):
    writer = begin(tmp_path / "codes", [400])
    fill(writer, 0, 400, caption=lambda row: f"{row:05d} " * 1700)  # 10 kB each
    end(writer)
    how = {"cache": folder, "columns": ["codes", "caption"]}

    with pytest.raises(ConfigError, match=r"4\.1 MB are needed"):
        CodesDataset(str(tmp_path / "codes"), **how, cache_bytes=4_000_000)

    list(CodesDataset(str(tmp_path / "codes"), **how, cache_bytes=4_200_000))
    assert 4_000_000 < size_of(folder) < 4_200_000


def test_loader_whose_workers_are_too_far_ahead_for_the_cache_is_refused_at_once(tmp_path, folder):
    make(tmp_path / "codes", [20] * 60, layout=WIDE)
    data = CodesDataset(
        str(tmp_path / "codes"),
        cache=folder,
        columns=["codes"],
        cache_bytes=1_000_000,
        window=100,
        batch_size=50,
    )
    data.loader(1)

    with pytest.raises(ConfigError, match="window"):
        data.loader(2)


def test_cache_that_others_are_reading_stays(tmp_path, folder):
    make(tmp_path / "a", [200], layout=WIDE)
    make(tmp_path / "b", [201], layout=WIDE)
    how = {"cache": folder, "columns": ["codes"], "cache_bytes": 600_000, "batch_size": 10}
    reading = iter(CodesDataset(str(tmp_path / "a"), **how))
    next(reading)

    with pytest.raises(ConfigError, match="others are reading"):
        list(CodesDataset(str(tmp_path / "b"), **how))

    assert len(list(reading)) == 19
    del reading
    assert len(list(CodesDataset(str(tmp_path / "b"), **how))) == 21


def test_windows_take_three_at_a_time_and_have_every_row(tmp_path, folder):
    make(tmp_path / "codes", [20] * 30, layout=WIDE)
    rows = {row["key"]: row["codes"] for row in rows_of(tmp_path / "codes")}
    data = CodesDataset(
        str(tmp_path / "codes"),
        cache=folder,
        columns=["codes", "key"],
        cache_bytes=900_000,  # 1.2 MB in all
        window=100,
        batch_size=30,
        tail="uneven",
    )
    for epoch in range(2):
        data.set_epoch(epoch)
        most, found = 0, []
        for batch in data:
            found.append(batch)
            most = max(most, size_of(folder))
        assert dict(zip(column(found, "key"), column(found, "codes"), strict=True)) == rows
        assert most < 900_000


def test_readers_at_once_all_have_every_row(tmp_path, folder):
    make(tmp_path / "codes", [20] * 30)
    rows = [row["codes"] for row in rows_of(tmp_path / "codes")]
    found, failed = {}, []

    def read(number):
        try:
            data = CodesDataset(
                str(tmp_path / "codes"), cache=folder, seed=number, columns=["codes", "caption"]
            )
            batches = list(data)
            pairs = zip(samples(batches), column(batches, "codes"), strict=True)
            found[number] = all(rows[sample] == codes for sample, codes in pairs)
        except VqpipeError as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert failed == []
    assert found == dict.fromkeys(range(6), True)


FILL = """
    import random
    import sys
    import threading
    from vqpipe import CodesDataset
    from vqpipe.dataset.reader import Reader

    data = CodesDataset(sys.argv[1], cache=sys.argv[2], columns=["codes"])
    segment = Reader(data._source, data._order(), 0)._segment(0)
    failed = []

    def fill(number):
        order = random.Random(f"{sys.argv[3]} {number}").sample(range(40), 40)
        try:
            for place in order:
                segment.fill(place)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(failed)
"""


def test_threads_of_processes_that_wait_for_each_other_are_no_deadlock(tmp_path, folder):
    make(tmp_path / "codes", [20] * 40)
    words = [sys.executable, "-c", textwrap.dedent(FILL), str(tmp_path / "codes"), str(folder)]
    processes = [
        subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]

    assert [process.communicate()[0] for process in processes] == ["[]\n"] * 3


def test_readers_at_once_in_one_process_decode_each_shard_once(tmp_path, folder, monkeypatch):
    make(tmp_path / "codes", [20] * 12)
    decoded, real = [], Segment._decode
    monkeypatch.setattr(Segment, "_decode", lambda *given: (decoded.append(given[1]), real(*given)))
    datas = [CodesDataset(str(tmp_path / "codes"), cache=folder, seed=n) for n in range(3)]

    threads = [threading.Thread(target=list, args=(data,)) for data in datas]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sorted(decoded) == list(range(12))


def test_reader_of_many_shapes_and_columns_opens_few_files(tmp_path, folder):
    make(tmp_path / "codes", [80], layout=grids(*((h, w) for h in range(2, 10) for w in (3, 4, 5))))
    batches = iter(CodesDataset(str(tmp_path / "codes"), cache=folder, batch_size=2))
    before = len(os.listdir("/proc/self/fd"))

    next(batches)

    assert len(os.listdir("/proc/self/fd")) - before < 30


def test_counts_of_another_object_are_not_taken(tmp_path, folder):
    writer = make(tmp_path / "codes", [50, 30])
    path, kept = tmp_path / "codes/data/00001.parquet", str(tmp_path / "kept")
    whole = path.read_bytes()
    how = {"cache": folder, "snapshot": kept}
    CodesDataset(str(tmp_path / "codes"), **how)
    path.unlink()
    fill(writer, 1, 30, seed=1, without_label=(3, 4))

    with pytest.raises(MismatchError, match=r"00001\.parquet"):
        CodesDataset(str(tmp_path / "codes"), **how, filter="label is not None")

    path.write_bytes(whole)
    data = CodesDataset(str(tmp_path / "codes"), **how, filter="label is not None", tail="uneven")
    assert len(samples(data)) == 80


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY cut"])
def test_counts_that_are_damaged_are_made_anew(tmp_path, folder, left):
    make(tmp_path / "codes", [50, 30])
    how = {"cache": folder, "filter": "label < 3", "columns": ["codes"]}
    first = CodesDataset(str(tmp_path / "codes"), **how)
    (counts,) = folder.glob("*.counts")
    counts.write_bytes(left)

    assert CodesDataset(str(tmp_path / "codes"), **how).samples == first.samples == 24


def test_counts_that_take_reading_are_kept(tmp_path, folder, monkeypatch):
    make(tmp_path / "codes", [50, 30])
    how = {"cache": folder, "filter": "label < 3", "columns": ["codes"]}
    first = CodesDataset(str(tmp_path / "codes"), **how)
    monkeypatch.setattr("vqpipe.dataset.index._count", None)  # nobody counts any more

    again = CodesDataset(str(tmp_path / "codes"), **how)

    assert again.samples == first.samples == 24
    assert again.digest == first.digest


READ = """
    import sys
    import numpy as np
    from vqpipe import CodesDataset
    from vqpipe.dataset import arrays

    sink, folder, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
    calls = 0
    real = arrays.write_all

    def write_all(file, data, place):
        global calls
        calls += 1
        if calls == stop:
            real(file, memoryview(data).cast("B")[: len(data) // 2], place)
            print("here", flush=True)
            sys.stdin.read()
        real(file, data, place)

    arrays.write_all = write_all
    list(CodesDataset(sink, cache=folder, threads=1, columns=["codes", "caption"]))
"""


@pytest.mark.parametrize(
    "stop", [1, 2, *(pytest.param(stop, marks=pytest.mark.soak) for stop in (3, 4, 5)), 9]
)
def test_reader_that_is_killed_while_it_writes_leaves_nothing_wrong(tmp_path, folder, stop):
    make(tmp_path / "codes", [20, 30, 10])
    sink = str(tmp_path / "codes")
    words = [sys.executable, "-c", textwrap.dedent(READ), sink, str(folder), str(stop)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()

    data = CodesDataset(
        sink, cache=folder, columns=["codes", "caption"], shuffle=False, tail="uneven"
    )
    batches = list(data)

    assert column(batches, "codes") == [row["codes"] for row in rows_of(sink)]
    assert column(batches, "caption") == [row["caption"] for row in rows_of(sink)]
    assert len(keys(folder)) == 1


def test_reader_whose_cache_cannot_be_made_says_so(tmp_path):
    make(tmp_path / "codes", [20])

    with pytest.raises(ConfigError, match=r"cache /proc/nowhere cannot be made.*VQPIPE_CACHE"):
        list(CodesDataset(str(tmp_path / "codes"), cache="/proc/nowhere"))


FULL = """
    import resource, sys
    import vqpipe

    data = vqpipe.CodesDataset(sys.argv[1], cache=sys.argv[2], columns=["codes", "key"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    try:
        list(data)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("most", [1_000, 40_000])
def test_reader_whose_disk_is_full_says_so(tmp_path, folder, most):
    make(tmp_path / "codes", [4000])  # 48,000 bytes of codes, 32,000 of keys
    words = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "codes"), str(folder)]

    said = subprocess.run([*words, str(most)], capture_output=True, text=True, check=True).stdout

    assert said.startswith("ConfigError the reader's cache cannot be written: File too large.")


def test_cache_sweeps_what_a_killed_process_had_begun_to_remove(folder):
    (folder / ".gone-abc").mkdir(parents=True)
    (folder / ".gone-abc" / "codes.numbers").write_bytes(b"1234")

    Cache(folder, 10**9).open("key", 10)

    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["key"]
