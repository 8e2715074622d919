import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from pipeline import storage
from pipeline.errors import CheckpointError
from pipeline.vqgan.files import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE
from pipeline.weights import Weights

DEMO = Path(__file__).parents[1] / "infra" / "demo" / "checkpoint"


@pytest.fixture
def model():
    return DEMO


@functools.cache
def weights_of(folder):
    return Weights.load(str(folder))


def test_weights_load_from_a_subfolder_gives_the_same(model, tmp_path):
    for name, data in weights_of(model).files.items():
        storage.publish(f"{tmp_path}/pipeline/vqvae/{name}", data)
    found = Weights.load(f"{tmp_path}/pipeline/", subfolder="vqvae")
    assert found.sha256() == weights_of(model).sha256()
    assert found.config == weights_of(model).config


@pytest.mark.parametrize("subfolder", [None, "vqvae"])
def test_weights_load_missing_or_empty_folder_is_checkpoint_error(tmp_path, subfolder):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError):
            Weights.load(str(folder), subfolder=subfolder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_weights_parsed_without_one_file_is_checkpoint_error_that_names_it(model, name):
    files = {other: data for other, data in weights_of(model).files.items() if other != name}
    with pytest.raises(CheckpointError, match=name):
        Weights(files, "here").parsed  # noqa: B018


def test_weights_with_a_value_that_is_not_finite_are_a_checkpoint_error(model):
    files = dict(weights_of(model).files)
    state = load(files[WEIGHTS_FILE])
    state["quantize.embedding.weight"][3, 1] = float("nan")
    with pytest.raises(CheckpointError, match=r"quantize\.embedding\.weight"):
        Weights({**files, WEIGHTS_FILE: save(state)}, "here").sha256()


def test_weights_sha256_is_independent_of_file_layout(model, tmp_path):
    weights = weights_of(model)
    state = load(weights.files[WEIGHTS_FILE])
    backwards = dict(reversed(state.items()))
    torch.save(backwards, tmp_path / PICKLE_FILE)
    config = json.loads(weights.files[CONFIG_FILE])
    relaid = json.dumps(dict(reversed(config.items()))).encode()
    others = [
        {CONFIG_FILE: relaid, WEIGHTS_FILE: save(backwards, {"made": "elsewhere"})},
        {CONFIG_FILE: relaid, PICKLE_FILE: (tmp_path / PICKLE_FILE).read_bytes()},
    ]
    assert {Weights(files, "here").sha256() for files in others} == {weights.sha256()}


@pytest.mark.parametrize("name", ["quantize.embedding.weight", "encoder.conv_in.bias"])
def test_weights_sha256_changes_with_the_last_bit_of_one_value(model, name):
    files = dict(weights_of(model).files)
    state = load(files[WEIGHTS_FILE])
    flat = state[name].view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
    changed = Weights({**files, WEIGHTS_FILE: save(state)}, "here")
    assert changed.sha256() != weights_of(model).sha256()
