import copy

import numpy as np
import pytest
import torch

from tests.makers import picture
from tests.quality import judges
from vqpipe.quality.inception import extract_features, load_inception
from vqpipe.quality.lpips import load_lpips, measure_lpips
from vqpipe.quality.pixels import compare_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IMAGES = np.stack([picture(96, 80, seed) for seed in range(4)])
OTHERS = np.stack([picture(96, 80, seed) for seed in range(10, 14)])


def test_cuda_similarity_equals_cpus():
    ours, theirs = compare_images(IMAGES, OTHERS), compare_images(IMAGES, OTHERS, "cuda")
    for name in ("psnr_db", "ssim", "l1"):
        expected = getattr(ours, name)
        np.testing.assert_allclose(getattr(theirs, name), expected, rtol=1e-9, atol=1e-12)


def test_cuda_lpips_equals_cpus_though_tf32_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.save(judges.lpips_state("vgg"), tmp_path / "vgg.pth")
    network = load_lpips(str(tmp_path / "vgg.pth"))
    expected = measure_lpips(network, IMAGES, OTHERS)
    found = measure_lpips(copy.deepcopy(network).cuda(), IMAGES, OTHERS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_cuda_inception_equals_cpus_though_tf32_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.save(judges.inception_state(), tmp_path / "inception.pth")
    network = load_inception(str(tmp_path / "inception.pth"))
    expected = extract_features(network, IMAGES)
    found = extract_features(copy.deepcopy(network).cuda(), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
