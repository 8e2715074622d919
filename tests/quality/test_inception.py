"""FID's Inception with random weights: the published file, and so published FIDs, are not here."""

import functools

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional

from tests.quality import judges
from vqpipe.errors import CheckpointError
from vqpipe.quality.inception import extract_features, load_inception

PHOTOS = np.stack([data.astronaut()[100:299, 150:300], data.coffee()[50:249, 200:350]])


@functools.cache
def state():
    return judges.inception_state()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)  # a file of 2018
    return load_inception(str(path))


@pytest.fixture(scope="module")
def features(network):
    return extract_features(network, PHOTOS)


def test_inception_equals_plain_arithmetic_on_the_weights(features):
    pixels = torch.tensor(PHOTOS[:1]).permute(0, 3, 1, 2) / 255
    resized = functional.interpolate(pixels, (299, 299), mode="bilinear", align_corners=False)
    expected = judges.inception_features(state(), resized * 2 - 1).numpy()
    assert features.shape == (2, 2048)
    assert features.dtype == np.float32
    assert features.std() > 0.1
    np.testing.assert_allclose(features[:1], expected, rtol=1e-3, atol=1e-4)


def test_inception_has_as_many_parameters_as_torchvision_says(network):
    classifier = 2048 * 1000 + 1000
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    expected = 27_161_264 - classifier - auxiliary  # Inception_V3_Weights.IMAGENET1K_V1
    assert sum(tensor.numel() for tensor in network.parameters()) == expected


def test_inception_of_one_image_equals_its_row_of_a_batch(network, features):
    alone = extract_features(network, PHOTOS[1:], batch_size=1)
    np.testing.assert_allclose(alone[0], features[1], rtol=1e-4, atol=1e-5)


def test_inception_sees_other_images_elsewhere(features):
    assert np.abs(features[0] - features[1]).max() > 0.1


def test_inception_of_no_images_is_empty(network):
    assert extract_features(network, PHOTOS[:0]).shape == (0, 2048)


def test_inception_refuses_images_that_are_not_uint8(network):
    with pytest.raises(ValueError, match="float32"):
        extract_features(network, PHOTOS.astype(np.float32))


def blank():
    """Returns weights that are all zero and take no room."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state().items()}


def test_inception_loads_a_file_with_the_counters_that_newer_torch_adds(network, tmp_path):
    norms = {name.rpartition(".")[0] for name in state() if name.endswith("running_mean")}
    counters = {f"{norm}.num_batches_tracked": torch.tensor(7) for norm in norms}
    assert len(blank() | counters) == 566  # as torchvision's, AuxLogits aside
    torch.save(blank() | counters, tmp_path / "newer.pth")
    again = load_inception(str(tmp_path / "newer.pth"))
    assert again.state_dict().keys() == network.state_dict().keys()


def without(name):
    return {key: tensor for key, tensor in blank().items() if key != name}


WRONG = {
    "Mixed_7c.branch_pool.bn.running_var": without,
    "fc.weight": without,
    "fc.bias": lambda name: blank() | {name: torch.zeros(1000)},
    "AuxLogits.fc.bias": lambda name: blank() | {name: torch.zeros(1008)},
    "Mixed_5b.branch_pool.conv.weight": lambda name: blank() | {name: torch.zeros(64, 192, 1, 1)},
    "Mixed_5b.branch_pool.bn.weight": lambda name: blank() | {name: torch.full((32,), torch.nan)},
}


@pytest.mark.parametrize("name", WRONG)
def test_inception_with_a_tensor_missing_extra_or_wrong_is_checkpoint_error_that_names_it(
    name, tmp_path
):
    torch.save(WRONG[name](name), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=name) as caught:
        load_inception(str(tmp_path / "other.pth"))
    assert "other.pth" in caught.value.message
