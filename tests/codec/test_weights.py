import functools
import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load, save

from tests.vqgan import compvis
from tests.vqgan.compvis import DDCONFIGS, make_config, make_vqgan, to_yaml
from vqpipe import storage
from vqpipe.codec.weights import Weights
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.vqgan.files import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE

DEMO = Path(__file__).parents[2] / "infra" / "demo" / "checkpoint"


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
    assert found.description == weights_of(model).description


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
    assert Weights.load(str(ckpt), config=config).description.multiple == 4


def test_weights_load_ckpt_from_uri_finds_its_only_config(ckpt, tmp_path):
    storage.publish(f"{tmp_path}/configs/model.yaml", YAML)
    assert Weights.load(f"file://{ckpt}").description.codebook_size == 96


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


def test_weights_load_running_average_as_diffusers_saves_it_equals_what_diffusers_reads(tmp_path):
    trained = diffusers.VQModel.from_pretrained(str(DEMO))
    average = EMAModel(
        trained.parameters(), model_cls=diffusers.VQModel, model_config=trained.config
    )
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.5)
    average.step(trained.parameters())
    average.save_pretrained(tmp_path / "vqmodel_ema")
    expected = diffusers.VQModel.from_pretrained(str(tmp_path / "vqmodel_ema")).state_dict()
    found = Weights.load(str(tmp_path / "vqmodel_ema"))
    assert found.parsed.state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.parsed.state.items())
    assert found.sha256() != weights_of(DEMO).sha256()


def test_weights_load_field_that_nobody_knows_is_still_an_error(model, tmp_path):
    config = json.loads(weights_of(model).files[CONFIG_FILE])
    for field in ("decays", "shift", "inv_gammas"):
        storage.replace(f"{tmp_path}/{CONFIG_FILE}", json.dumps(config | {field: 1.0}).encode())
        storage.replace(f"{tmp_path}/{WEIGHTS_FILE}", weights_of(model).files[WEIGHTS_FILE])
        with pytest.raises(CheckpointError, match=f"unknown field {field}"):
            Weights.load(str(tmp_path))


def _prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": lambda model: model.state_dict(),
    "in a trainer's file": lambda model: {"model": model.state_dict(), "optimizer": {"lr": 1.0}},
    "averaged": lambda model: {"params_ema": model.state_dict(), "epoch": 3},
    "compiled": lambda model: torch.compile(model).state_dict(),
    "of many GPUs": lambda model: torch.nn.DataParallel(model).state_dict(),
    "both": lambda model: torch.compile(torch.nn.DataParallel(model)).state_dict(),
    "compiled in part": lambda model: _compile_encoder(model).state_dict(),
    "lightning": lambda model: {"state_dict": _prefixed(model.state_dict(), "model.")},
    "ema": lambda model: _prefixed(torch.compile(model).state_dict(), "ema."),
}


def _compile_encoder(model):
    model.encoder = torch.compile(model.encoder)
    return model


# torch imports a part of its own that it has deprecated (2.13, `torch.utils.mkldnn`).
compiling = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")


@compiling
@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "vq.pth") for kind in WRAPPED), ("plain", "vq.pt"), ("averaged", "vq.ckpt")],
)
def test_weights_load_file_of_a_trainer_is_the_same_model_however_it_was_wrapped(
    model, tmp_path, kind, name
):
    content = WRAPPED[kind](diffusers.VQModel.from_pretrained(str(DEMO)))
    (tmp_path / name).write_bytes(compvis.save(content))
    (tmp_path / CONFIG_FILE).write_bytes(weights_of(model).files[CONFIG_FILE])
    assert Weights.load(f"{tmp_path}/{name}").sha256() == weights_of(model).sha256()


@compiling
@pytest.mark.parametrize("kind", ["compiled", "of many GPUs"])
def test_weights_load_folder_with_wrapped_names_is_the_same_model(model, tmp_path, kind):
    state = dict(WRAPPED[kind](diffusers.VQModel.from_pretrained(str(DEMO))))
    (tmp_path / WEIGHTS_FILE).write_bytes(save(state))
    (tmp_path / CONFIG_FILE).write_bytes(weights_of(model).files[CONFIG_FILE])
    assert Weights.load(str(tmp_path)).sha256() == weights_of(model).sha256()


@pytest.mark.fault(28)
def test_weights_load_what_is_not_clearly_one_model_is_checkpoint_error(model, tmp_path):
    state = load(weights_of(model).files[WEIGHTS_FILE])
    name = "quantize.embedding.weight"
    rest = {other: tensor for other, tensor in state.items() if other != name}
    contents = {
        "several models.*model and params": {"model": state, "params": state},
        "missing tensor": _prefixed(state, "model.") | {"ema.x": state[name]},
        "under its other name": state | {f"module.{name}": state[name]},
        f"missing tensor {name}": _prefixed(rest, "module."),
        "extra tensor head": _prefixed(state | {"head.weight": state[name]}, "module."),
    }
    (tmp_path / CONFIG_FILE).write_bytes(weights_of(model).files[CONFIG_FILE])
    for said, content in contents.items():
        (tmp_path / "vq.pth").write_bytes(compvis.save(content))
        with pytest.raises(CheckpointError, match=said):
            Weights.load(f"{tmp_path}/vq.pth")


@pytest.mark.fault(28)
def test_weights_load_code_in_a_pth_is_never_run(model, tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(weights_of(model).files[CONFIG_FILE])
    (tmp_path / "vq.pth").write_bytes(compvis.save({"model": {}, "hook": functools.partial(print)}))
    with pytest.raises(CheckpointError, match="more than tensors"):
        Weights.load(f"{tmp_path}/vq.pth")


def test_weights_load_wrapped_vqgan_of_compvis_is_the_same_model(tmp_path):
    state = make_vqgan("ldm_f4").state_dict()
    storage.publish(f"{tmp_path}/plain/a.ckpt", compvis.save({"state_dict": state}))
    storage.publish(f"{tmp_path}/wrapped/a.pth", compvis.save(_prefixed(state, "model.module.")))
    for folder in ("plain", "wrapped"):
        storage.publish(f"{tmp_path}/{folder}/a.yaml", YAML)
    plain, wrapped = (
        Weights.load(f"{tmp_path}/plain/a.ckpt"),
        Weights.load(f"{tmp_path}/wrapped/a.pth"),
    )
    assert plain.sha256() == wrapped.sha256()


@pytest.mark.parametrize("path", ["vqgan", "models/vqgan/last", "models/vqgan/", "./a/b"])
def test_weights_load_path_that_is_not_there_says_so(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not exist.*org/name"):
        Weights.load(path)
    with pytest.raises(CheckpointError, match=r"does not exist.*--model"):
        Weights.load(f"{tmp_path}/{path.rstrip('/')}.pth")


def test_weights_load_folder_with_nothing_in_it_says_what_it_should_hold(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model"):
        Weights.load(str(tmp_path))


def test_weights_load_folder_with_config_and_a_single_file_says_to_give_that_file(model, tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(weights_of(model).files[CONFIG_FILE])
    (tmp_path / "vq.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"holds vq\.pth; give that file"):
        Weights.load(str(tmp_path))
