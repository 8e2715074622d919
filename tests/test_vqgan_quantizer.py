import pytest
import torch

from pipeline.vqgan import VectorQuantizer, quantizer
from pipeline.vqgan.quantizer import find_nearest


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


@pytest.mark.parametrize(("count", "size", "dim"), [(5000, 16384, 4), (1000, 1024, 64), (7, 3, 2)])
def test_find_nearest_equals_argmin_of_cdist(count, size, dim):
    z, codebook = make_latents(count, dim), make_latents(size, dim, seed=1)
    assert torch.equal(find_nearest(z, codebook), torch.cdist(z, codebook).argmin(dim=1))


def test_find_nearest_equals_exact_distances():
    z, codebook = make_latents(500, 8), make_latents(300, 8, seed=1)
    exact = (z.double()[:, None] - codebook.double()).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(find_nearest(z, codebook), exact)


@pytest.mark.parametrize("chunk_rows", [1, 64, 999])
def test_find_nearest_any_chunk_gives_same_codes(monkeypatch, chunk_rows):
    z, codebook = make_latents(1000, 8), make_latents(256, 8, seed=1)
    whole = find_nearest(z, codebook)
    monkeypatch.setattr(quantizer, "CHUNK_BYTES", chunk_rows * 256 * 4)
    assert torch.equal(find_nearest(z, codebook), whole)


def test_find_nearest_tie_takes_lower_index():
    codebook = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert find_nearest(z, codebook).tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("size", [37, 512, 1000])
def test_find_nearest_duplicated_codebook_uses_first_copy(size):
    codebook = make_latents(size, 8, seed=1)
    codes = find_nearest(make_latents(2000, 8), torch.cat([codebook, codebook]))
    assert codes.max() < size


def test_find_nearest_half_precision_is_measured_in_float32():
    codebook = torch.tensor([[1.0], [1.0078125]])  # neighbours in bfloat16
    z = torch.tensor([[1.0078125], [1.0]], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert find_nearest(z, codebook.bfloat16()).tolist() == [1, 0]


def test_find_nearest_no_latents_gives_no_codes():
    assert find_nearest(torch.zeros(0, 4), make_latents(10, 4)).shape == (0,)


def test_find_nearest_never_holds_more_than_a_chunk(monkeypatch):
    widest = []
    cdist = torch.cdist

    def measure(rows, codebook):
        widest.append(len(rows) * len(codebook) * 4)
        return cdist(rows, codebook)

    monkeypatch.setattr(torch, "cdist", measure)
    find_nearest(make_latents(4096, 4), make_latents(16384, 4, seed=1))
    assert max(widest) <= quantizer.CHUNK_BYTES < sum(widest)


def test_constructor_remap_raises():
    with pytest.raises(ValueError, match="remap"):
        VectorQuantizer(16, 4, 0.25, remap="used.npy")
