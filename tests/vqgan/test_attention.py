import pytest
import torch
from torch.nn import functional

from vqpipe.vqgan import attention
from vqpipe.vqgan.attention import attend, attend_by_products


def make_heads(batch, places, channels, dtype=torch.float32):
    torch.manual_seed(places)
    return torch.randn(3, batch, places, channels).to(dtype)


def attend_exactly(q, k, v):
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.mT / q.shape[2] ** 0.5).softmax(2) @ v


@pytest.mark.parametrize(("batch", "places", "channels"), [(1, 1, 8), (3, 35, 512), (2, 256, 512)])
def test_products_equal_float64_within_rounding(batch, places, channels):
    q, k, v = make_heads(batch, places, channels)
    exact = attend_exactly(q, k, v)
    # Sums of C products into scores of up to 5, then means of values of up to 5: some C u of each.
    atol = 25 * channels * 2.0**-24
    torch.testing.assert_close(attend_by_products(q, k, v).double(), exact, rtol=0, atol=atol)


def test_products_some_images_at_a_time_give_the_same(monkeypatch):
    q, k, v = make_heads(5, 16, 32)
    at_once = attend_by_products(q, k, v)
    seen = []
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: (seen.append(len(a)), multiply(a, b))[1])
    monkeypatch.setattr(attention, "SCORES_BYTES", 2 * 4 * 16 * 16)
    torch.testing.assert_close(attend_by_products(q, k, v), at_once, rtol=0, atol=1e-6)
    assert seen == [2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("channels", "dtype"), [(512, torch.float32), (256, torch.bfloat16), (64, torch.float16)]
)
def test_attend_where_fused_kernels_are_better_is_torchs(channels, dtype):
    q, k, v = make_heads(2, 12, channels, dtype)[:, :, None]
    assert torch.equal(attend(q, k, v), functional.scaled_dot_product_attention(q, k, v))


def test_attend_scores_that_do_not_fit_is_torchs(monkeypatch):
    monkeypatch.setattr(attention, "SCORES_BYTES", 4 * 12 * 12 - 1)
    q, k, v = make_heads(2, 12, 512, torch.bfloat16)[:, :, None]
    assert torch.equal(attend(q, k, v), functional.scaled_dot_product_attention(q, k, v))
