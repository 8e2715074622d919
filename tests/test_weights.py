import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from pipeline import storage
from pipeline.errors import CheckpointError, ConfigError
from pipeline.vqgan.files import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE
from pipeline.weights import Weights
from tests import compvis
from tests.compvis import DDCONFIGS, make_config, make_vqgan, to_yaml

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


@pytest.mark.fault(28)
@pytest.mark.parametrize("subfolder", [None, "vqvae"])
def test_weights_load_missing_or_empty_folder_is_checkpoint_error(tmp_path, subfolder):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError):
            Weights.load(str(folder), subfolder=subfolder)


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_weights_parsed_without_one_file_is_checkpoint_error_that_names_it(model, name):
    files = {other: data for other, data in weights_of(model).files.items() if other != name}
    with pytest.raises(CheckpointError, match=name):
        Weights(files, "here").parsed  # noqa: B018


@pytest.mark.fault(28)
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


def test_weights_load_any_store_format_or_name_gives_one_layout(model, tmp_path):
    weights = weights_of(model)
    config, state = weights.files[CONFIG_FILE], load(weights.files[WEIGHTS_FILE])
    old = {name.replace("to_out.0", "proj_attn"): tensor for name, tensor in state.items()}
    names = sorted(old)
    shards = {f"{i}.safetensors": save({n: old[n] for n in names[i::2]}) for i in range(2)}
    index = {"weight_map": {n: f"{i}.safetensors" for i in range(2) for n in names[i::2]}}
    folders = {
        "single": {WEIGHTS_FILE: save(old)},
        "pickle": {PICKLE_FILE: compvis.save(old)},
        "shards": shards | {f"{WEIGHTS_FILE}.index.json": json.dumps(index).encode()},
    }
    for folder, files in folders.items():
        for name, data in {CONFIG_FILE: config, **files}.items():
            storage.publish(f"{tmp_path}/{folder}/{name}", data)
        assert Weights.load(f"{tmp_path}/{folder}").files == weights.files


@pytest.mark.s3
def test_weights_load_from_s3_reads_only_what_it_needs(model, bucket):
    weights = weights_of(model)
    for name, data in weights.files.items():
        storage.publish(f"{bucket}/vqgan/{name}", data)
    storage.publish(f"{bucket}/vqgan/{PICKLE_FILE}", b"damaged")
    found = Weights.load(f"{bucket}/vqgan/")
    assert (found.files, found.where) == (weights.files, f"{bucket}/vqgan")


def test_weights_load_single_file_with_json_beside_it(model, tmp_path):
    weights = weights_of(model)
    (tmp_path / CONFIG_FILE).write_bytes(weights.files[CONFIG_FILE])
    state = load(weights.files[WEIGHTS_FILE])
    contents = {
        "a.safetensors": weights.files[WEIGHTS_FILE],
        "b.bin": compvis.save(state),
        "c.ckpt": compvis.save({"state_dict": state, "epoch": 3}),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        assert Weights.load(f"{tmp_path}/{name}").sha256() == weights.sha256()


@pytest.fixture
def ckpt(tmp_path):
    """A VQGAN of CompVis without its config; `tmp_path` holds what tests put beside it."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.write_bytes(compvis.save({"state_dict": make_vqgan("ldm_f4").state_dict()}))
    return path


YAML = to_yaml(make_config(DDCONFIGS["ldm_f4"]))


@pytest.mark.parametrize("place", ["checkpoints/any.yaml", "configs/model.yml", "else/x.yaml"])
def test_weights_load_ckpt_finds_its_only_config(place, ckpt, tmp_path):
    storage.publish(f"{tmp_path}/{place}", YAML)
    config = f"{tmp_path}/{place}" if place.startswith("else") else None
    assert Weights.load(str(ckpt), config=config).config.downsample_factor == 4


def test_weights_load_ckpt_from_uri_finds_its_only_config(ckpt, tmp_path):
    storage.publish(f"{tmp_path}/configs/model.yaml", YAML)
    assert Weights.load(f"file://{ckpt}").config.num_vq_embeddings == 96


@pytest.mark.parametrize(
    "places",
    [
        [],
        ["checkpoints/a.yaml", "checkpoints/b.yaml"],
        ["checkpoints/a.yaml", "checkpoints/config.json"],
        ["configs/a.yaml", "configs/b.yaml"],
    ],
)
def test_weights_load_ckpt_without_or_with_several_configs_asks_for_it(places, ckpt, tmp_path):
    for place in places:
        storage.publish(f"{tmp_path}/{place}", YAML)
    with pytest.raises(CheckpointError, match="--model-config") as caught:
        Weights.load(str(ckpt))
    assert all(place in str(caught.value) for place in places)


@pytest.mark.parametrize("missing", ["checkpoints/other.ckpt", "configs/none.yaml"])
def test_weights_load_missing_file_is_checkpoint_error_that_names_it(missing, ckpt, tmp_path):
    is_model = missing.endswith(".ckpt")
    model, config = (missing, "checkpoints/last.ckpt") if is_model else (ckpt, missing)
    with pytest.raises(CheckpointError, match=missing):
        Weights.load(f"{tmp_path / model}", config=f"{tmp_path / config}")


def test_weights_load_folder_with_a_ckpt_says_to_give_that_file(ckpt):
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        Weights.load(str(ckpt.parent))


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("--revision", {"model": str(DEMO), "revision": "main"}),
        ("--model-config", {"model": str(DEMO), "config": "x.yaml"}),
        ("--model-config", {"model": "org/name", "config": "x.yaml"}),
        ("--variant", {"model": f"{DEMO}/{WEIGHTS_FILE}", "variant": "fp16"}),
        ("--revision", {"model": f"{DEMO}/{WEIGHTS_FILE}", "revision": "main"}),
    ],
)
def test_weights_load_option_that_would_do_nothing_is_config_error(option, options):
    with pytest.raises(ConfigError, match=option):
        Weights.load(**options)
