"""What codes and latents of a real model are given out as, held against diffusers."""

import numpy as np
import pyarrow.dataset
import pytest
import torch
from diffusers import VQModel
from PIL import Image

from tests import plain
from tests.codec import models
from tests.makers import encoded, picture
from vqpipe import CodesDataset
from vqpipe.errors import ConfigError, MismatchError

WORDS = ["--pixel-range", "signed", "--skip-doctor"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("pictures")
    (home / "photos").mkdir()
    photos = [Image.fromarray(picture(90, 60 + 30 * (seed % 2), seed)) for seed in range(5)]
    for number, photo in enumerate(photos):
        (home / "photos" / f"{number}.png").write_bytes(encoded(photo, "PNG"))
    models.write_tiny(home / "model", photos)
    models.write_tiny(home / "other", photos[1:])
    source = ["--source", home / "photos", "--model", home / "model", *WORDS]
    square = ["encode", *source, "--sink", home / "codes", "--resolution", "32"]
    shaped = ["encode", *source, "--sink", home / "shaped", "--buckets", "32"]
    more = ["--latents", "both", "--latents-dtype", "bfloat16"]
    assert plain.run([[*square, *more], [*shaped, *more]]) == [0, 0]
    return home


@pytest.mark.parametrize("sink", ["codes", "shaped"])
def test_dataset_that_decodes_has_the_pixels_of_diffusers(home, tmp_path, sink):
    model = VQModel.from_pretrained(home / "model")
    data = CodesDataset(
        str(home / sink), decode=True, batch_size=2, cache=tmp_path, tail="uneven", seed=1
    )

    batches = list(data)

    assert sum(len(batch["pixels"]) for batch in batches) == 5
    for batch in batches:
        height, width = batch["__shape__"]
        assert batch["pixels"].dtype == torch.uint8
        assert batch["pixels"].shape[1:] == (3, height * 4, width * 4)
        entries = model.quantize.embedding(batch["codes"]).view(-1, height, width, 3)
        with torch.no_grad():
            quantized = model.post_quant_conv(entries.permute(0, 3, 1, 2))
            expected = model.decoder(quantized) / 2 + 0.5
        levels = (expected.clamp(0, 1) * 255).round()
        assert (levels - batch["pixels"].float()).abs().max() <= 1
        assert ((levels - batch["pixels"].float()) != 0).float().mean() < 0.01


def test_dataset_decodes_codes_that_a_trainer_has(home, tmp_path):
    how = {"batch_size": 5, "cache": tmp_path, "shuffle": False}
    (batch,) = CodesDataset(str(home / "codes"), decode=True, **how)
    data = CodesDataset(str(home / "codes"), **how)

    assert torch.equal(data.decode_codes(batch["codes"]), batch["pixels"])
    grids = batch["codes"].view(-1, *data.shapes[0]).int()
    assert torch.equal(data.decode_codes(grids), batch["pixels"])
    with pytest.raises(ConfigError, match=r"codes lie in \[0, 1000\]"):
        data.decode_codes(torch.tensor([[0] * 63 + [1000]]))
    with pytest.raises(ConfigError, match=r"63 codes an image.*8, 8"):
        data.decode_codes(batch["codes"][:, 1:])


def test_dataset_of_several_shapes_is_told_which_one_codes_have(home, tmp_path):
    data = CodesDataset(str(home / "shaped"), decode=True, batch_size=2, cache=tmp_path)
    batch = next(iter(data))

    found = data.decode_codes(batch["codes"], batch["__shape__"])

    assert torch.equal(found, batch["pixels"])
    with pytest.raises(ConfigError, match="say which by shape"):
        data.decode_codes(batch["codes"])


@pytest.mark.parametrize("sink", ["codes", "shaped"])
def test_dataset_of_latents_in_bfloat16_has_their_numbers(home, tmp_path, sink):
    table = pyarrow.dataset.dataset(home / sink / "data").to_table()
    rows = {row["key"]: row for row in table.to_pylist()}
    names = ["key", "latents", "quantized"]

    batches = list(CodesDataset(str(home / sink), columns=names, batch_size=2, cache=tmp_path))

    for batch in batches:
        height, width = batch["__shape__"]
        for name in ("latents", "quantized"):
            assert batch[name].dtype == torch.bfloat16
            assert batch[name].shape == (2, 3 * height * width)
            for key, numbers in zip(batch["key"], batch[name], strict=True):
                bits = np.array(rows[key][name], np.uint32) << 16
                assert np.array_equal(numbers.float().numpy(), bits.view(np.float32))


def test_dataset_that_decodes_with_another_codebook_is_refused(home, tmp_path):
    data = CodesDataset(str(home / "codes"), decode=True, model=str(home / "other"), cache=tmp_path)

    with pytest.raises(MismatchError, match="another codebook"):
        next(iter(data))
