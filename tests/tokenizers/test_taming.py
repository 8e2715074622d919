import argparse
import collections
import copy
import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from tests.vqgan import compvis
from tests.vqgan.compvis import DDCONFIGS, make_config, make_vqgan, to_yaml
from vqpipe.codec.weights import Weights
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.vqgan import checkpoint
from vqpipe.vqgan.model import build_model

YAML, CKPT = "model.yaml", "last.ckpt"
SOME_TENSOR = "decoder.up.1.block.0.conv1.weight"


def state_of(name="ldm_f4"):
    return dict(make_vqgan(name).state_dict())


def read(config=None, state=None, data=None):
    config = make_config(DDCONFIGS["ldm_f4"]) if config is None else config
    data = compvis.save({"state_dict": state or state_of()}) if data is None else data
    return read_files(to_yaml(config), data)


def read_files(config, data, name=CKPT, **options):
    """Returns architecture and weights of a checkpoint and its config, as commands read them."""
    with tempfile.TemporaryDirectory() as folder:
        for file, content in ((YAML, config), (name, data)):
            Path(folder, file).write_bytes(content)
        found = Weights.load(f"{folder}/{name}", config=f"{folder}/{YAML}", **options).parsed
    return found.config, found.state


def error_of(**what):
    with pytest.raises(CheckpointError) as caught:
        read(**what)
    return str(caught.value)


def change_config(part="ddconfig", **fields):
    config = copy.deepcopy(make_config(DDCONFIGS["ldm_f4"]))
    params = config["model"]["params"]
    (params if part == "params" else params[part]).update(fields)
    return config


def make_pixels(name):
    torch.manual_seed(3)
    side = DDCONFIGS[name]["resolution"] // 16 * 16
    return torch.rand(2, 3, side, side) * 2 - 1


def check_equal(ours, theirs, name):
    pixels = make_pixels(name)
    latents, codes = theirs.encode(pixels)
    torch.testing.assert_close(ours.encode(pixels).latents, latents, rtol=0, atol=1e-5)
    found = ours.quantize(ours.encode(pixels).latents)[2][2].view(codes.shape)
    assert torch.equal(found, codes)
    assert len(codes.unique()) >= 8
    # In float32, pixels of random weights, up to 3, are rounded off by up to 1.6e-5 by themselves.
    ours, theirs = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    shape = (*codes.shape, latents.shape[1])
    vectors = ours.quantize.get_codebook_entry(codes.flatten(), shape)
    decoded = ours.decode(vectors, force_not_quantize=True).sample
    torch.testing.assert_close(decoded, theirs.decode(codes), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", DDCONFIGS)
@torch.no_grad()
def test_taming_gives_the_same_latents_codes_and_pixels(name):
    config, state = read(make_config(DDCONFIGS[name]), state_of(name))
    check_equal(build_model(config, state), make_vqgan(name), name)


@pytest.mark.parametrize("name", DDCONFIGS)
@torch.no_grad()
def test_taming_written_as_a_checkpoint_is_the_same_in_diffusers(name, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    files = checkpoint.write_state(*read(make_config(DDCONFIGS[name]), state_of(name)))
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    model, report = diffusers.VQModel.from_pretrained(
        tmp_path, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values())
    check_equal(model.eval(), make_vqgan(name), name)


TARGETS = [
    "taming.models.vqgan.VQModel",
    "ldm.models.autoencoder.VQModel",
    "ldm.models.autoencoder.VQModelInterface",
]


@pytest.mark.parametrize("target", TARGETS)
def test_taming_target_that_is_a_vqgan_is_read(target):
    config = make_config(DDCONFIGS["ldm_f4"], target, remap=None, sane_index_shape=True)
    assert read(config)[0] == read()[0]


def test_taming_first_stage_of_a_latent_diffusion_model_is_read():
    first = make_config(DDCONFIGS["ldm_f4"], TARGETS[2])["model"]
    params = {"linear_start": 0.0015, "unet_config": {}, "first_stage_config": first}
    config = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    state = {f"first_stage_model.{name}": tensor for name, tensor in state_of().items()}
    state |= {"model.diffusion_model.out.bias": torch.ones(2), "betas": torch.ones(3)}
    found = read(config, state)
    expected = read()
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())
    assert found[1].keys() == expected[1].keys()


def test_taming_leftovers_of_training_are_left_out():
    leftovers = {
        "loss.discriminator.main.0.weight": torch.ones(2),
        "loss.perceptual_loss.lin0.model.1.weight": torch.full((1,), torch.nan),
        "model_ema.decay": torch.ones(()),
        "colorize": torch.ones(3, 2, 1, 1),
    }
    assert read(state=state_of() | leftovers)[1].keys() == read()[1].keys()


def average_of(state):
    """Returns what `LitEma` keeps of weights, as it names them; each is apart from its weight."""
    short = {f"model_ema.{name.replace('.', '')}": tensor * 2 for name, tensor in state.items()}
    return short | {"model_ema.decay": torch.ones(()), "model_ema.num_updates": torch.tensor(-1)}


@pytest.mark.fault(28)
def test_taming_weights_and_their_averages_are_asked_for_and_not_guessed():
    state = state_of() | {"loss.discriminator.weight": torch.ones(2)}
    config = to_yaml(make_config(DDCONFIGS["ldm_f4"]))
    data = compvis.save({"state_dict": state | average_of(state)})
    with pytest.raises(ConfigError, match="--weights ema or --weights raw"):
        read_files(config, data)
    raw, ema = (read_files(config, data, weights=which)[1] for which in ("raw", "ema"))
    plain = read()[1]
    assert raw.keys() == ema.keys() == plain.keys()
    assert all(torch.equal(raw[name], plain[name]) for name in plain)
    assert all(torch.equal(ema[name], plain[name] * 2) for name in plain)


@pytest.mark.fault(28)
@pytest.mark.parametrize("which", ["raw", "ema"])
def test_taming_average_that_lacks_a_weight_or_is_of_none_is_an_error(which):
    state = state_of()
    averages = average_of(state)
    del averages[f"model_ema.{SOME_TENSOR.replace('.', '')}"]
    config = to_yaml(make_config(DDCONFIGS["ldm_f4"]))
    data = compvis.save({"state_dict": state | averages})
    if which == "raw":
        read_files(config, data, weights="raw")
    else:
        with pytest.raises(CheckpointError, match=SOME_TENSOR):
            read_files(config, data, weights="ema")
    strange = {"model_ema.encoderx": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"model_ema\.encoderx"):
        read_files(config, compvis.save({"state_dict": state | strange}), weights=which)


@pytest.mark.fault(28)
def test_taming_weights_that_are_not_there_are_not_taken_for_others():
    config = to_yaml(make_config(DDCONFIGS["ldm_f4"]))
    with pytest.raises(ConfigError, match="no running averages"):
        read_files(config, compvis.save({"state_dict": state_of()}), weights="ema")


def test_taming_bare_state_dict_and_safetensors_are_read():
    expected = read()[1]
    _, bare = read(data=compvis.save(state_of()))
    config = to_yaml(make_config(DDCONFIGS["ldm_f4"]))
    _, safe = read_files(config, save_safetensors(state_of()), "model.safetensors")
    for found in (bare, safe):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_taming_keeps_the_stored_dtype():
    half = {name: tensor.half() for name, tensor in state_of().items()}
    assert {tensor.dtype for tensor in read(state=half)[1].values()} == {torch.float16}


def make_trained(monkeypatch):
    """What a trainer saves: objects of packages that are not here around the state dict."""
    made = compvis.make_objects(
        monkeypatch,
        ModelCheckpoint=("pytorch_lightning.callbacks.model_checkpoint", ()),
        AttributeDict=("pytorch_lightning.utilities.parsing", (dict,)),
        DictConfig=("omegaconf.dictconfig", ()),
        AnyNode=("omegaconf.nodes", ()),
    )
    config = made["DictConfig"]()
    config.__dict__ = {
        "_content": {"lr": made["AnyNode"]()},
        "_type": collections.defaultdict(dict),
    }
    return {
        "epoch": 3,
        "pytorch-lightning_version": "1.0.8",
        "state_dict": collections.OrderedDict(state_of()),
        "callbacks": {made["ModelCheckpoint"]: {"best": np.float64(0.5), "at": Path("/a")}},
        "hyper_parameters": made["AttributeDict"](config=config, names=argparse.Namespace(a=1)),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "array": np.ones(2)}],
    }


def test_taming_checkpoint_of_a_trainer_is_read(monkeypatch):
    data = compvis.save(make_trained(monkeypatch))
    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError):
        torch.load(io.BytesIO(data), weights_only=False)
    _, state = read(data=data)
    assert all(torch.equal(state[name], tensor) for name, tensor in read()[1].items())


class Trap:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.fault(28)
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("place", ["callbacks", "state_dict"])
def test_taming_code_is_named_and_not_run(place, is_zip, tmp_path):
    content = {"state_dict": state_of(), "callbacks": {}}
    content[place]["trap"] = Trap(tmp_path / "trap")
    data = compvis.save(content, _use_new_zipfile_serialization=is_zip)
    message = error_of(data=data)
    assert CKPT in message
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert not (tmp_path / "trap").exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "trap").exists()  # the trap works


def forge(content, old, new):
    """Replaces the name of a global in a saved file, which a pickler would not write."""
    buffer = io.BytesIO(compvis.save(content))
    forged = io.BytesIO()
    with zipfile.ZipFile(buffer) as zipped, zipfile.ZipFile(forged, "w") as target:
        for name in zipped.namelist():
            target.writestr(name, zipped.read(name).replace(old, new))
    return forged.getvalue()


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "name", [b"cpytorch_lightning.os\nsystem\n", b"cpytorch_lightning\nos.system\n"]
)
def test_taming_code_under_a_harmless_name_does_nothing(name, tmp_path, monkeypatch):
    made = compvis.make_objects(monkeypatch, Callback=("some_module", ()))
    command = f"touch {tmp_path / 'trap'}"
    made["Callback"].__reduce__ = lambda _: (made["Callback"], (command,))
    content = {"state_dict": state_of(), "callbacks": [made["Callback"]()]}
    data = forge(content, b"csome_module\nCallback\n", name)
    assert read(data=data)[1].keys() == read()[1].keys()
    assert not (tmp_path / "trap").exists()


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cposix\nsystem\n"])
def test_taming_command_is_named_and_not_run(name, tmp_path, monkeypatch):
    made = compvis.make_objects(monkeypatch, Callback=("some_module", ()))
    made["Callback"].__reduce__ = lambda _: (made["Callback"], (f"touch {tmp_path / 'trap'}",))
    content = {"state_dict": state_of(), "callbacks": [made["Callback"]()]}
    message = error_of(data=forge(content, b"csome_module\nCallback\n", name))
    assert name[1:-1].decode().replace("\n", ".") in message
    assert not (tmp_path / "trap").exists()


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        pickle.dumps({"a": 1}),
        compvis.save([1]),
        compvis.save({}),
        compvis.save({"state_dict": None}),
        compvis.save({"state_dict": {"a": 1}}),
        compvis.save({"state_dict": {1: torch.ones(1)}}),
    ],
)
def test_taming_file_without_weights_raises(data):
    assert CKPT in error_of(data=data)


@pytest.mark.fault(28)
@pytest.mark.parametrize("kept", [0.001, 0.5, 0.99])
def test_taming_truncated_file_raises(kept):
    data = compvis.save({"state_dict": state_of()})
    assert f"{CKPT} is damaged" in error_of(data=data[: int(kept * len(data))])


def remove_tensor(state):
    del state[SOME_TENSOR]


def add_tensor(state):
    state[SOME_TENSOR + "s"] = state[SOME_TENSOR]


def reshape_tensor(state):
    state[SOME_TENSOR] = state[SOME_TENSOR][:, :-1]


def put_nan(state):
    state[SOME_TENSOR] = torch.full_like(state[SOME_TENSOR], torch.nan)


def make_integer(state):
    state[SOME_TENSOR] = state[SOME_TENSOR].to(torch.int8)


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "change", [remove_tensor, add_tensor, reshape_tensor, put_nan, make_integer]
)
def test_taming_bad_tensor_raises_with_its_own_name(change):
    state = state_of()
    change(state)
    message = error_of(state=state)
    assert CKPT in message
    assert SOME_TENSOR in message


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "name", ["quantize.proj.weight", "quantize.embed.weight", "encoder.mid_block.resnets.0.x"]
)
def test_taming_tensor_of_another_architecture_raises_with_its_name(name):
    assert name in error_of(state=state_of() | {name: torch.ones(1)})


def test_taming_attention_of_another_shape_raises_with_its_name():
    name = "encoder.mid.attn_1.q.weight"
    state = state_of()
    state[name] = state[name].expand(-1, -1, 3, 3)
    assert name in error_of(state=state)


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("double_z", True),
        ("tanh_out", True),
        ("give_pre_end", True),
        ("resamp_with_conv", False),
        ("use_linear_attn", True),
        ("attn_type", "linear"),
        ("attn_type", None),
        ("ch_mult", [2, 4]),
        ("ch_mult", []),
        ("ch_mult", 2),
        ("ch_mult", [1, "2"]),
        ("attn_resolutions", None),
        ("attn_resolutions", [16.5]),
        ("z_channels", None),
        ("resolution", "256"),
        ("num_res_blocks", True),
        ("ch", 0),
        ("double_zz", False),
    ],
)
def test_taming_ddconfig_that_cannot_be_or_is_unknown_raises(field, value):
    message = error_of(config=change_config(**{field: value}))
    assert YAML in message
    assert field in message


def test_taming_double_z_left_out_is_true_as_in_compvis():
    config = change_config()
    del config["model"]["params"]["ddconfig"]["double_z"]
    assert "double_z is True" in error_of(config=config)


def test_taming_channels_that_do_not_divide_raise():
    assert "norm_num_groups" in error_of(config=change_config(ch=24))


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("remap", "data/coco.npy"),
        ("n_embed", None),
        ("embed_dim", 2.5),
        ("ddconfig", None),
        ("kl_weight", 1e-6),
    ],
)
def test_taming_param_that_cannot_be_or_is_unknown_raises(field, value):
    message = error_of(config=change_config("params", **{field: value}))
    assert YAML in message
    assert field in message


@pytest.mark.parametrize(
    "target",
    [
        "taming.models.vqgan.GumbelVQ",
        "ldm.models.autoencoder.AutoencoderKL",
        "taming.models.cond_transformer.Net2NetTransformer",
        None,
        3,
    ],
)
def test_taming_other_target_raises_with_its_name(target):
    message = error_of(config=make_config(DDCONFIGS["ldm_f4"], target))
    assert YAML in message
    assert repr(target) in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"3",
        b"model: 3",
        b"model: {target: x}",
        b"model: {params: {first_stage_config: __is_first_stage__}}",
        b"a: [",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.system ['exit 3']",
    ],
)
def test_taming_config_of_something_else_raises(data):
    with pytest.raises(CheckpointError, match=YAML):
        read_files(data, compvis.save({"state_dict": state_of()}))
