"""Columns of latents and quantized, as rows pass on and as a shard's object keeps them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.sink.runs import encoded_rows, start
from tests.stages.test_encode import CODES, fake_encode, pixels_table, random_images
from vqpipe import schema
from vqpipe.errors import AccountingError
from vqpipe.schema import numbers_of
from vqpipe.sink.commit import commit_rows
from vqpipe.stages.encode import encode_rows
from vqpipe.stages.latents import are_finite, to_float32
from vqpipe.vector_layout import VectorLayout, is_bfloat16

DTYPES = ("float16", "bfloat16", "float32")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def layouts(dtype, shape=(3, 2, 2)):
    return tuple(VectorLayout(name, shape, dtype) for name in ("latents", "quantized"))


def fields(dtype, shape=(3, 2, 2)):
    return [schema.vectors_field(each) for each in layouts(dtype, shape)]


def rounded(numbers, dtype):
    """Returns float32 numbers as a codec gives them, by torch."""
    found = torch.from_numpy(numbers).to(getattr(torch, dtype))
    return found.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else found.numpy()


def corners(pixels):
    """Returns (N, 3, 2, 2) float32: the corners of images, channels first."""
    found = pixels[:, :: pixels.shape[1] - 1, :: pixels.shape[2] - 1]
    return found.transpose(0, 3, 1, 2).astype(np.float32) / 7


def encode(pixels, dtype):
    codes, _ = fake_encode(pixels)
    latents = corners(pixels)
    good = np.ones(len(pixels), bool)
    return codes, good, rounded(latents, dtype), rounded(np.round(latents), dtype)


@every_dtype
def test_encode_rows_vectors_are_those_of_their_images(dtype):
    images = random_images(9)
    images[0] = images[5] = None
    table = pixels_table(images)
    found = encode_rows(table, lambda each: encode(each, dtype), CODES, vectors=fields(dtype))
    found.validate(full=True)
    assert found.schema == schema.encoded_schema(pa.schema([]), CODES, fields(dtype))
    there = [image for image in images if image is not None]
    latents = corners(np.stack(there))
    for name, truth in (("latents", latents), ("quantized", np.round(latents))):
        assert [each.is_valid for each in found[name]] == [each is not None for each in images]
        stored = to_float32(numbers_of(found[name]), dtype)
        expected = torch.from_numpy(truth).to(getattr(torch, dtype)).float().numpy()
        assert np.array_equal(stored, expected.reshape(len(there), -1))
    for start_at in range(9):
        part = encode_rows(
            table.slice(start_at, 3), lambda each: encode(each, dtype), CODES, vectors=fields(dtype)
        )
        assert part.equals(found.slice(start_at, 3))


@pytest.mark.parametrize("kind", [pa.list_(pa.float16()), pa.large_list(pa.float16())])
def test_encode_rows_vectors_of_images_of_several_shapes_are_lists_of_their_lengths(kind):
    """Latents of a shape are as large as the images; a column of any lengths takes them all."""
    rng = np.random.default_rng(3)
    shapes = [(8, 8), (4, 6), None, (8, 8), (2, 10)]
    images = [each and rng.integers(128, 256, (*each, 3), np.uint8) for each in shapes]

    def encode(pixels):
        codes, finite = fake_encode(pixels)
        return codes, finite, pixels.transpose(0, 3, 1, 2).astype(np.float16)

    column = pa.field("latents", kind)
    found = encode_rows(pixels_table(images), encode, CODES, vectors=[column])
    found.validate(full=True)
    assert found["latents"].type == kind
    for image, value in zip(images, found["latents"].to_pylist(), strict=True):
        assert value == (None if image is None else image.transpose(2, 0, 1).ravel().tolist())


@pytest.mark.parametrize(("dtype", "large"), [("float16", 7e4), ("bfloat16", 3.4e38)])
def test_encode_rows_image_whose_latents_are_too_large_is_rejected_and_told_what_to_do(
    dtype, large
):
    images = [np.full((8, 8, 3), level, np.uint8) for level in (1, 2, 1, 2)]
    images.insert(2, None)

    def encode(pixels):
        codes, _ = fake_encode(pixels)
        latents = corners(pixels)
        latents[pixels[:, 0, 0, 0] == 2, 1, 0, 1] = -large
        good = np.ones(len(pixels), bool)
        return codes, good, rounded(latents, dtype), rounded(corners(pixels), dtype)

    found = encode_rows(pixels_table(images), encode, CODES, vectors=fields(dtype)).to_pylist()
    assert [row["reason"] for row in found] == [None, "non_finite", "corrupt", None, "non_finite"]
    for row in found:
        is_there = row["reason"] is None
        assert [row[name] is not None for name in ("codes", "latents", "quantized")] == [
            is_there
        ] * 3
    wider = "bfloat16 or float32" if dtype == "float16" else "float32"
    assert f"--latents-dtype {wider}, into another sink" in found[1]["message"]
    assert "the latents of this image" in found[4]["message"]


def test_encode_rows_image_that_is_not_finite_says_so_whatever_the_type_holds():
    images = random_images(3)

    def encode(pixels):
        codes, _ = fake_encode(pixels)
        latents = np.full((len(pixels), 3, 2, 2), np.nan, np.float16)
        return codes, np.zeros(len(pixels), bool), latents

    found = encode_rows(pixels_table(images), encode, CODES, vectors=fields("float16")[:1])
    assert set(found["message"].to_pylist()) == {"the network's latents hold NaN or infinity"}


@every_dtype
def test_are_finite_tells_infinity_and_nan_from_all_else(dtype):
    large = {"float16": 65_504.0, "bfloat16": 3.3e38, "float32": 3.4e38}[dtype]
    numbers = [[0.0, -large], [np.inf, 0], [1, -np.inf], [large, np.nan], [1e-7, -0.0]]
    found = are_finite(rounded(np.array(numbers, np.float32), dtype), dtype)
    assert found.tolist() == [True, False, False, False, True]


@every_dtype
def test_column_says_of_itself_what_it_holds(dtype):
    for field in fields(dtype, (4, 16, 8)):
        said = {key.decode(): value.decode() for key, value in field.metadata.items()}
        assert (said["shape"], said["dtype"]) == ("[4, 16, 8]", dtype)
        assert said["axes"] == "channels, rows, columns"
        assert np.dtype(said["stored_as"]) == field.type.value_type.to_pandas_dtype()
        assert is_bfloat16(field.metadata) == (dtype == "bfloat16") == ("note" in said)


def begin(sink, *, has_codes, dtype="float16"):
    """Returns the writer of a run that stores latents."""
    vectors = layouts(dtype, (2, 2, 3))
    said = {"latents": {each.name: each.document() for each in vectors}}
    choices = {"latents": "both", "latents_dtype": dtype, "drop_codes": not has_codes}
    writer = start(sink, facts=said, **choices)
    product = replace(writer.product, vectors=vectors, has_codes=has_codes)
    return replace(writer, product=product)


def rows_of(writer, total, rejected=()):
    rows = encoded_rows(writer, 0, total, rejected=rejected).to_pylist()
    for row in rows:
        if row["reason"] is None:
            row |= {"latents": [row["row"] / 4] * 12, "quantized": [-row["row"] / 2] * 12}
    return pa.Table.from_pylist(rows, schema=writer.product.rows)


@pytest.mark.parametrize("name", ["codes", "latents", "quantized"])
@pytest.mark.parametrize("has_codes", [True, False])
def test_commit_of_rows_that_lack_what_they_must_have_is_refused(tmp_path, name, has_codes):
    writer = begin(tmp_path / "sink", has_codes=has_codes)
    rows = rows_of(writer, 4).to_pylist()
    rows[2][name] = None
    with pytest.raises(AccountingError, match=r"have no codes|are missing"):
        commit_rows(pa.Table.from_pylist(rows, schema=writer.product.rows), writer)
    assert not (tmp_path / "sink" / "data").exists()
