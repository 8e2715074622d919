"""LPIPS with random weights: the published ones, and so the published distances, are not here."""

import functools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from skimage import data

from tests.quality import judges
from vqpipe.errors import CheckpointError
from vqpipe.quality.lpips import MIN_SIDE_PX, load_lpips, measure_lpips

PHOTOS = np.stack([data.astronaut()[100:180, 150:240], data.coffee()[50:130, 200:290]])
NOISE = np.random.default_rng(0).normal(0, 1, PHOTOS.shape)


def with_noise(deviation):
    return (PHOTOS + deviation * NOISE).clip(0, 255).astype(np.uint8)


@functools.cache
def state_of(trunk):
    return judges.lpips_state(trunk)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    for trunk in judges.TRUNKS:
        torch.save(state_of(trunk), folder / f"{trunk}.pth")
    return {trunk: load_lpips(str(folder / f"{trunk}.pth")) for trunk in judges.TRUNKS}


def to_levels(images):
    return torch.tensor(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("trunk", judges.TRUNKS)
def test_lpips_equals_plain_arithmetic_on_the_weights(trunk, networks):
    other = with_noise(30)
    found = measure_lpips(networks[trunk], PHOTOS, other)
    expected = judges.lpips(state_of(trunk), trunk, to_levels(PHOTOS), to_levels(other))
    assert networks[trunk].trunk == trunk
    assert (found > 1e-3).all()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_lpips_is_zero_for_equal_images_symmetric_and_grows_with_noise(networks):
    network = networks["alex"]
    assert measure_lpips(network, PHOTOS, PHOTOS).tolist() == [0, 0]
    near, far = (measure_lpips(network, PHOTOS, with_noise(level)) for level in (10, 40))
    assert (near < far).all()
    back = measure_lpips(network, with_noise(40), PHOTOS)
    np.testing.assert_allclose(back, far, rtol=1e-6)


def test_lpips_in_any_batch_equals_each_alone(networks):
    other = with_noise(20)
    together = measure_lpips(networks["alex"], PHOTOS, other)
    apart = measure_lpips(networks["alex"], PHOTOS, other, max_pixels=1)
    np.testing.assert_allclose(together, apart, rtol=1e-5)


@pytest.mark.parametrize("trunk", judges.TRUNKS)
def test_lpips_of_images_too_small_for_the_trunk_is_nan(trunk, networks):
    side = MIN_SIDE_PX[trunk]
    smallest, smaller = PHOTOS[:, :side, :side], PHOTOS[:, : side - 1, :side]
    assert np.isfinite(measure_lpips(networks[trunk], smallest, 255 - smallest)).all()
    assert np.isnan(measure_lpips(networks[trunk], smaller, 255 - smaller)).all()


def test_lpips_of_no_images_is_empty(networks):
    assert measure_lpips(networks["alex"], PHOTOS[:0], PHOTOS[:0]).shape == (0,)


def test_lpips_refuses_images_of_another_shape(networks):
    with pytest.raises(ValueError, match="uint8 arrays"):
        measure_lpips(networks["alex"], PHOTOS, PHOTOS[:, :50])


def test_lpips_loads_from_safetensors_without_what_is_there_twice(networks, tmp_path):
    path = tmp_path / "alex.safetensors"
    save_model(networks["alex"], str(path))
    again = load_lpips(str(path))
    expected = measure_lpips(networks["alex"], PHOTOS, with_noise(20))
    assert measure_lpips(again, PHOTOS, with_noise(20)).tolist() == expected.tolist()


def test_lpips_loads_half_precision_and_computes_in_float32(networks, tmp_path):
    kept = {name: tensor for name, tensor in state_of("alex").items() if "lins." not in name}
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in kept.items()}, path)
    found = measure_lpips(load_lpips(str(path)), PHOTOS, with_noise(20))
    expected = measure_lpips(networks["alex"], PHOTOS, with_noise(20))
    np.testing.assert_allclose(found, expected, rtol=0.01)


def without(name):
    return {key: tensor for key, tensor in state_of("alex").items() if key != name}


WRONG = {
    "net.slice1.0.weight": without("net.slice1.0.weight"),
    "net.slice3.6.bias": without("net.slice3.6.bias"),
    "lins.2.model.1.weight": without("lin2.model.1.weight"),
    "lin4.model.1.weight": {k: v for k, v in state_of("alex").items() if "4.model" not in k},
    "scaling_layer.shift": without("scaling_layer.shift"),
    "net.slice6.1.weight": state_of("alex") | {"net.slice6.1.weight": torch.ones(1)},
    "net.slice2.3.weight": state_of("alex") | {"net.slice2.3.weight": torch.ones(192, 64, 3, 3)},
    "lins.1.model.1.weight": state_of("alex") | {"lins.1.model.1.weight": torch.ones(1, 192, 1, 1)},
    "net.slice5.10.bias": state_of("alex") | {"net.slice5.10.bias": torch.full((256,), torch.nan)},
}


@pytest.mark.parametrize("name", WRONG)
def test_lpips_with_a_tensor_missing_extra_or_wrong_is_checkpoint_error_that_names_it(
    name, tmp_path
):
    torch.save(WRONG[name], tmp_path / "alex.pth")
    with pytest.raises(CheckpointError, match=name) as caught:
        load_lpips(str(tmp_path / "alex.pth"))
    assert "alex.pth" in caught.value.message
