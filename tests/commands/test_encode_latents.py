"""Latents from photos to a sink and back to pixels, with every command but Ray's part of it."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from tests import shell
from tests.makers import jpeg, tar_of
from tests.sink.damage import rewrite
from vqpipe.codec.codec import Codec
from vqpipe.commands import cli, decode, encode
from vqpipe.commands.stage_jobs import Decode, Encode
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess, open_image, square
from vqpipe.sink import success, totals
from vqpipe.sink.card import write_card
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.run import load_run, open_sink
from vqpipe.stages.open import open_rows
from vqpipe.vqgan import VQModel

SIDE, SHAPE, BLOCK = 32, (8, 8, 8), 3
LARGE, MOST = jpeg(90, 90, seed=9), 5000
"""A photo with more pixels than the run takes at first."""
PHOTOS = {f"{i}.jpg": jpeg(60, 40, seed=i) for i in range(5)} | {"8.jpg": b"", "9.jpg": LARGE}


def do(work):
    """Does what an engine would, shard by shard, in this process."""
    ready = work.step.prepare(lambda how, size: Codec(work.weights, how, batch_size=size))
    plan = work.writer.sink.plan
    for index, staged in work.todo.items():
        for table in work.reader.read(plan, index, staged, BLOCK, 0):
            opened = open_rows(table, work.opens) if work.opens else table
            made = ready.run(opened, lambda _: None)
            if work.after:
                made = work.after.function(made, *work.after.arguments)
            commit_rows(made, work.writer)
    success.mark_success(work.writer.sink, totals.read_totals(work.writer.sink))
    return Path(work.writer.sink.uri)


def run_encode(source, sink, **options):
    how = {"model": str(shell.CHECKPOINT), "resolution": SIDE, "pixel_range": "signed"}
    how |= {"skip_doctor": True, "max_pixels": MOST}
    return do(encode._prepare(Encode(source=str(source), sink=str(sink), **how | options)).work)


def run_decode(source, sink, **options):
    how = {"format": "png", "layout": "parquet"}
    return do(decode._prepare(Decode(source=str(source), sink=str(sink), **how | options)).work)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.tar").write_bytes(tar_of(PHOTOS))
    return folder


CHOICES = {
    "none": {},
    "both": {"latents": "both", "latents_dtype": "float32"},
    "pre": {"latents": "pre"},
    "quantized": {"latents": "quantized", "latents_dtype": "bfloat16"},
    "alone": {"latents": "both", "latents_dtype": "bfloat16", "drop_codes": True},
    "half": {"latents": "both", "drop_codes": True},
}


@pytest.fixture(scope="module")
def sinks(source, tmp_path_factory):
    """Sinks of the same photos by name."""
    base = tmp_path_factory.mktemp("sinks")
    return {name: run_encode(source, base / name, **how) for name, how in CHOICES.items()}


every_choice = pytest.mark.parametrize("name", [name for name in CHOICES if name != "none"])


def read(sink):
    return pq.read_table(next(Path(sink, "data").glob("*.parquet")))


def numbers(table, name, dtype):
    """Returns a column (N, C, h, w) as float32, by torch alone."""
    stored = np.stack(table[name].to_numpy())
    if dtype == "bfloat16":
        assert stored.dtype == np.uint16
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).float().numpy()
    return stored.astype(np.float32)


@pytest.fixture(scope="module")
def truth():
    """Latents and quantized of the photos that are opened, by diffusers."""
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.VQModel.from_pretrained(str(shell.CHECKPOINT)).eval()
    views = [open_image(data, Preprocess(square(SIDE))) for data in list(PHOTOS.values())[:5]]
    pixels = np.stack([view.pixels for view in views]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        latents = oracle.encode(torch.from_numpy(pixels).float() / 127.5 - 1).latents
        return {"latents": latents.numpy(), "quantized": oracle.quantize(latents)[0].numpy()}


@every_choice
def test_encode_stores_the_vectors_of_diffusers_and_says_what_they_are(name, sinks, truth):
    how, sink = CHOICES[name], sinks[name]
    dtype = how.get("latents_dtype", "float16")
    table, said = read(sink), json.loads((sink / "run.json").read_bytes())
    columns = {"pre": ["latents"], "both": ["latents", "quantized"]}
    wanted = columns.get(how["latents"], ["quantized"])
    codes = [] if how.get("drop_codes") else ["codes"]
    assert table.column_names[2 : -4 or None] == ["view", *codes, *wanted]
    assert list(said["latents"]) == wanted
    assert said["identity"]["latents"] == how["latents"]
    assert said["identity"]["latents_dtype"] == dtype
    for column in wanted:
        found = numbers(table, column, dtype).reshape(-1, *said["latents"][column]["shape"])
        assert found.shape == (5, *SHAPE)
        rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0}[dtype]
        atol = 1e-5 * np.abs(truth[column]).max()
        np.testing.assert_allclose(found, truth[column], rtol=rounding + 1e-5, atol=atol)
        metadata = table.schema.field(column).metadata
        assert json.loads(metadata[b"shape"]) == list(SHAPE)
        assert metadata[b"dtype"].decode() == dtype


@every_choice
def test_encode_gives_the_same_codes_whatever_stands_beside_them(name, sinks):
    plain, found = read(sinks["none"]), read(sinks[name])
    if "codes" in found.column_names:
        assert found["codes"].equals(plain["codes"])
    ends = [
        json.loads((sinks[each] / "_SUCCESS").read_bytes())["codebook_perplexity"]
        for each in ("none", name)
    ]
    assert ends[0] == ends[1]


def test_encode_without_latents_says_nothing_of_them(sinks):
    said = json.loads((sinks["none"] / "run.json").read_bytes())
    assert "latents" not in said
    assert not {"latents", "latents_dtype", "drop_codes"} & said["identity"].keys()


@pytest.mark.parametrize("name", CHOICES)
def test_verify_of_latents_finds_them_sound_also_from_their_source(name, sinks, capsys):
    code = cli.main(["verify", str(sinks[name]), "--deep", "--share", "1"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (code, "BROKEN" in printed) == (0, False)
    assert ("latents and quantized are there" in printed) == (name != "none")
    assert ("codes are there" in printed) == (not CHOICES[name].get("drop_codes"))


def change(sink, table):
    """Replaces the rows of the only object, so that its seal is right."""
    rewrite(sink / "data" / "a.parquet", lambda _: table)
    (sink / "_SUCCESS").unlink()  # it knows sizes


def found_in(sink, capsys, *options):
    cli.main(["verify", str(sink), "--json", *options])
    return json.loads(capsys.readouterr().out)["breaches"]


def broken(sink, capsys, *options):
    """Returns the checks that find something."""
    return {each["check"] for each in found_in(sink, capsys, *options)}


def set_first(table, name, value):
    """Returns rows of which the first number of one column is another."""
    values = np.stack(table[name].to_numpy()).copy()
    values[0, 0] = value
    column = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), column)


@pytest.mark.parametrize(
    ("name", "value"), [("half", np.inf), ("both", np.nan), ("alone", 0x7F80), ("alone", 0xFFC0)]
)
def test_verify_finds_latents_that_are_not_finite(name, value, source, tmp_path, capsys):
    sink = run_encode(source, tmp_path / "sink", **CHOICES[name])
    change(sink, set_first(read(sink), "quantized", value))
    assert broken(sink, capsys) == {"latents"}


def test_verify_finds_a_column_that_does_not_say_what_its_bits_are(source, tmp_path, capsys):
    sink = run_encode(source, tmp_path / "sink", **CHOICES["alone"])
    table = read(sink)
    fields = [field.with_metadata(None) for field in table.schema]
    change(sink, table.cast(pa.schema(fields)))
    assert broken(sink, capsys) == {"schema"}


def test_verify_finds_rows_that_are_gone_though_no_code_is_there(source, tmp_path, capsys):
    sink = run_encode(source, tmp_path / "sink", **CHOICES["alone"])
    change(sink, read(sink).slice(1))
    assert broken(sink, capsys) == {"rows", "counts"}


def test_verify_counts_the_places_of_grids_that_differ_though_no_code_is_there(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    sizes = [(90, 40), (40, 90), (60, 60), (60, 60)]
    photos = {f"{i}.jpg": jpeg(*size, seed=i) for i, size in enumerate(sizes)}
    (tmp_path / "source" / "a.tar").write_bytes(tar_of(photos))
    how = {**CHOICES["half"], "resolution": None, "buckets": ("32",)}
    sink = run_encode(tmp_path / "source", tmp_path / "sink", **how)
    grids = read(sink).select(["grid_h", "grid_w"]).to_pylist()
    assert len({tuple(grid.values()) for grid in grids}) == 3
    assert broken(sink, capsys, "--deep", "--share", "1") == set()
    table = read(sink)
    heights = pa.array([1, *table["grid_h"].to_pylist()[1:]], pa.uint16())
    change(sink, table.set_column(table.schema.get_field_index("grid_h"), "grid_h", heights))
    assert "histogram does not count" in str(found_in(sink, capsys))


@pytest.mark.parametrize("column", ["latents", "quantized"])
def test_verify_deep_alone_finds_latents_of_another_image(source, tmp_path, capsys, column):
    sink = run_encode(source, tmp_path / "sink", **CHOICES["half"])
    table = read(sink)
    place = table.schema.get_field_index(column)
    swapped = table[column].take(pa.array([1, 0, 2, 3, 4]))
    change(sink, table.set_column(place, table.schema.field(column), swapped))
    assert broken(sink, capsys) == set()
    assert broken(sink, capsys, "--deep", "--share", "1") == {"codes_again"}


@pytest.mark.parametrize("name", ["none", "both", "alone"])
def test_retry_of_rejected_photos_gives_what_a_run_that_took_them_at_once_gives(
    name, source, tmp_path, capsys
):
    how = CHOICES[name]
    expected = run_encode(source, tmp_path / "at-once", **how, max_pixels=10**6)
    sink = run_encode(source, tmp_path / "sink", **how)
    run_encode(source, sink, **how, max_pixels=10**6, retry_rejected=True)
    assert len(read(sink)) == 6
    assert read(sink).equals(read(expected))
    metadata = [pq.read_metadata(each / "data" / "a.parquet").metadata for each in (sink, expected)]
    assert metadata[0][b"vqpipe.histogram"] == metadata[1][b"vqpipe.histogram"]
    assert broken(sink, capsys, "--deep", "--share", "1") == set()


def test_run_that_begins_again_with_other_latents_is_refused(source, sinks):
    from vqpipe.errors import MismatchError

    for how in ({}, {"latents": "both"}, {"latents": "pre", "latents_dtype": "float32"}):
        with pytest.raises(MismatchError, match="latents"):
            run_encode(source, sinks["both"], **how)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop_codes": True}, "--drop-codes needs --latents"),
        ({"latents_dtype": "bfloat16"}, "--latents-dtype bfloat16 needs --latents"),
        ({"latents": "pre", "keep": ("latents",)}, "--keep names 'latents'"),
    ],
)
def test_encode_options_that_would_do_nothing_or_clash_are_refused(options, said):
    with pytest.raises((ValueError, ConfigError), match=said):
        Encode(source="photos", sink="codes", model="vqgan", **options)


def pixels_by_key(sink):
    from io import BytesIO

    from PIL import Image

    table = read(sink)
    images = [np.asarray(Image.open(BytesIO(data))) for data in table["image"].to_pylist()]
    return dict(zip(table["key"].to_pylist(), np.stack(images).astype(int), strict=True))


LEVELS = {"float32": 0, "float16": 1, "bfloat16": 4}
"""Most that pixels differ from those of the codes, measured: vectors are rounded, codes are not."""


@every_choice
def test_decode_of_stored_vectors_gives_the_pixels_of_the_codes(name, sinks, tmp_path):
    expected = pixels_by_key(run_decode(sinks["none"], tmp_path / "codes"))
    said = json.loads((sinks[name] / "run.json").read_bytes())["latents"]
    for column, layout in said.items():
        sink = run_decode(sinks[name], tmp_path / column, latents=column)
        found = pixels_by_key(sink)
        assert found.keys() == expected.keys()
        identity = json.loads((sink / "run.json").read_bytes())["identity"]
        assert (identity["kind"], identity["column"]) == (column, column)
        apart = [np.abs(found[key] - expected[key]) for key in expected]
        if column == "quantized":
            assert np.max(apart) <= LEVELS[layout["dtype"]]
        else:  # a code in many is another one, and the pixels around it
            assert (np.array(apart) > 4).mean() < (
                0 if layout["dtype"] == "float32" else 0.1
            ) + 1e-9


def test_decode_of_a_run_that_left_its_codes_out_names_what_it_has(sinks, tmp_path):
    with pytest.raises(ConfigError, match=r"--latents latents or --latents quantized"):
        run_decode(sinks["alone"], tmp_path / "images")


def test_decode_quantized_of_latents_from_before_the_look_up_is_refused(sinks, tmp_path):
    with pytest.raises(ConfigError, match="leave --quantized out"):
        run_decode(sinks["both"], tmp_path / "images", latents="latents", quantized=True)
    with pytest.raises(ValueError, match="--quantized needs --latents"):
        Decode(source="codes", sink="images", quantized=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_decode_of_other_tools_vectors_looks_up_unless_told_that_it_was_done(
    dtype, truth, tmp_path
):
    """Halfway between entries, what is looked up gives other pixels than what is not."""
    vectors = torch.from_numpy(truth["quantized"] * 0.5).to(getattr(torch, dtype))
    stored = vectors.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else vectors
    column = pa.array(list(np.asarray(stored).reshape(5, -1)))
    metadata = {"dtype": dtype} if dtype == "bfloat16" else None
    schema = pa.schema([pa.field("z", column.type, metadata=metadata)])
    pq.write_table(pa.table({"z": column}, schema=schema), tmp_path / "z.parquet")
    model = VQModel.from_pretrained(shell.CHECKPOINT)
    with torch.inference_mode():
        plain = model.decode(vectors.float(), force_not_quantize=True).sample
        looked_up = model.decode(vectors.float()).sample
    how = {"latents": "z", "grid": SHAPE[1:], "model": str(shell.CHECKPOINT)}
    for is_quantized, pixels in ((True, plain), (False, looked_up)):
        sink = run_decode(
            tmp_path / "z.parquet",
            tmp_path / f"images-{is_quantized}",
            **how,
            pixel_range="signed",
            quantized=is_quantized,
        )
        expected = ((pixels + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        found = np.stack(list(pixels_by_key(sink).values()))
        assert np.abs(found - expected).max() < 0.51


def test_commands_that_need_codes_say_that_there_are_none(sinks, capsys):
    assert cli.main(["evaluate", "--source", str(sinks["alone"])]) == 4
    assert "left its codes out (--drop-codes)" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["diff", str(sinks["both"]), str(sinks["alone"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "--drop-codes" in found["codes"]["why_not"]
    assert found["jensen_shannon"] == 0  # codes were counted all the same
    assert cli.main(["diff", str(sinks["both"]), str(sinks["pre"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["codes"]["equal"] == 1


def test_inspect_says_what_vectors_there_are(sinks, capsys):
    assert cli.main(["inspect", str(sinks["alone"])]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "latents (8, 8, 8), bfloat16; quantized (8, 8, 8), bfloat16; codes are left" in printed
    cli.main(["inspect", str(sinks["alone"]), "--json"])
    reader = json.loads(capsys.readouterr().out)["reader"]
    assert (reader["has_codes"], reader["latents"]["latents"]["shape"]) == (False, list(SHAPE))


def test_card_says_what_columns_hold(sinks):
    cards = {}
    for name, sink in sinks.items():
        opened = open_sink(str(sink), load_run(str(sink)))
        write_card(opened, totals.read_totals(opened))
        cards[name] = (sink / "README.md").read_text()
    assert "`codes` holds" in cards["both"]
    assert "`latents` holds what the encoder says" in cards["both"]
    assert "8 x 8 x 8 of an image, channels, rows, columns" in cards["both"]
    assert "`codes` holds" not in cards["alone"]
    assert "bits of bfloat16" in cards["alone"]
    assert not {"latents", "bfloat16"} & set(cards["none"].replace("`", " ").split())


@pytest.mark.parametrize("name", ["half", "alone", "both"])
def test_any_reader_of_parquet_has_the_numbers_of_each_column(name, sinks, tmp_path):
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    path = sinks[name] / "data" / "a.parquet"
    truth = np.stack(pq.read_table(path)["quantized"].to_numpy())  # as pyarrow has them
    query = f"SELECT quantized FROM '{path}' ORDER BY row"
    rows = {
        "duckdb": [row[0] for row in duckdb.sql(query).fetchall()],
        "pandas": list(pandas.read_parquet(path)["quantized"]),
        "datasets": datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path)
        )["quantized"],
        "dataset": pa.dataset.dataset(path).to_table()["quantized"].to_pylist(),
    }
    for reader, found in rows.items():
        assert np.array_equal(np.array(list(found), np.float64), truth.astype(np.float64)), reader


def test_polars_has_the_numbers_of_each_column_in_their_type(sinks):
    polars = pytest.importorskip("polars")
    types = {"half": polars.Float16, "alone": polars.UInt16, "both": polars.Float32}
    for name, kind in types.items():
        path = sinks[name] / "data" / "a.parquet"
        found = polars.read_parquet(path)["quantized"]
        assert found.dtype == polars.Array(kind, 512)
        truth = np.stack(pq.read_table(path)["quantized"].to_numpy())
        assert np.array_equal(np.array(found.to_list()), truth.astype(np.float64))
