import gzip
import io
import json
import os
import re
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests import plain, shell
from tests.makers import encoded, jpeg, picture, tar_of
from vqpipe.commands import cli

RESOLUTION = 64
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def reference_codes(images, resolution=RESOLUTION):
    """Codes by the shortest honest way: Pillow and diffusers, float32, one image at a time."""
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    model = diffusers.VQModel.from_pretrained(shell.CHECKPOINT, low_cpu_mem_usage=False).eval()
    found = {}
    for key, data in images.items():
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255 * 2 - 1
        with torch.no_grad():
            latents = model.encode(pixels).latents
            found[key] = model.quantize(latents)[2][2].flatten().tolist()
    return found


def photos(count, **options):
    sizes = [(90, 70), (64, 64), (50, 120), (200, 90)]
    return [jpeg(*sizes[i % len(sizes)], seed=i, **options) for i in range(count)]


def write_tars(folder, images, shards):
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for shard in range(shards):
        members = {f"{i:05d}.jpg": images[i] for i in range(shard, len(images), shards)}
        (folder / f"{shard:03d}.tar").write_bytes(tar_of(members))
        keys.update({name.removesuffix(".jpg"): data for name, data in members.items()})
    return keys


def write_webdataset(folder):
    images = photos(20)
    folder.mkdir()
    parts = {"a/000.tar": range(12), "a/001.tar": range(12, 19), "b.tar.gz": range(19, 20)}
    (folder / "a").mkdir()
    for name, numbers in parts.items():
        members = {}
        for i in numbers:
            members |= {f"x/{i:03d}.jpg": images[i], f"x/{i:03d}.txt": f"caption {i}".encode()}
        data = tar_of(members)
        if name.endswith(".gz"):
            data = gzip.compress(data)
        (folder / name).write_bytes(data)
    return {f"x/{i:03d}": image for i, image in enumerate(images)}, ("--keep", "txt")


def write_parquet(folder):
    images = photos(20)
    folder.mkdir()
    table = pa.Table.from_pylist(
        [
            {"id": f"id{i}", "image": {"bytes": image, "path": None}}
            for i, image in enumerate(images)
        ],
        pa.schema(
            [
                ("id", pa.string()),
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ]
        ),
    )
    pq.write_table(table.slice(0, 13), folder / "train-0.parquet", row_group_size=4)
    pq.write_table(table.slice(13), folder / "train-1.parquet")
    return {f"id{i}": image for i, image in enumerate(images)}, ("--key", "id")


def write_folder(folder):
    images = {f"sub {i % 3}/é{i:02d}.jpg": image for i, image in enumerate(photos(18))}
    rotated = Image.fromarray(picture(80, 60, 99))
    exif = Image.Exif()
    exif[0x0112] = 6
    images["rotated.jpg"] = encoded(rotated, "JPEG", exif=exif)
    images["grey.png"] = encoded(rotated.convert("L"), "PNG")
    for name, data in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return images, ()


WRITERS = {"webdataset": write_webdataset, "parquet": write_parquet, "folder": write_folder}


def check_views(found, images):
    for row in found:
        with Image.open(io.BytesIO(images[row["key"]])) as image:
            width, height = ImageOps.exif_transpose(image).size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        assert (row["width"], row["height"]) == (width, height)
        assert list(row["crop"]) == [left, top, left + side, top + side]
        assert (row["view"], row["flip"]) == (0, False)


@pytest.mark.soak  # a webdataset is read from S3 below, Parquet by tests of decode
@pytest.mark.parametrize("name", WRITERS)
def test_encode_local_source_equals_reference(tmp_path, name):
    images, options = WRITERS[name](tmp_path / "source")
    sink = tmp_path / "sink"
    shell.encode(tmp_path / "source", sink, *options)
    found = shell.rows(sink)
    assert {row["key"]: list(row["codes"]) for row in found} == reference_codes(images)
    check_views(found, images)
    assert (sink / "_SUCCESS").exists()
    assert not list((sink / "staging").rglob("*.parquet"))
    if name == "webdataset":
        assert {row["key"]: row["txt"] for row in found} == {
            key: f"caption {int(key[2:])}" for key in images
        }
        stems = {str(p.relative_to(sink / "data")) for p in (sink / "data").rglob("*.parquet")}
        assert stems == {"a/000.parquet", "a/001.parquet", "b.parquet"}


@pytest.mark.s3
@pytest.mark.parametrize(
    "name",
    ["webdataset", *(pytest.param(name, marks=pytest.mark.soak) for name in ("parquet", "folder"))],
)
def test_encode_on_s3_equals_reference(tmp_path, bucket, name):
    s3fs = pytest.importorskip("s3fs")
    images, options = WRITERS[name](tmp_path / "source")
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.put(str(tmp_path / "source"), f"{bucket}/source", recursive=True)
    store.put(str(shell.CHECKPOINT), f"{bucket}/model", recursive=True)
    source, sink, model = (f"{bucket}/{part}" for part in ("source", "sink", "model"))
    shell.encode(source, sink, *options, model=model)
    store.get(f"{sink}/", str(tmp_path / "sink"), recursive=True)
    assert shell.codes_by_key(tmp_path / "sink") == reference_codes(images)
    assert (tmp_path / "sink" / "_SUCCESS").exists()
    printed = shell.run("inspect", sink, "--json")
    assert json.loads(printed)["encoded"] == len(images)


@pytest.mark.soak
@pytest.mark.s3
@pytest.mark.fault(15)
def test_encode_to_a_store_without_create_if_absent_says_so_and_completes(careless_store):
    images = write_tars(careless_store / "bucket" / "source", photos(12), shards=2)
    (careless_store / "bucket" / "sink").mkdir()
    printed = shell.encode("s3://bucket/source", "s3://bucket/sink")
    assert printed.count("ignores create-if-absent") == 1
    assert shell.codes_by_key(careless_store / "bucket" / "sink") == reference_codes(images)
    assert (careless_store / "bucket" / "sink" / "_SUCCESS").exists()


@pytest.mark.soak
@pytest.mark.fault(2)
def test_encode_killed_driver_then_rerun_equals_uninterrupted(tmp_path):
    write_tars(tmp_path / "source", photos(720), shards=12)  # some six blocks, so many commits
    places = ("--model", shell.CHECKPOINT, "--resolution", RESOLUTION, "--batch-size", 4)
    source = ("--source", tmp_path / "source")
    process = shell.start("encode", *source, "--sink", tmp_path / "killed", *places)
    shell.await_commit(process, tmp_path / "killed")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=40)  # Ray's agents alone would stay for 60 s
    assert not alive
    done = {path: path.stat() for path in (tmp_path / "killed" / "data").glob("*.parquet")}
    done_rows = sum(pq.read_metadata(path).num_rows for path in done)
    assert 0 < done_rows < 720
    shell.run("encode", *source, "--sink", tmp_path / "killed", *places)
    shell.run("encode", *source, "--sink", tmp_path / "whole", *places)
    assert shell.rows(tmp_path / "killed") == shell.rows(tmp_path / "whole")
    summary = json.loads((tmp_path / "killed" / "summary.json").read_bytes())
    assert summary["images_this_run"] <= 720 - done_rows
    assert all(path.stat().st_mtime_ns == before.st_mtime_ns for path, before in done.items())
    assert not list((tmp_path / "killed" / "staging").rglob("*.parquet"))


@pytest.mark.fault(18)
def test_encode_broken_files_become_rejections(tmp_path):
    images = photos(500)
    whole = images[0]
    broken = {
        17: (whole[: len(whole) // 2], "truncated"),
        60: (b"", "empty"),
        101: (b"<html>not found</html>", "not_an_image"),
        150: (b"%!PS-Adobe-3.0 EPSF-3.0", "not_an_image"),
        222: (whole[: len(whole) // 3], "truncated"),
        223: (b"\0\0\0\x18ftypmp42", "not_an_image"),
        301: (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        377: (encoded(picture(60, 60), "PNG")[:300], "truncated"),
        444: (b"", "empty"),
        499: (os.urandom(500), "not_an_image"),
    }
    for i, (data, _) in broken.items():
        images[i] = data
    write_tars(tmp_path / "source", images, shards=4)
    shell.encode(tmp_path / "source", tmp_path / "sink")
    kept = shell.rows(tmp_path / "sink", columns="key, row")
    rejected = shell.rows(tmp_path / "sink", "rejected")
    assert len(kept) == 490
    found = {int(row["key"]): row["reason"] for row in rejected}
    assert found == {i: reason for i, (_, reason) in broken.items()}
    assert all(row["message"] and "\n" not in row["message"] for row in rejected)
    assert {(int(r["key"]) % 4, r["row"]) for r in kept + rejected} == {
        (i % 4, i // 4) for i in range(500)
    }


@pytest.mark.soak
@pytest.mark.fault(6)
def test_encode_two_commands_at_once_commit_once(tmp_path):
    images = write_tars(tmp_path / "source", photos(60), shards=3)
    arguments = ("encode", "--source", tmp_path / "source", "--sink", tmp_path / "sink")
    options = ("--model", shell.CHECKPOINT, "--resolution", RESOLUTION)
    both = [shell.start(*arguments, *options) for _ in range(2)]
    endings = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], endings
    assert shell.codes_by_key(tmp_path / "sink") == reference_codes(images)


@pytest.mark.soak
@pytest.mark.fault(8)
def test_encode_terminated_stops_with_2_and_rerun_completes(tmp_path):
    images = write_tars(tmp_path / "source", photos(40), shards=2)
    arguments = ("encode", "--source", tmp_path / "source", "--sink", tmp_path / "sink")
    options = ("--model", shell.CHECKPOINT, "--resolution", RESOLUTION)
    process = shell.start(*arguments, *options)
    lines = iter(process.stderr.readline, "")
    assert any("Ray's logs are in" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "SIGTERM" in errors
    shell.run(*arguments, *options)
    assert len(shell.codes_by_key(tmp_path / "sink")) == len(images)


@pytest.mark.soak
@pytest.mark.fault(4)
def test_encode_without_the_device_it_needs_gives_up_with_5(tmp_path):
    write_tars(tmp_path / "source", photos(4), shards=1)
    printed = shell.encode(
        tmp_path / "source",
        tmp_path / "sink",
        *("--device", "cuda", "--stall-timeout-s", 3),
        expect=5,
    )
    assert re.search(r"0 of 0 GPUs", printed)


@pytest.mark.soak
@pytest.mark.fault(22)
def test_encode_empty_and_damaged_shards_are_committed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    data = tar_of({f"{i}.jpg": image for i, image in enumerate(photos(5))})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        cut_at = tar.getmember("3.jpg").offset_data + 100
    (source / "cut.tar").write_bytes(data[:cut_at])
    (source / "empty.tar").write_bytes(tar_of({}))
    (source / "page.tar").write_bytes(b"<html></html>" * 100)
    for _ in range(2):
        printed = shell.encode(source, tmp_path / "sink", "--max-rejected", 100, expect=2)
        assert "2 shard(s) could not be read to the end (cut, page)" in " ".join(printed.split())
        assert not (tmp_path / "sink" / "_SUCCESS").exists()
    allow = "--allow-damaged-shards"
    shell.encode(source, tmp_path / "sink", "--max-rejected", 100, allow)
    assert json.loads((tmp_path / "sink" / "_SUCCESS").read_bytes())["damaged_shards"] == 2
    names = {path.stem for path in (tmp_path / "sink" / "data").iterdir()}
    assert names == {"cut", "empty", "page"}
    rejected = shell.rows(tmp_path / "sink", "rejected")
    assert [(row["key"], row["reason"]) for row in rejected] == [
        ("3", "shard_damaged"),
        (None, "shard_damaged"),
    ]
    kept = {row["key"] for row in shell.rows(tmp_path / "sink", columns="key, row")}
    assert kept == {"0", "1", "2"}


@pytest.fixture
def finished(tmp_path_factory):
    """A source and a finished sink of it, made once."""
    root = Path(tmp_path_factory.getbasetemp()) / "finished"
    if not root.exists():
        write_tars(root / "source", photos(6), shards=2)
        plain.encode(root / "source", root / "sink")
    return root


def main(*arguments):
    return cli.main([str(argument) for argument in arguments])


def encode_again(root, *options, sink="sink", source="source", resolution=RESOLUTION):
    places = ("--source", root / source, "--sink", root / sink, "--model", shell.CHECKPOINT)
    return main("encode", *places, "--resolution", resolution, *options)


def test_encode_finished_sink_again_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "sink").rglob("*.parquet")}
    assert encode_again(finished) == 0
    assert {p: p.stat().st_mtime_ns for p in (finished / "sink").rglob("*.parquet")} == before


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (("--resample", "lanczos"), ["resample"]),
        (("--pixel-range", "unit", "--dtype", "bfloat16"), ["dtype", "pixel_range"]),
        (("--background", "0", "0", "0"), ["background"]),
        (("--draft",), ["draft"]),
    ],
)
def test_encode_into_sink_of_another_run_exits_3(finished, capsys, options, fields):
    assert encode_again(finished, *options) == 3
    errors = capsys.readouterr().err
    assert re.findall(r"^  (\w+): the sink has", errors, re.MULTILINE) == fields


@pytest.mark.fault(16)
def test_encode_changed_source_exits_3_and_names_the_shards(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    run = json.loads((tmp_path / "copy" / "sink" / "run.json").read_bytes())
    assert run["identity"]["source"] == str(finished / "source")
    original = (finished / "source" / "000.tar").read_bytes()
    try:
        (finished / "source" / "000.tar").write_bytes(original + b"\0" * 512)
        (finished / "source" / "new.tar").write_bytes(original)
        assert encode_again(finished) == 3
    finally:
        (finished / "source" / "000.tar").write_bytes(original)
        shutil.copystat(tmp_path / "copy" / "source" / "000.tar", finished / "source" / "000.tar")
        (finished / "source" / "new.tar").unlink()
    errors = capsys.readouterr().err
    assert "1 changed: 000" in errors
    assert "1 new: new" in errors
    assert encode_again(finished) == 0


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sink": "source"}, "is the source itself"),
        ({"sink": "source/codes"}, "inside the source"),
        ({"source": "nowhere"}, "nowhere"),
        ({"resolution": 63, "sink": "x"}, "use 64"),
        ({"options": ("--address", "127.0.0.1:1"), "sink": "y"}, "127.0.0.1:1"),
        ({"options": ("--key", "id"), "sink": "z"}, "key"),
    ],
)
def test_encode_impossible_command_exits_4_and_says_why(finished, capsys, change, words):
    options = change.pop("options", ())
    assert encode_again(finished, *options, **change) == 4
    assert words in capsys.readouterr().err


def test_inspect_says_what_is_there(finished, capsys):
    assert main("inspect", finished / "sink", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["complete"], found["shards"], found["shards_left"]) == (True, 2, 0)
    assert (found["samples"], found["encoded"], found["rejected"]) == (6, 6, 0)
    codes = np.array(list(shell.codes_by_key(finished / "sink").values()))
    assert found["codebook_usage"] == pytest.approx(len(np.unique(codes)) / 1024, abs=1e-6)
    files = list((finished / "sink" / "data").rglob("*.parquet"))
    assert found["bytes_per_image"] == pytest.approx(
        sum(f.stat().st_size for f in files) / 6, abs=0.1
    )
    assert main("inspect", finished / "sink") == 0
    assert main("inspect", finished / "source") == 4
