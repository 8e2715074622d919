"""One file of several that lie side by side, and names that are half right."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.shell import CHECKPOINT
from tests.tokenizers.published import chameleon, titok
from tests.vqgan import compvis
from vqpipe.codec.weights import Weights
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.vqgan.files import CONFIG_FILE, PICKLE_FILE, STEM, WEIGHTS_FILE

pytestmark = pytest.mark.fault(28)


@pytest.fixture(scope="module")
def state():
    return load_file(CHECKPOINT / WEIGHTS_FILE)


@pytest.fixture
def several(state, tmp_path):
    """A folder with four sets of weights; those of each file are another multiple of the plain."""
    shutil.copy(CHECKPOINT / CONFIG_FILE, tmp_path)
    for times, name in enumerate((WEIGHTS_FILE, f"{STEM}.fp16.safetensors", PICKLE_FILE), 1):
        scaled = {each: tensor * times for each, tensor in state.items()}
        if name.endswith(".bin"):
            torch.save(scaled, tmp_path / name)
        else:
            save_file(scaled, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "times"), [(WEIGHTS_FILE, 1), (f"{STEM}.fp16.safetensors", 2), (PICKLE_FILE, 3)]
)
def test_file_that_is_named_is_the_one_that_is_read(name, times, several, state):
    found = Weights.load(str(several / name)).parsed.state
    for each, tensor in state.items():
        assert torch.equal(found[each], tensor * times), each


def test_config_that_is_named_is_the_one_that_is_read(several):
    said = json.loads((several / CONFIG_FILE).read_bytes())
    other = several / "other.json"
    other.write_text(json.dumps(said | {"num_vq_embeddings": said["num_vq_embeddings"] * 2}))
    with pytest.raises(CheckpointError, match="shape"):
        Weights.load(str(several / WEIGHTS_FILE), config=str(other))
    (several / CONFIG_FILE).unlink()
    other.unlink()
    with pytest.raises(CheckpointError, match="name one with --model-config"):
        Weights.load(str(several / WEIGHTS_FILE))


def test_converted_network_is_read_by_its_folder_and_by_its_file(tmp_path):
    (tmp_path / "published").mkdir()
    published = titok.write(tmp_path / "published", titok.make_random(True))
    weights = Weights.load(published)
    for name, data in weights.files.items():
        (tmp_path / name).write_bytes(data)
    again = [Weights.load(str(tmp_path)), Weights.load(str(tmp_path / WEIGHTS_FILE))]
    assert [each.files for each in again] == [weights.files, weights.files]
    with pytest.raises(ConfigError, match=r"which is a TiTok in diffusers' layout.*leave it out"):
        Weights.load(str(tmp_path), family="titok")


def test_index_of_shards_is_read_and_what_it_lacks_is_named(tmp_path):
    folder = chameleon.write_transformers(tmp_path, chameleon.make_random(), shards=2)
    index = tmp_path / "model.safetensors.index.json"
    assert Weights.load(str(index)).sha256() == Weights.load(folder).sha256()
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard} is missing, of which .*index\.json says"):
        Weights.load(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"holds shards .*no index"):
        Weights.load(folder)


@pytest.mark.parametrize(
    "model",
    ["hf://organisation/name", "hf://name", "https://huggingface.co/organisation/name"],
)
def test_half_a_name_on_the_hub_says_what_a_whole_one_is(model):
    with pytest.raises(ConfigError, match=r"org/name.*hf://org/name/file"):
        Weights.load(model)


def test_index_on_the_hub_says_to_name_the_repository():
    with pytest.raises(ConfigError, match="give its repository, organisation/name"):
        Weights.load("hf://organisation/name/model.safetensors.index.json")


def test_config_that_is_none_says_what_it_is_instead(several):
    file = str(several / PICKLE_FILE)
    with pytest.raises(ConfigError, match="is a file of weights"):
        Weights.load(file, config=file)
    with pytest.raises(CheckpointError, match="is a folder"):
        Weights.load(file, config=str(several))


@pytest.mark.parametrize("of_family", [False, True], ids=["diffusers", "family"])
def test_two_models_whose_names_differ_by_a_wrapper_are_not_merged(of_family, several, state):
    if of_family:
        state = compvis.make_vqgan("ldm_f4").state_dict()
    name = "encoder.conv_in.weight"
    both = {**state, f"module.{name}": state[name] * 1.1}
    (several / "both.ckpt").write_bytes(compvis.save({"state_dict": both}))
    if of_family:
        (several / CONFIG_FILE).unlink()
    options = {"family": "taming"} if of_family else {}
    with pytest.raises(CheckpointError, match=r"extra tensor .*encoder\.conv_in\.weight"):
        Weights.load(str(several / "both.ckpt"), **options)


def test_weights_of_a_folder_may_be_called_what_they_are(several):
    plain = Weights.load(str(several))
    assert Weights.load(str(several), weights="raw").files == plain.files
    with pytest.raises(ConfigError, match="--weights ema does not go with"):
        Weights.load(str(several), weights="ema")
