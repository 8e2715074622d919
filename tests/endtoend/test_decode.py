"""`vqpipe decode` as a user runs it; truth is diffusers' decoder and what other readers see."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from urllib.parse import unquote

import diffusers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests import plain, shell
from tests.makers import jpeg
from vqpipe.codec.weights import Weights
from vqpipe.commands import cli

KEYS = ["plain", "a/b.jpg", "../../up", "/abs", "nul\0", "<b>é😀", "x" * 3000, "a.b.c"]
SIDE, GRID = 32, (8, 8)

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A sink of two shards whose keys are no file names."""
    root = tmp_path_factory.mktemp("encoded")
    (root / "source" / "deep").mkdir(parents=True)
    for number, name in enumerate(("one", "deep/two")):
        images = [jpeg(40, 40, seed=number * 100 + i) for i in range(len(KEYS))]
        captions = [f"caption {i}" for i in range(len(KEYS))]
        table = pa.table({"id": KEYS, "image": images, "caption": captions, "n": range(len(KEYS))})
        pq.write_table(table, root / "source" / f"{name}.parquet")
    options = ("--key", "id", "--keep", "caption", "n")
    plain.encode(root / "source", root / "codes", *options, resolution=SIDE)
    return root


@pytest.fixture(scope="module")
def expected(encoded):
    """Levels of each shard's pixels as diffusers decodes the stored codes, by key."""
    oracle = diffusers.VQModel.from_pretrained(str(shell.CHECKPOINT)).eval()
    return {name: decoded_by(oracle, encoded / "codes" / "data" / f"{name}.parquet")
            for name in ("one", "deep/two")}  # fmt: skip


@torch.no_grad()
def decoded_by(oracle, path):
    table = pq.read_table(path)
    codes = torch.tensor(table["codes"].to_pylist()).view(len(table), *GRID)
    shape = (*codes.shape, oracle.quantize.vq_embed_dim)
    vectors = oracle.quantize.get_codebook_entry(codes, shape)
    pixels = oracle.decode(vectors, force_not_quantize=True).sample  # [-1, 1]
    levels = ((pixels + 1) * 127.5).clamp(0, 255).numpy().transpose(0, 2, 3, 1)
    return dict(zip(table["key"].to_pylist(), levels, strict=True))


def decode(source, sink, *options, **how):
    return shell.run("decode", "--source", source, "--sink", sink, *options, **how)


def check_pixels(data, expected, tolerance=0.51):
    found = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    assert np.abs(found - expected).max() < tolerance


def place_of(data):
    """Returns where the images of a shard lie, by what the footer of its object says."""
    return json.loads(pq.read_metadata(data).metadata[b"vqpipe"])["place"]


def listed(sink):
    return {str(p.relative_to(sink)) for p in Path(sink).rglob("*") if p.is_file()}


@pytest.mark.fault(26)
def test_decode_to_a_folder_gives_every_image_a_safe_name_and_its_pixels(encoded, expected, capsys):
    sink = encoded / "folder"
    before = listed(encoded)
    plain.decode(encoded / "codes", sink, "--layout", "folder")
    assert str(sink / "images") in capsys.readouterr().out
    outside = {name for name in listed(encoded) - before if not name.startswith("folder/")}
    assert not outside
    for shard, folder in (("one", "one"), ("deep/two", "deep%2Ftwo")):
        table = pq.read_table(sink / "data" / f"{shard}.parquet").to_pylist()
        place = place_of(sink / "data" / f"{shard}.parquet")
        assert place.startswith(f"images/{folder}.")
        assert [row["key"] for row in table] == KEYS
        assert [row["caption"] for row in table] == [f"caption {i}" for i in range(len(KEYS))]
        for row in table:
            path = sink / place / row["file"]
            assert path.stat().st_size == row["bytes"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
            check_pixels(path.read_bytes(), expected[shard][row["key"]])
            if len(row["key"]) < 100:
                assert unquote(row["file"]) == row["key"].removesuffix(".jpg") + ".png"
    totals = json.loads((sink / "_SUCCESS").read_bytes())
    sizes = [path.stat().st_size for path in (sink / "images").rglob("*.png")]
    assert (totals["decoded"], totals["image_bytes"]) == (2 * len(KEYS), sum(sizes))
    stored = sum(sizes) + sum(path.stat().st_size for path in (sink / "data").rglob("*.parquet"))
    assert totals["bytes_per_image"] == pytest.approx(stored / len(sizes), abs=0.051)
    before = {path: path.stat().st_mtime_ns for path in (sink / "images").rglob("*.png")}
    again = decode(encoded / "codes", sink, "--layout", "folder", "--format", "png")
    assert "nothing was left to do" in again
    assert {path: path.stat().st_mtime_ns for path in (sink / "images").rglob("*.png")} == before


def test_decode_to_tars_holds_images_text_and_metadata(encoded, expected):
    sink = encoded / "tars"
    decode(encoded / "codes", sink, "--format", "png")
    for shard in ("one", "deep/two"):
        path = sink / place_of(sink / "data" / f"{shard}.parquet")
        assert path.parent == (sink / "images" / shard).parent
        assert path.name.startswith(f"{Path(shard).name}.")
        file = pq.ParquetFile(sink / "data" / f"{shard}.parquet")
        said = json.loads(file.metadata.metadata[b"vqpipe"])
        assert said["tar"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert said["image_bytes"] == path.stat().st_size
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        names = list(members)
        assert names == sorted(names, key=lambda name: names.index(name.split(".")[0] + ".png"))
        for i, row in enumerate(file.read().to_pylist()):
            stem, dot, ending = row["file"].partition(".")
            assert (dot, ending) == (".", "png")  # a webdataset key ends at its first dot
            check_pixels(members[row["file"]], expected[shard][row["key"]])
            assert members[f"{stem}.caption"] == f"caption {i}".encode()
            assert json.loads(members[f"{stem}.json"]) == {"n": i}


@pytest.mark.soak
def test_decode_to_parquet_is_read_back_as_a_source(encoded, expected):
    sink = encoded / "parquet"
    decode(encoded / "codes", sink, "--layout", "parquet", "--format", "png", "--keep", "n")
    of_run = {"run.json", "plan.parquet", "summary.json", "README.md", "_SUCCESS"}
    found = {name for name in listed(sink) if not name.startswith("plans/")}
    assert found == of_run | {f"data/{name}.parquet" for name in expected}
    for shard, images in expected.items():
        for row in pq.read_table(sink / "data" / f"{shard}.parquet").to_pylist():
            check_pixels(row["image"], images[row["key"]])
    again = encoded / "again"
    options = ("--key", "key", "--image", "image")
    shell.encode(sink / "data", again, *options, resolution=SIDE)
    assert len(shell.rows(again, columns="key, row")) == 2 * len(KEYS)


def test_decode_codes_of_another_tool_rejects_what_is_none(encoded, expected, tmp_path):
    stored = pq.read_table(encoded / "codes" / "data" / "one.parquet").slice(0, 3)
    good = [[int(code) for code in row] for row in stored["codes"].to_pylist()]
    lists = [good[0], good[0][:-1], None, [5000, *good[1][1:]], good[2]]
    (tmp_path / "tokens").mkdir()
    pq.write_table(pa.table({"tokens": lists}), tmp_path / "tokens" / "x.parquet")
    options = ("--codes", "tokens", "--grid", *GRID, "--model", shell.CHECKPOINT)
    options = (*options, "--max-rejected", 3, "--layout", "parquet")
    plain.decode(tmp_path / "tokens", tmp_path / "sink", *options)
    rows = shell.rows(tmp_path / "sink", columns="key, row, image")
    assert [(row["key"], row["row"]) for row in rows] == [("x/00000000", 0), ("x/00000004", 4)]
    for row, key in zip(rows, (KEYS[0], KEYS[2]), strict=True):
        check_pixels(row["image"], expected["one"][key])
    rejected = shell.rows(tmp_path / "sink", "rejected", "key, row, reason")
    assert [row["reason"] for row in rejected] == ["bad_codes", "no_codes", "bad_codes"]


@pytest.mark.soak
def test_decode_latents_are_looked_up_and_decoded(tmp_path):
    oracle = diffusers.VQModel.from_pretrained(str(shell.CHECKPOINT)).eval()
    channels = oracle.config.vq_embed_dim or oracle.config.latent_channels
    latents = torch.randn(3, channels, *GRID, generator=torch.Generator().manual_seed(1)) / 4
    with torch.no_grad():
        pixels = oracle.decode(latents).sample  # looks them up first
    levels = ((pixels + 1) * 127.5).clamp(0, 255).numpy().transpose(0, 2, 3, 1)
    lists = [*latents.flatten(1).tolist(), [float("nan")] * latents[0].numel()]
    pq.write_table(pa.table({"z": lists}), tmp_path / "z.parquet")
    options = ("--latents", "z", "--grid", *GRID, "--model", shell.CHECKPOINT)
    options = (*options, "--max-rejected", 1, "--format", "png", "--layout", "parquet")
    decode(tmp_path / "z.parquet", tmp_path / "sink", *options)
    rows = shell.rows(tmp_path / "sink", columns="key, row, image")
    for row, expected in zip(rows, levels, strict=True):
        check_pixels(row["image"], expected)
    rejected = shell.rows(tmp_path / "sink", "rejected", "key, row, reason")
    assert [(row["row"], row["reason"]) for row in rejected] == [(3, "non_finite")]


def refused(capsys, *arguments):
    """Returns exit code and message of a command that is refused before Ray starts."""
    code = cli.main(["decode", *map(str, arguments)])
    return code, capsys.readouterr().err


@pytest.mark.soak
def test_decode_another_codebook_is_refused_and_another_decoder_is_not(encoded, tmp_path, capsys):
    model = tmp_path / "other"
    shutil.copytree(shell.CHECKPOINT, model)
    places = ("--source", encoded / "codes", "--sink", tmp_path / "sink")
    oracle = diffusers.VQModel.from_pretrained(str(model))
    with torch.no_grad():
        oracle.decoder.conv_out.bias += 0.1
    oracle.save_pretrained(model)
    assert Weights.load(str(model)).sha256() != Weights.load(str(shell.CHECKPOINT)).sha256()
    decode(encoded / "codes", tmp_path / "retrained", "--model", model, "--layout", "parquet")
    with torch.no_grad():
        oracle.quantize.embedding.weight[3] += 0.01
    oracle.save_pretrained(model)
    code, said = refused(capsys, *places, "--model", model)
    assert code == 3
    assert "another codebook" in said
    assert not (tmp_path / "sink").exists()


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "add --model"),
        (("--model", shell.CHECKPOINT), "add --grid ROWS COLUMNS"),
        (("--model", shell.CHECKPOINT, "--grid", 8, 0), "--grid is"),
        (("--quality", 101), "--quality is 101"),
        (("--keep", "row"), "--keep names 'row'"),
        (
            ("--codes", "tokens", "--model", shell.CHECKPOINT, "--grid", 8, 8),
            "no column 'tokens'",
        ),
    ],
)
def test_decode_option_that_cannot_work_says_what_would(tmp_path, capsys, options, said):
    pq.write_table(pa.table({"codes": [[1, 2]]}), tmp_path / "a.parquet")
    source = ("--source", tmp_path / "a.parquet", "--sink", tmp_path / "sink")
    code, printed = refused(capsys, *source, *options)
    assert code == 4
    assert said in " ".join(printed.split())
    assert not (tmp_path / "sink").exists()


@pytest.mark.soak
def test_decode_images_are_refused_as_a_source(encoded, capsys):
    if not (encoded / "parquet").exists():
        decode(encoded / "codes", encoded / "parquet", "--layout", "parquet", "--format", "png")
    places = ("--source", encoded / "parquet", "--sink", encoded / "nothing")
    code, said = refused(capsys, *places)
    assert code == 4
    assert "holds no codes" in said


@pytest.mark.soak
@pytest.mark.fault(2)
def test_decode_killed_and_run_again_completes_as_if_nothing_had_been(tmp_path):
    source, rng = tmp_path / "tokens", np.random.default_rng(0)
    source.mkdir()
    for shard in range(6):
        codes = [rng.integers(0, 1024, 64).tolist() for _ in range(40)]
        pq.write_table(pa.table({"codes": codes}), source / f"{shard}.parquet")
    options = ("--grid", *GRID, "--model", shell.CHECKPOINT, "--pixel-range", "signed")
    places = ("decode", "--source", source, "--sink", tmp_path / "sink", *options)
    process = shell.start(*places)
    done = shell.await_commit(process, tmp_path / "sink")
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in done}
    shell.run(*places)
    assert {path: path.stat().st_mtime_ns for path in done} == before
    rows = shell.rows(tmp_path / "sink", columns="key, row, file, bytes")
    assert len(rows) == len({row["key"] for row in rows}) == 240
    members = {}
    for path in sorted((tmp_path / "sink" / "images").iterdir()):
        with tarfile.open(path) as tar:
            members |= {f"{path.name.split('.')[0]}/{m.name}": m.size for m in tar}
    assert members == {row["key"].split("/")[0] + "/" + row["file"]: row["bytes"] for row in rows}
    assert listed(tmp_path / "sink") >= {"_SUCCESS", "summary.json", "run.json"}
    assert not any(name.startswith("staging") for name in listed(tmp_path / "sink"))


S3_KEYS = ["a/b.jpg", "../../up", "<b>é😀", "a%2Fb", "IMG", "img"]


def put_codes(uri, shards):
    """Uploads codes with keys and captions; returns what they decode to, by shard and key."""
    oracle = diffusers.VQModel.from_pretrained(str(shell.CHECKPOINT)).eval()
    rng, expected = np.random.default_rng(3), {}
    for shard in shards:
        codes = rng.integers(0, oracle.config.num_vq_embeddings, (len(S3_KEYS), 64))
        columns = {"codes": list(codes), "key": S3_KEYS, "txt": [f"of {key}" for key in S3_KEYS]}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        s3().put_object(**at(f"{uri}/{shard}.parquet"), Body=buffer.getvalue())
        expected[shard] = decoded_by(oracle, io.BytesIO(buffer.getvalue()))
    return expected


def s3():
    return pytest.importorskip("boto3").client("s3")


def at(uri):
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def objects(uri):
    """Returns what is below a URI, by its path there, as boto3 has it."""
    place = at(f"{uri}/")
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=place["Bucket"])
    keys = [each["Key"] for page in pages for each in page["Contents"]]
    return {
        key.removeprefix(place["Key"]): s3().get_object(**place | {"Key": key})["Body"].read()
        for key in keys
        if key.startswith(place["Key"])
    }


def rows_of(found, shard):
    return pq.read_table(io.BytesIO(found[f"data/{shard}.parquet"])).to_pylist()


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.s3
@pytest.mark.soak
def test_decode_from_s3_to_s3_gives_every_image_and_can_be_run_again(bucket):
    shards = ("one", "deep/two é")
    expected = put_codes(f"{bucket}/tokens", shards)
    options = ("--grid", *GRID, "--model", shell.CHECKPOINT, "--pixel-range", "signed")
    options = (*options, "--key", "key", "--keep", "txt", "--format", "png")
    for layout in ("folder", "webdataset"):
        decode(f"{bucket}/tokens", f"{bucket}/{layout}", *options, "--layout", layout)
    folder, tars = objects(f"{bucket}/folder"), objects(f"{bucket}/webdataset")
    files, places = set(), set()
    for shard in shards:
        inside = place_of(io.BytesIO(folder[f"data/{shard}.parquet"]))
        for row in rows_of(folder, shard):
            image = folder[f"{inside}/{row['file']}"]
            check_pixels(image, expected[shard][row["key"]])
            name = row["key"].removesuffix(".jpg") + ".png"
            assert (unquote(row["file"]), row["bytes"]) == (name, len(image))
            files.add(f"{inside}/{row['file']}")
        place = place_of(io.BytesIO(tars[f"data/{shard}.parquet"]))
        places.add(place)
        members = unpack(tars[place])
        assert [row["key"] for row in rows_of(tars, shard)] == S3_KEYS
        for row in rows_of(tars, shard):
            check_pixels(members[row["file"]], expected[shard][row["key"]])
            text = row["file"].replace(".png", ".txt")
            assert members[text].decode() == row["txt"] == f"of {row['key']}"
        assert len(members) == 2 * len(S3_KEYS)
    run = {"run.json", "plan.parquet", "summary.json", "README.md", "_SUCCESS"}
    run |= {f"data/{shard}.parquet" for shard in shards}
    assert {name for name in folder if not name.startswith("plans/")} == run | files
    assert {name for name in tars if not name.startswith("plans/")} == run | places
    shell.run("verify", f"{bucket}/folder")
    shell.run("verify", f"{bucket}/webdataset")
    decode(f"{bucket}/tokens", f"{bucket}/folder", *options, "--layout", "folder")
    again = objects(f"{bucket}/folder")
    assert {name: again[name] for name in files} == {name: folder[name] for name in files}
