import json
from pathlib import Path

import numpy as np
import pytest
import torch
from infra.demo.photos import HELD_OUT, TRAIN, crop_square, open_photo

from vqpipe.vqgan import VQModel

CHECKPOINT = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"
MAX_BYTES = 3_000_000
MIN_PSNR_DB = 22.0


def measure_psnr(expected, actual):
    error = np.mean((expected.astype(np.float64) - actual.astype(np.float64)) ** 2)
    return 10 * np.log10(255.0**2 / error)


@pytest.fixture(scope="module")
def model():
    return VQModel.from_pretrained(CHECKPOINT)


@torch.no_grad()
def reconstruct(model, image):
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    decoded = model.decode_codes(model.encode_to_codes(pixels))[0].permute(1, 2, 0)
    return ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def test_demo_checkpoint_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= MAX_BYTES


def test_demo_checkpoint_has_promised_shape(model):
    assert model.downsample_factor == 4
    assert model.config.num_vq_embeddings == 1024
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert json.loads((CHECKPOINT / "config.json").read_text())["_class_name"] == "VQModel"


def test_demo_photos_held_out_are_not_trained_on():
    assert not set(HELD_OUT) & set(TRAIN)


def test_demo_checkpoint_reconstructs_held_out_photos(model):
    metrics = pytest.importorskip("skimage.metrics")
    measured = []
    for name in HELD_OUT:
        image = np.asarray(crop_square(open_photo(name)))
        decoded = reconstruct(model, image)
        measured.append(measure_psnr(image, decoded))
        assert measured[-1] == pytest.approx(metrics.peak_signal_noise_ratio(image, decoded))
    assert np.mean(measured) >= MIN_PSNR_DB


def test_demo_checkpoint_codes_span_the_codebook(model):
    images = [np.asarray(crop_square(open_photo(name))) for name in HELD_OUT]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert len(model.encode_to_codes(pixels).unique()) >= 512
