import copy

import pytest
import torch

from tests.vqgan.configs import make_pair, make_pixels

both_norms = pytest.mark.parametrize("name", ["relu", "spatial_attention_everywhere"])


def make_trainable_pair(name):
    return tuple(copy.deepcopy(model).train() for model in make_pair(name))


def loss_of(model, pixels):
    output = model(pixels)
    return (output.sample - pixels).square().mean() + output.commit_loss


def gradients_of(model, pixels):
    return torch.autograd.grad(loss_of(model, pixels), list(model.parameters()))


def train(model, pixels, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def count_kept_bytes(model, pixels):
    """Bytes that a forward keeps for its backward, weights not among them."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept = {}

    def note(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of(model, pixels)
    return sum(tensor.nbytes for tensor in kept.values())


@both_norms
def test_training_lowers_the_loss_as_in_diffusers(name):
    # In float32, Adam turns rounding into whole steps wherever a gradient is zero but for rounding.
    pixels = make_pixels(name, 2, 16, 16).double()
    theirs, mine = (train(model.double(), pixels, steps=8) for model in make_trainable_pair(name))
    assert mine[-1] < 0.8 * mine[0]
    assert mine == pytest.approx(theirs, rel=1e-12)


@both_norms
def test_training_in_float32_lowers_the_loss(name):
    losses = train(make_trainable_pair(name)[1], make_pixels(name, 2, 16, 16), steps=8)
    assert losses[-1] < 0.8 * losses[0]


@both_norms
def test_training_in_autocast_gives_gradients_of_diffusers(name):
    pixels = make_pixels(name, 2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = (dict(model.named_parameters()) for model in make_pair(name))
        losses = [loss_of(model, pixels) for model in make_pair(name)]
    theirs = dict(zip(theirs, torch.autograd.grad(losses[0], theirs.values()), strict=True))
    mine = dict(zip(mine, torch.autograd.grad(losses[1], mine.values()), strict=True))
    torch.testing.assert_close(mine, {key: theirs[key] for key in mine})


def test_decode_frozen_weights_passes_gradients_to_latents():
    gradients = []
    for model in make_trainable_pair("relu"):
        torch.manual_seed(0)
        latents = torch.randn(1, 3, 4, 4, requires_grad=True)
        model.requires_grad_(False).decode(latents).sample.square().mean().backward()
        assert all(weight.grad is None for weight in model.parameters())
        gradients.append(latents.grad)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)


@both_norms
@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_gives_same_gradients(name, training):
    model = copy.deepcopy(make_pair(name)[1]).train(training)
    pixels = make_pixels(name, 2, 16, 16)
    plain = gradients_of(model, pixels)
    model.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients_of(model, pixels), plain, rtol=0, atol=1e-6)


@both_norms
def test_gradient_checkpointing_keeps_no_more_than_diffusers(name):
    theirs, mine = make_trainable_pair(name)
    pixels = make_pixels(name, 2, 32, 32)
    plain = count_kept_bytes(mine, pixels)
    # 0.42 has the code in encoder and decoder, and refuses it for the VQModel around them.
    theirs._supports_gradient_checkpointing = True
    theirs.enable_gradient_checkpointing()
    mine.enable_gradient_checkpointing()
    assert count_kept_bytes(mine, pixels) < 0.25 * plain
    assert count_kept_bytes(mine, pixels) <= count_kept_bytes(theirs, pixels)


def test_gradient_checkpointing_can_be_switched():
    model = copy.deepcopy(make_pair("relu")[1])
    pixels = make_pixels("relu", 2, 16, 16)
    assert not model.is_gradient_checkpointing
    plain = count_kept_bytes(model, pixels)
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    model.disable_gradient_checkpointing()
    assert not model.is_gradient_checkpointing
    assert count_kept_bytes(model, pixels) == plain


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("is_checkpointing", [pytest.param(False, marks=pytest.mark.soak), True])
def test_compile_whole_model_gives_same_gradients(is_checkpointing):
    model = copy.deepcopy(make_pair("relu")[1])
    if is_checkpointing:
        model.enable_gradient_checkpointing()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    pixels = make_pixels("relu", 2, 16, 16)
    plain = gradients_of(model, pixels)
    torch.testing.assert_close(gradients_of(compiled, pixels), plain, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_compile_encode_gives_same_latents():
    model = make_pair("spatial_attention_everywhere")[1]
    pixels = make_pixels("spatial_attention_everywhere", 2, 16, 16)
    compiled = torch.compile(model.encode, backend="aot_eager", fullgraph=True)
    latents = model.encode(pixels).latents
    torch.testing.assert_close(compiled(pixels).latents, latents, rtol=0, atol=1e-6)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.13, of its own code
@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_compile_with_inductor_gives_same_pixels():
    model = make_pair("relu")[1]
    pixels = make_pixels("relu", 1, 16, 16)
    compiled = torch.compile(model.encode, fullgraph=True)
    latents = model.encode(pixels).latents
    torch.testing.assert_close(compiled(pixels).latents, latents, rtol=0, atol=1e-4)
