"""Whole runs whose codec is not the plain one: another pixel range, reduced precision."""

import json

import numpy as np
import pytest

from tests import shell
from tests.codec.models import make_unit, make_untrained
from tests.makers import jpeg, tar_of
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.commands import cli
from vqpipe.engine import capacity
from vqpipe.sink.footer import ORIGIN

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SIDE = 64


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A source and the sink of a run in bfloat16, of a model for [0, 1] that nobody named."""
    root = tmp_path_factory.mktemp("half")
    make_unit().save_pretrained(root / "model")
    (root / "source").mkdir()
    for shard in range(2):
        images = {f"{shard}{i}.jpg": jpeg(90, 64, seed=shard * 9 + i, quality=95) for i in range(5)}
        (root / "source" / f"{shard}.tar").write_bytes(tar_of(images))
    options = ("--dtype", "bfloat16", "--batch-size", "3")
    shell.encode(root / "source", root / "sink", *options, model=root / "model", resolution=SIDE)
    return root


def read_json(root, name):
    return json.loads((root / "sink" / name).read_bytes())


def codes_in(root, dtype):
    """Codes by key, of the codec alone, fed with what Pillow opens."""
    from vqpipe.images import Preprocess, open_image, square

    how = CodecConfig(dtype=dtype, pixel_range="unit")
    # As many threads as a run takes: torch's group norm divides its sums between them.
    codec = Codec(Weights.load(str(root / "model")), how, threads=capacity.cores())
    found = {}
    for shard in range(2):
        for i in range(5):
            data = jpeg(90, 64, seed=shard * 9 + i, quality=95)
            codes, _ = codec.encode(open_image(data, Preprocess(square(SIDE))).pixels[None])
            found[f"{shard}{i}"] = codes.ravel().tolist()
    return found


def test_encode_auto_finds_the_range_and_records_how(half):
    run = read_json(half, "run.json")
    assert run["identity"]["pixel_range"] == run["doctor"]["verdict"] == "unit"
    assert run["doctor"]["psnr_db"]["unit"] > run["doctor"]["psnr_db"]["signed"] + 6
    assert 0 < run["doctor"]["flips"] < 0.2
    assert shell.codes_by_key(half / "sink") == codes_in(half, "bfloat16")


def test_encode_reduced_precision_counts_its_flips_against_float32(half):
    """Ten images are too few to pick one in a thousand: the first of either shard is audited."""
    import pyarrow.parquet as pq

    exact, found = codes_in(half, "float32"), shell.codes_by_key(half / "sink")
    flips = [int(np.not_equal(exact[key], found[key]).sum()) for key in ("00", "10")]
    assert sum(flips) > 0
    summary = read_json(half, "summary.json")
    assert (summary["audited"], summary["psnr_images"]) == (2, 2)
    assert 10 < summary["psnr_db"] < 40
    assert summary["flip_rate"] == pytest.approx(sum(flips) / (2 * len(exact["00"])), abs=1e-6)
    for shard, count in enumerate(flips):
        metadata = pq.read_metadata(half / "sink" / "data" / f"{shard}.parquet").metadata
        origin = json.loads(metadata[ORIGIN.encode()])
        assert (origin["audited"], origin["flips"]) == (1, count)


def again(half, *options, sink="sink"):
    places = ["--source", half / "source", "--sink", half / sink, "--model", half / "model"]
    arguments = ["encode", *places, "--resolution", SIDE, "--batch-size", 3, *options]
    return cli.main([str(argument) for argument in arguments])


def test_encode_other_range_or_kernels_into_the_same_sink_exits_3(half, capsys):
    assert again(half, "--dtype", "bfloat16") == 0
    assert again(half, "--dtype", "bfloat16", "--pixel-range", "signed", "--eager") == 3
    errors = capsys.readouterr().err
    assert "  eager: " in errors
    assert "  pixel_range: " in errors


def test_encode_wrong_range_exits_4_before_anything_is_written(half, capsys):
    assert again(half, "--pixel-range", "signed", sink="new") == 4
    assert "use unit" in capsys.readouterr().err
    assert not (half / "new").exists()


def test_encode_with_a_model_that_photos_do_not_come_back_from_exits_4(half, tmp_path, capsys):
    places = ["--source", half / "source", "--sink", half / "new"]
    make_untrained().save_pretrained(tmp_path / "model")
    model = ["--model", tmp_path / "model", "--resolution", SIDE]
    assert cli.main([str(argument) for argument in ["encode", *places, *model]]) == 4
    assert "photos do not come back" in " ".join(capsys.readouterr().err.split())
    assert not (half / "new").exists()


def test_encode_skip_doctor_needs_the_range(half, capsys):
    assert again(half, "--skip-doctor", sink="new") == 4
    assert "--pixel-range" in capsys.readouterr().err


def test_doctor_prints_what_it_found(half, capsys):
    assert cli.main(["doctor", str(half / "model"), "--resolution", str(SIDE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pixel_range"], found["verdict"]) == ("unit", "unit")
    assert (found["layout"]["shapes"], found["codes_per_image"]) == ([[16, 16]], 256)
    assert (found["codebook_size"], found["downsample_factor"]) == (1024, 4)
    assert found["model_sha256"] == read_json(half, "run.json")["identity"]["model_sha256"]
    assert {p["dtype"] for p in found["precisions"]} >= {"float32", "bfloat16", "float16"}
    assert cli.main(["doctor", str(half / "model"), "--resolution", str(SIDE)]) == 0
    assert "unit" in capsys.readouterr().out


def test_doctor_resolution_that_gives_no_grid_exits_4(half, capsys):
    assert cli.main(["doctor", str(half / "model"), "--resolution", "66"]) == 4
    assert "66" in capsys.readouterr().err
