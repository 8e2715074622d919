import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from tests.vqgan.configs import CONFIGS, make_oracle, make_pair, make_pixels
from vqpipe.errors import CheckpointError
from vqpipe.vqgan import VQModel, checkpoint
from vqpipe.vqgan.model import build_model, expected_state
from vqpipe.vqgan.tensors import parse_weights

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"
SOME_TENSOR = "decoder.mid_block.resnets.0.conv1.weight"


def saved(model):
    return checkpoint.write_state(model.config, model.state_dict())


def make_files(name="relu"):
    torch.manual_seed(0)
    return saved(VQModel(**CONFIGS[name]))


def change_config(files, **fields):
    values = json.loads(files[CONFIG]) | fields
    return files | {CONFIG: json.dumps(values).encode()}


def change_weights(files, change):
    state = load(files[WEIGHTS])
    change(state)
    return files | {WEIGHTS: save(state)}


def error_of(files):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_checkpoint(files, expected_state, where="s3://bucket/vqvae")
    return str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_from_pretrained_reads_what_diffusers_saves(name, tmp_path):
    oracle, _ = make_pair(name)
    oracle.save_pretrained(tmp_path / "vqvae")
    ours = VQModel.from_pretrained(tmp_path, subfolder="vqvae")
    assert not ours.training
    for key, tensor in oracle.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor)
    pixels = make_pixels(name, 1, 32, 32)
    torch.testing.assert_close(ours(pixels).sample, oracle(pixels).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_save_pretrained_is_read_by_diffusers(name, tmp_path):
    oracle, ours = make_pair(name)
    ours.save_pretrained(tmp_path / "new" / "folder")
    loaded = type(oracle).from_pretrained(tmp_path / "new" / "folder", low_cpu_mem_usage=False)
    assert {k: v for k, v in loaded.config.items() if not k.startswith("_")} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in ours.config.items()
    }
    for key, tensor in oracle.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_from_pretrained_torch_dtype_is_honoured(dtype, tmp_path):
    make_pair("relu")[1].save_pretrained(tmp_path)
    model = VQModel.from_pretrained(tmp_path, torch_dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_from_pretrained_half_file_becomes_float32_as_in_diffusers(tmp_path):
    oracle = make_oracle("relu").half()
    oracle.save_pretrained(tmp_path)
    theirs = type(oracle).from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert VQModel.from_pretrained(tmp_path).quant_conv.weight.dtype == theirs.dtype


def test_build_model_keeps_stored_dtype_and_can_be_trained():
    config, state = checkpoint.read_checkpoint(make_files(), expected_state)
    model = build_model(config, {k: v.bfloat16() for k, v in state.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_build_model_draws_no_random_numbers():
    config, state = checkpoint.read_checkpoint(make_files(), expected_state)
    before = torch.get_rng_state()
    build_model(config, state)
    assert torch.equal(torch.get_rng_state(), before)


def test_write_checkpoint_round_trips_byte_for_byte():
    files = make_files("movq")
    config, state = checkpoint.read_checkpoint(files, expected_state)
    assert saved(build_model(config, state)) == files


def test_read_checkpoint_old_attention_names_give_same_weights():
    files = make_files("attention_everywhere")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state):
        for key in list(state):
            old = key
            for new_part, old_part in names.items():
                old = old.replace(new_part, old_part)
            state[old] = state.pop(key)

    _, expected = checkpoint.read_checkpoint(files, expected_state)
    _, state = checkpoint.read_checkpoint(change_weights(files, rename), expected_state)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_read_checkpoint_absent_fields_take_diffusers_defaults():
    files = make_files("defaults")
    config, _ = checkpoint.read_checkpoint(
        files | {CONFIG: b'{"_class_name": "VQModel"}'}, expected_state
    )
    assert config == VQModel().config


def test_read_checkpoint_pickle_where_no_safetensors(tmp_path):
    files = make_files()
    state = load(files[WEIGHTS])
    torch.save(state, tmp_path / "weights")
    pickled = {CONFIG: files[CONFIG], PICKLE: (tmp_path / "weights").read_bytes()}
    _, read = checkpoint.read_checkpoint(pickled, expected_state)
    assert all(torch.equal(read[key], state[key]) for key in state)


class Payload:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.fault(28)
@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cu128"])
def test_read_checkpoint_pickle_is_refused_by_a_torch_that_it_could_take_over(
    tmp_path, monkeypatch, version
):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.bin")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(CheckpointError, match="CVE-2026-24747"):
        parse_weights((tmp_path / "a.bin").read_bytes(), "a.bin")
    monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
    assert parse_weights((tmp_path / "a.bin").read_bytes(), "a.bin")["a"].shape == (1,)


@pytest.mark.fault(28)
@pytest.mark.parametrize("content", [Payload(), [1, 2], {"a": 1}])
def test_read_checkpoint_pickle_of_something_else_raises(content, tmp_path, capsys):
    torch.save(content, tmp_path / "weights")
    data = (tmp_path / "weights").read_bytes()
    message = error_of({CONFIG: make_files()[CONFIG], PICKLE: data})
    assert PICKLE in message
    assert capsys.readouterr().out == ""


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_read_checkpoint_missing_file_raises(name):
    files = make_files()
    del files[name]
    message = error_of(files)
    assert f"s3://bucket/vqvae/{name} is missing" in message


def test_from_pretrained_empty_folder_raises(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        VQModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_read_checkpoint_truncated_file_raises(name, kept):
    files = make_files()
    message = error_of(files | {name: files[name][: int(kept * len(files[name]))]})
    assert f"s3://bucket/vqvae/{name}" in message


@pytest.mark.fault(28)
@pytest.mark.parametrize("data", [b"[]", b"3", b"\xff\xfe\x00", b"{'a': 1}"])
def test_read_checkpoint_config_no_json_object_raises(data):
    assert "s3://bucket/vqvae/config.json" in error_of(make_files() | {CONFIG: data})


@pytest.mark.fault(28)
@pytest.mark.parametrize("class_name", ["AutoencoderKL", None, 3])
def test_read_checkpoint_wrong_class_raises(class_name):
    message = error_of(change_config(make_files(), _class_name=class_name))
    assert repr(class_name) in message
    assert "config.json" in message


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("down_block_types", ["CrossAttnDownBlock2D", "DownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D", "UNetResUpDecoderBlock2D"]),
        ("act_fn", "tanh"),
        ("latent_channels", "3"),
        ("block_out_channels", [32, None]),
        ("double_z", True),
    ],
)
def test_read_checkpoint_bad_or_unknown_field_raises(field, value):
    message = error_of(change_config(make_files(), **{field: value}))
    assert "s3://bucket/vqvae/config.json" in message
    assert field in message


def test_read_checkpoint_underscored_fields_are_ignored():
    files = change_config(make_files(), _name_or_path="x", _use_default_values=["force_upcast"])
    config, _ = checkpoint.read_checkpoint(files, expected_state)
    assert config.act_fn == "relu"


def remove_tensor(state):
    del state[SOME_TENSOR]


def rename_tensor(state):
    state[SOME_TENSOR + "s"] = state[SOME_TENSOR].clone()


def reshape_tensor(state):
    state[SOME_TENSOR] = state[SOME_TENSOR][:, :-1].contiguous()


def flatten_tensor(state):
    state[SOME_TENSOR] = state[SOME_TENSOR].flatten()


def put_nan(state):
    state[SOME_TENSOR][0, 0, 1, 1] = torch.nan


def put_infinity(state):
    state[SOME_TENSOR][-1, -1, -1, -1] = -torch.inf


def make_integer(state):
    state[SOME_TENSOR] = state[SOME_TENSOR].to(torch.int8)


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "change",
    [
        remove_tensor,
        rename_tensor,
        reshape_tensor,
        flatten_tensor,
        put_nan,
        put_infinity,
        make_integer,
    ],
)
def test_read_checkpoint_bad_tensor_raises_with_its_name(change):
    message = error_of(change_weights(make_files(), change))
    assert f"s3://bucket/vqvae/{WEIGHTS}" in message
    assert SOME_TENSOR in message


@pytest.mark.fault(28)
def test_read_checkpoint_weights_of_other_architecture_raises():
    message = error_of(make_files("relu") | {WEIGHTS: make_files("movq")[WEIGHTS]})
    assert "missing tensor" in message or "extra tensor" in message
    assert "more" in message


INDEX = f"{WEIGHTS}.index.json"


@functools.cache
def shards(use_safetensors=True, variant=None):
    """Files that diffusers saves when no weights file may be over 200 kB."""
    with tempfile.TemporaryDirectory() as folder:
        how = {"max_shard_size": "200KB", "safe_serialization": use_safetensors}
        make_pair("relu")[0].save_pretrained(folder, variant=variant, **how)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def check_is_relu(state):
    for key, tensor in make_pair("relu")[0].state_dict().items():
        assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_from_pretrained_reads_what_diffusers_saves_in_shards(use_safetensors, variant, tmp_path):
    files = shards(use_safetensors, variant)
    assert len(files) > 4
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    check_is_relu(VQModel.from_pretrained(tmp_path, variant=variant).state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ],
)
def test_read_checkpoint_variant_index_under_any_of_its_names_is_read(name):
    files = dict(shards(variant="fp16"))
    files[name] = files.pop("diffusion_pytorch_model.safetensors.index.fp16.json")
    check_is_relu(checkpoint.read_checkpoint(files, expected_state, variant="fp16")[1])


def test_from_pretrained_variant_reads_only_that_file(tmp_path):
    make_oracle("relu").half().save_pretrained(tmp_path, variant="fp16")
    (tmp_path / WEIGHTS).write_bytes(b"another")
    model = VQModel.from_pretrained(tmp_path, variant="fp16")
    expected = make_oracle("relu").half().state_dict()
    assert all(torch.equal(t.half(), expected[key]) for key, t in model.state_dict().items())


def test_read_checkpoint_variant_that_is_missing_raises_with_what_is_there():
    with pytest.raises(CheckpointError, match="fp16") as caught:
        checkpoint.read_checkpoint(make_files(), expected_state, variant="fp16")
    assert WEIGHTS in str(caught.value)


@pytest.mark.fault(28)
def test_read_checkpoint_missing_shard_raises_with_its_name():
    files = dict(shards())
    name = sorted(name for name in files if name.endswith(".safetensors"))[1]
    del files[name]
    assert f"s3://bucket/vqvae/{name} is missing" in error_of(files)


@pytest.mark.fault(28)
def test_read_checkpoint_truncated_shard_raises_with_its_name():
    files = dict(shards())
    name = sorted(name for name in files if name.endswith(".safetensors"))[1]
    assert f"s3://bucket/vqvae/{name} is damaged" in error_of(files | {name: files[name][:-9]})


@pytest.mark.fault(28)
@pytest.mark.parametrize("problem", ["missing", "extra"])
def test_read_checkpoint_shard_unlike_its_index_raises_with_the_tensor(problem):
    files = dict(shards())
    name = json.loads(files[INDEX])["weight_map"][SOME_TENSOR]
    state = load(files[name])
    if problem == "missing":
        del state[SOME_TENSOR]
    else:
        state["elsewhere"] = torch.zeros(1)
    message = error_of(files | {name: save(state)})
    assert f"s3://bucket/vqvae/{name}: {problem} tensor" in message
    assert (SOME_TENSOR if problem == "missing" else "elsewhere") in message


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    "place",
    [
        "../diffusion_pytorch_model.safetensors",
        "/etc/diffusion_pytorch_model.safetensors",
        "sub/diffusion_pytorch_model.safetensors",
        "..\\diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
        3,
        None,
    ],
)
def test_read_checkpoint_index_that_leads_elsewhere_raises(place):
    files = dict(shards())
    index = json.loads(files[INDEX])
    index["weight_map"][SOME_TENSOR] = place
    message = error_of(files | {INDEX: json.dumps(index).encode()})
    assert f"s3://bucket/vqvae/{INDEX}" in message
    assert SOME_TENSOR in message
    assert repr(place) in message


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}'])
def test_read_checkpoint_index_without_a_map_raises(data):
    assert f"s3://bucket/vqvae/{INDEX}" in error_of(dict(shards()) | {INDEX: data})


@pytest.mark.fault(28)
def test_read_checkpoint_tensor_under_both_its_names_raises():
    def double(state):
        name = next(key for key in state if ".to_q.weight" in key)
        state[name.replace("to_q", "query")] = state[name].clone()

    message = error_of(change_weights(make_files("attention_everywhere"), double))
    assert "extra tensor" in message
    assert ".query.weight" in message or ".to_q.weight" in message


class Writer:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")


@pytest.mark.fault(28)
def test_read_checkpoint_pickle_with_code_names_it_and_does_not_run_it(tmp_path):
    state = load(make_files()[WEIGHTS])
    torch.save(state | {"x": Writer(tmp_path / "trap")}, tmp_path / "weights")
    data = (tmp_path / "weights").read_bytes()
    message = error_of({CONFIG: make_files()[CONFIG], PICKLE: data})
    assert f"s3://bucket/vqvae/{PICKLE}" in message
    assert "write_text" in message or "pathlib" in message
    assert not (tmp_path / "trap").exists()
    torch.load(tmp_path / "weights", weights_only=False)
    assert (tmp_path / "trap").exists()  # the trap works


def test_write_state_keeps_dtypes_and_values_of_tensors_that_share_memory():
    config, state = checkpoint.read_checkpoint(make_files(), expected_state)
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    first, second = SOME_TENSOR, SOME_TENSOR.replace("conv1", "conv2")
    state[second] = state[first]
    _, read = checkpoint.read_checkpoint(checkpoint.write_state(config, state), expected_state)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
