"""Views of photos to codes, and all that is done with these; recipes against plain scripts."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from diffusers import VQModel
from infra.demo.photos import PACKAGED, open_photo
from PIL import Image

from tests import plain
from tests.codec import models
from tests.makers import encoded, tar_of
from vqpipe.commands import encode
from vqpipe.commands.stage_jobs import Encode
from vqpipe.sink import success, totals

SIDE = 32
NAMES = sorted(PACKAGED)[:4]


@pytest.fixture(scope="module")
def photos():
    return {name: open_photo(name) for name in NAMES}


@pytest.fixture(scope="module")
def source(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    members = {f"{name}.png": encoded(photo, "PNG") for name, photo in photos.items()}
    (folder / "a.tar").write_bytes(tar_of(members | {"bad.jpg": b"<html>"}))
    return folder


@pytest.fixture(scope="module")
def model(photos, tmp_path_factory):
    return models.write_tiny(tmp_path_factory.mktemp("model"), photos.values())


@pytest.fixture(scope="module")
def network(model):
    return VQModel.from_pretrained(model)


@pytest.fixture
def run(model):
    """Returns what encodes as the command does, in this process, and returns the sink."""

    def encode_in(source, sink, **options):
        how = {"model": str(model), "resolution": SIDE, "pixel_range": "signed"}
        job = Encode(source=str(source), sink=str(sink), skip_doctor=True, **how | options)
        prepared = encode._prepare(job)
        plain.work(prepared)
        opened = prepared.work.writer.sink
        success.mark_success(opened, totals.read_totals(opened))
        return Path(sink)

    return encode_in


def rows(sink):
    """Returns what DuckDB finds in `data/`, by key and view."""
    found = duckdb.sql(f"FROM '{sink}/data/**/*.parquet' ORDER BY key, view").fetchall()
    names = [
        name for name, *_ in duckdb.sql(f"DESCRIBE FROM '{sink}/data/**/*.parquet'").fetchall()
    ]
    return [dict(zip(names, row, strict=True)) for row in found]


@torch.no_grad()
def codes_of(network, image):
    """Returns the codes of an image that is cut and resized already, by diffusers."""
    levels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    latents = network.encode(levels / 127.5 - 1).latents
    return network.quantize(latents)[2][2].flatten().tolist()


def check(sink, network, expected):
    """Checks codes row by row.

    Args:
        sink: Where they are.
        network: Diffusers' own.
        expected: Of each photo, its views in order.
    """
    found = rows(sink)
    assert [(row["key"], row["view"]) for row in found] == [
        (name, number) for name, views in expected.items() for number in range(len(views))
    ]
    images = [image for views in expected.values() for image in views]
    assert len({code for row in found for code in row["codes"]}) > 50
    for row, image in zip(found, images, strict=True):
        assert row["codes"] == codes_of(network, image), (row["key"], row["view"])
        if "grid_h" in row:
            assert (row["grid_w"] * 4, row["grid_h"] * 4) == image.size
    rejected = duckdb.sql(f"SELECT key, row FROM '{sink}/rejected/*.parquet'").fetchall()
    assert rejected == [("bad", len(NAMES))]
    said = json.loads((sink / "_SUCCESS").read_text())
    assert (said["samples"], said["encoded"], said["rejected"]) == (len(NAMES) + 1, len(NAMES), 1)


def halved_and_covering(image, width, height):
    """Resizes as ADM does: by halves with a box filter, then at once, until a size is covered."""
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.BOX)
    scale = max(width / image.width, height / image.height)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)


def middle(image, width, height):
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def ten_crop(image, side):
    def five(image):
        right, bottom = image.width - side, image.height - side
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
        at = [*corners, (round(right / 2), round(bottom / 2))]
        return [image.crop((x, y, x + side, y + side)) for x, y in at]

    return [*five(image), *five(image.transpose(Image.FLIP_LEFT_RIGHT))]


def as_llamagen(image):
    sides = [int(SIDE * 1.1), int(SIDE * 1.05)]
    squares = [middle(halved_and_covering(image, side, side), side, side) for side in sides]
    return [crop for square in squares for crop in ten_crop(square, SIDE)]


def as_open_muse(image):
    width, height = image.size
    size = (
        (SIDE, int(SIDE * height / width))
        if width <= height
        else (int(SIDE * width / height), SIDE)
    )
    resized = image.resize(size, Image.BILINEAR)
    left, top = (round((length - SIDE) / 2) for length in size)
    return [resized.crop((left, top, left + SIDE, top + SIDE))]


def as_lumina(image):
    wide = [(128, 32), (96, 32), (64, 32)]
    sizes = [*wide, (64, 64), *((h, w) for w, h in wide)]
    shares = [sorted((w / image.width, h / image.height)) for w, h in sizes]
    size = max((less / more, size) for (less, more), size in zip(shares, sizes, strict=True))[1]
    return [middle(halved_and_covering(image, *size), *size)]


@pytest.mark.parametrize(
    ("recipe", "options", "views"),
    [
        ("llamagen", {}, as_llamagen),
        ("open-muse", {}, as_open_muse),
        ("lumina", {"buckets": ("lumina:64",)}, as_lumina),
    ],
)
def test_recipe_gives_the_codes_of_a_plain_script(
    recipe, options, views, source, photos, network, run, tmp_path
):
    sink = run(source, tmp_path / "codes", recipe=recipe, **options)
    check(sink, network, {name: views(photo) for name, photo in photos.items()})


def test_4m_draws_views_that_a_script_makes_again_of_their_boxes(
    source, photos, network, run, tmp_path
):
    sink = run(source, tmp_path / "codes", recipe="4m", seed=7)
    views = {name: [] for name in photos}
    for row in rows(sink):
        photo = photos[row["key"]]
        view = photo.crop(row["crop"]).resize((SIDE, SIDE), Image.BICUBIC)
        views[row["key"]].append(view.transpose(Image.FLIP_LEFT_RIGHT) if row["flip"] else view)
        width, height = row["crop"][2] - row["crop"][0], row["crop"][3] - row["crop"][1]
        assert (row["width"], row["height"]) == photo.size
        if row["view"] == 0:
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            assert (row["crop"], row["flip"]) == ([left, top, left + side, top + side], False)
        else:
            assert 0.79 <= width * height / (photo.width * photo.height) <= 1
            assert 0.74 <= width / height <= 1.35 or side == min(width, height)
    assert [len(each) for each in views.values()] == [10] * len(photos)
    assert len({row["flip"] for row in rows(sink)}) == 2
    check(sink, network, views)


def test_random_views_depend_on_seed_and_key_alone(source, photos, run, tmp_path):
    """Another shard, another place in it and other neighbours change nothing; another seed does."""
    how = {"views": ("random-crop:3", "random-resized:2"), "flip": "random"}
    first = run(source, tmp_path / "first", seed=3, **how)
    other = tmp_path / "other"
    other.mkdir()
    names = sorted(photos, reverse=True)
    for number in range(2):
        members = {f"{n}.png": encoded(photos[n], "PNG") for n in names[2 * number :][:2]}
        (other / f"{number}.tar").write_bytes(tar_of(members))
    second, third = (run(other, tmp_path / f"seed-{seed}", seed=seed, **how) for seed in (3, 4))
    columns = ("key", "view", "codes", "crop", "flip")
    cut = [
        [{name: row[name] for name in columns} for row in rows(sink)] for sink in (first, second)
    ]
    assert cut[0] == cut[1]
    drawn = [row["crop"] for row in rows(third)]
    assert drawn != [row["crop"] for row in rows(first)]
    assert drawn[::5] == [row["crop"] for row in rows(first)][::5]


KINDS = {
    "views": {"views": ("center", "five-crop:1.25"), "flip": "both"},
    "buckets": {"buckets": ("32",), "resize": "adm", "flip": "both"},
    "whole": {"fit": "inside:48"},
    "one bucket": {"buckets": ("48x32",)},
}
VIEWS = {"views": 12, "buckets": 2, "whole": 1, "one bucket": 1}


@pytest.fixture
def command(capsys):
    """Returns what runs a command without Ray; returns its exit code and what it printed."""

    def call(*words):
        (code,) = plain.run([words])
        return code, capsys.readouterr().out

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_all_commands_take_views_and_grids(kind, source, run, command, tmp_path):
    sink = run(source, tmp_path / "codes", keep=(), **KINDS[kind])
    good = len(NAMES)
    assert command("verify", sink, "--deep", "--share", "1")[0] == 0
    code, said = command("inspect", sink, "--json")
    assert (code, json.loads(said)["reader"]["views"]) == (0, VIEWS[kind])
    assert command("evaluate", "--source", sink, "--samples", "9")[0] == 0
    found = json.loads((sink / "evaluation.json").read_text())
    assert (found["samples"], found["codes_unlike_float32"]) == (min(9, good * VIEWS[kind]), 0.0)
    again = run(source, tmp_path / "again", **KINDS[kind] | {"seed": 1})
    code, said = command("diff", sink, again, "--json")
    assert (code, json.loads(said)["codes"]["equal"]) == (0, 1.0)
    for layout in ("parquet", "webdataset", "folder"):
        images = tmp_path / layout
        how = ("--layout", layout, "--format", "png")
        assert command("decode", "--source", sink, "--sink", images, *how)[0] == 0
        assert command("verify", images)[0] == 0
        asked = "SELECT count(*), count(DISTINCT width || 'x' || height)"
        ((count, shapes),) = duckdb.sql(f"{asked} FROM '{images}/data/*.parquet'").fetchall()
        assert (count, shapes > 1) == (good * VIEWS[kind], kind in {"buckets", "whole"})
