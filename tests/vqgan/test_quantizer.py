import pytest
import torch

from vqpipe.vqgan import VectorQuantizer


def make_latents(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def make_oracle(**kwargs):
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    torch.manual_seed(0)
    oracle = vae.VectorQuantizer(**kwargs)
    torch.nn.init.normal_(oracle.embedding.weight)
    return oracle


@pytest.mark.parametrize("sane_index_shape", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_forward_equals_diffusers(sane_index_shape, legacy):
    options = {
        "n_e": 100,
        "vq_embed_dim": 6,
        "beta": 0.25,
        "remap": None,
        "sane_index_shape": sane_index_shape,
        "legacy": legacy,
    }
    oracle, ours = make_oracle(**options), VectorQuantizer(**options)
    ours.load_state_dict(oracle.state_dict())
    z = make_latents(2 * 6 * 4, 5).reshape(2, 6, 4, 5)
    theirs, mine = oracle(z), ours(z)
    assert torch.equal(mine[0], theirs[0])
    torch.testing.assert_close(mine[1], theirs[1])
    assert mine[2][:2] == theirs[2][:2] == (None, None)
    assert torch.equal(mine[2][2], theirs[2][2])


@pytest.mark.parametrize("legacy", [False, True])
def test_gradients_equal_diffusers(legacy):
    options = {"n_e": 30, "vq_embed_dim": 3, "beta": 0.25, "legacy": legacy}
    oracle, ours = make_oracle(**options), VectorQuantizer(**options)
    ours.load_state_dict(oracle.state_dict())
    weight = torch.randn(2, 3, 4, 4)
    gradients = []
    for model in (oracle, ours):
        z = make_latents(2 * 3 * 4, 4).reshape(2, 3, 4, 4).requires_grad_()
        z_q, loss, _ = model(z)
        ((z_q * weight).sum() + loss).backward()
        gradients.append((z.grad, model.embedding.weight.grad))
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_forward_gradient_passes_straight_through():
    z = make_latents(8, 2).reshape(1, 2, 2, 4).requires_grad_()
    z_q, _, _ = VectorQuantizer(16, 2, beta=0.25)(z)
    weight = torch.randn(1, 2, 2, 4)
    (z_q * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_get_codebook_entry_equals_diffusers():
    oracle, ours = make_oracle(n_e=50, vq_embed_dim=4, beta=0.25), VectorQuantizer(50, 4, 0.25)
    ours.load_state_dict(oracle.state_dict())
    codes = torch.randint(50, (2 * 3 * 5,), generator=torch.Generator().manual_seed(1))
    shape = (2, 3, 5, 4)
    assert torch.equal(
        ours.get_codebook_entry(codes, shape), oracle.get_codebook_entry(codes, shape)
    )
    assert torch.equal(ours.get_codebook_entry(codes, None), oracle.get_codebook_entry(codes, None))


def test_constructor_remap_raises():
    with pytest.raises(ValueError, match="remap"):
        VectorQuantizer(16, 4, 0.25, remap="used.npy")
