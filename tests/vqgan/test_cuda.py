import copy

import pytest
import torch

from tests.vqgan.configs import make_pixels, make_random

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", ["movq", "amused", "ldm_f4", "vq_diffusion"])
@torch.no_grad()
def test_cuda_equals_cpu(name):
    model = make_random(name)  # held against diffusers on the CPU by test_model
    on_cuda = copy.deepcopy(model).cuda()
    pixels = make_pixels(name, 2, 64, 64)
    codes = model.encode_to_codes(pixels)
    assert torch.equal(on_cuda.encode_to_codes(pixels.cuda()).cpu(), codes)
    decoded = on_cuda.decode_codes(codes.cuda()).cpu()
    torch.testing.assert_close(decoded, model.decode_codes(codes), rtol=0, atol=1e-4)
