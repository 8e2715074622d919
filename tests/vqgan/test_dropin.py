import copy
import json
import pickle
import re
import shutil
from io import BytesIO
from pathlib import Path

import pytest
import torch

from tests.shell import CHECKPOINT
from tests.vqgan.configs import make_pair, make_pixels
from vqpipe.vqgan import DecoderOutput, VQModel

PAGE = Path(__file__).parents[2] / "pipeline" / "vqpipe" / "vqgan" / "README.md"


def own_fields(config):
    """A diffusers config without diffusers' own notes."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


@torch.no_grad()
def assert_same_model(model, other):
    pixels = make_pixels("relu", 1, 16, 16)
    assert torch.equal(model(pixels).sample, other(pixels).sample)
    assert model.config == other.config


@pytest.mark.parametrize("name", ["defaults", "movq", "amused"])
def test_config_reads_as_that_of_diffusers(name):
    oracle, ours = make_pair(name)
    fields = own_fields(oracle.config)
    assert dict(ours.config) == fields
    assert list(ours.config) == list(fields)
    assert len(ours.config) == len(fields)
    for key, value in fields.items():
        assert key in ours.config
        assert ours.config[key] == ours.config.get(key) == getattr(ours.config, key) == value


@pytest.mark.parametrize("key", ["latent_chanels", "embed_dim", "downsample_factor", "get", 0])
def test_config_other_key_is_not_there(key):
    config = make_pair("relu")[1].config
    assert key not in config
    assert config.get(key, "nothing") == "nothing"
    with pytest.raises(KeyError):
        config[key]


@pytest.mark.parametrize("name", ["defaults", "movq", "amused"])
def test_config_passes_between_diffusers_and_ours(name):
    oracle, ours = make_pair(name)
    assert VQModel.from_config(oracle.config).config == ours.config
    assert VQModel(**oracle.config).config == ours.config
    assert own_fields(type(oracle).from_config(dict(ours.config)).config) == dict(ours.config)
    assert own_fields(type(oracle)(**ours.config).config) == dict(ours.config)


def test_from_config_takes_the_contents_of_config_json(tmp_path):
    oracle, ours = make_pair("movq")
    oracle.save_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert "_class_name" in values
    assert VQModel.from_config(values).config == ours.config


def test_from_config_changes_win():
    oracle, ours = make_pair("relu")
    theirs = type(oracle).from_config(oracle.config, act_fn="gelu", num_vq_embeddings=8)
    mine = VQModel.from_config(ours.config, act_fn="gelu", num_vq_embeddings=8)
    assert dict(mine.config) == own_fields(theirs.config)
    assert ours.config.act_fn == "relu"


def test_from_config_unknown_field_raises():
    with pytest.raises(TypeError, match="latent_chanels"):
        VQModel.from_config({"latent_chanels": 4})


def test_constructor_arguments_by_position_are_those_of_diffusers():
    oracle, _ = make_pair("defaults")
    given = (1, 2, ("DownEncoderBlock2D",), ("UpDecoderBlock2D",), (32,), 2, "relu", 4)
    assert dict(VQModel(*given).config) == own_fields(type(oracle)(*given).config)


@torch.no_grad()
def test_outputs_serve_as_those_of_diffusers():
    pixels = make_pixels("relu", 1, 16, 16)
    theirs, mine = ([model.encode(pixels), model(pixels)] for model in make_pair("relu"))
    for names, their, my in zip(
        [["latents"], ["sample", "commit_loss"]], theirs, mine, strict=True
    ):
        for i, name in enumerate(names):
            assert my[name] is my[i] is getattr(my, name)
            torch.testing.assert_close(my[name], their[name], rtol=0, atol=1e-5)
        assert len(my.to_tuple()) == len(my[:]) == len(their.to_tuple()) == len(names)
        assert type(my.to_tuple()) is type(my[:]) is tuple


def test_outputs_other_name_raises_key_error():
    with pytest.raises(KeyError):
        DecoderOutput(torch.zeros(1))["count"]


def test_output_without_loss_gives_tuple_without_it():
    assert len(DecoderOutput(torch.zeros(1)).to_tuple()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_properties_equal_diffusers(dtype):
    oracle, ours = (copy.deepcopy(model).to(dtype) for model in make_pair("relu"))
    for model in (oracle, ours):
        model.encoder.requires_grad_(False)
    assert (ours.device, ours.dtype) == (oracle.device, oracle.dtype)
    assert ours.num_parameters() == oracle.num_parameters()
    assert ours.num_parameters(only_trainable=True) == oracle.num_parameters(only_trainable=True)
    assert ours.num_parameters(only_trainable=True) < ours.num_parameters()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtype_encodes_and_decodes_as_diffusers(dtype):
    atol = 8 * torch.finfo(dtype).eps
    oracle, ours = (copy.deepcopy(model).to(dtype) for model in make_pair("movq"))
    pixels = make_pixels("movq").to(dtype)
    theirs, mine = (model.encode(pixels).latents for model in (oracle, ours))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)
    theirs, mine = (model.decode(theirs, force_not_quantize=True)[0] for model in (oracle, ours))
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_whole_model_runs_in_dtype_and_comes_back(dtype):
    model = copy.deepcopy(make_pair("relu")[1]).to(dtype)
    output = model(make_pixels("relu", 1, 16, 16).to(dtype))
    assert output.sample.dtype == output.commit_loss.dtype == dtype
    assert output.sample.isfinite().all()
    back = model.float()
    assert {weight.dtype for weight in back.parameters()} == {torch.float32}
    if dtype == torch.float64:
        assert_same_model(back, make_pair("relu")[1])


@torch.no_grad()
def test_channels_last_weights_give_pixels_of_diffusers(tmp_path):
    oracle, ours = (
        copy.deepcopy(model).to(memory_format=torch.channels_last) for model in make_pair("movq")
    )
    pixels = make_pixels("movq").contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours(pixels).sample, oracle(pixels).sample, rtol=0, atol=1e-5)
    ours.save_pretrained(tmp_path)
    for key, tensor in VQModel.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(tensor, oracle.state_dict()[key])


def test_meta_model_becomes_real():
    ours = make_pair("relu")[1]
    with torch.device("meta"):
        model = VQModel.from_config(ours.config)
    assert model.device.type == "meta"
    model = model.to_empty(device="cpu").eval()
    model.load_state_dict(ours.state_dict())
    assert_same_model(model, ours)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_pickled_model_is_the_same(protocol, is_checkpointing):
    model = copy.deepcopy(make_pair("relu")[1])
    if is_checkpointing:
        model.enable_gradient_checkpointing()
    back = pickle.loads(pickle.dumps(model, protocol))
    assert back.is_gradient_checkpointing == is_checkpointing
    assert_same_model(back, model)


def test_saved_state_dict_loads_into_a_new_model():
    ours = make_pair("relu")[1]
    file = BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    model = VQModel.from_config(ours.config).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    assert_same_model(model, ours)


def test_deepcopy_shares_no_weight():
    ours = make_pair("relu")[1]
    before = copy.deepcopy(ours.state_dict())
    twin = copy.deepcopy(ours)
    assert_same_model(twin, ours)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.add_(1)
    assert all(torch.equal(before[key], tensor) for key, tensor in ours.state_dict().items())


@torch.no_grad()
def test_ema_of_diffusers_averages_as_for_its_own_model(tmp_path):
    from diffusers.training_utils import EMAModel

    averages = []
    for model in (copy.deepcopy(model) for model in make_pair("relu")):
        ema = EMAModel(
            model.parameters(), decay=0.5, model_cls=type(model), model_config=model.config
        )
        for weight in model.parameters():
            weight.mul_(2)
        ema.step(model.parameters())
        ema.copy_to(model.parameters())
        averages.append(dict(model.state_dict()))
    model.save_pretrained(tmp_path)
    averages.append(dict(VQModel.from_pretrained(tmp_path).state_dict()))
    for key, average in averages[0].items():
        assert torch.equal(averages[1][key], average)
        assert torch.equal(averages[2][key], average)


@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # with two threads; of speed alone
def test_distributed_data_parallel_gives_same_gradients(tmp_path):
    dist = torch.distributed
    model = copy.deepcopy(make_pair("relu")[1])
    pixels = make_pixels("relu", 2, 16, 16)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        for each in (model, parallel):
            output = each(pixels)
            (output.sample.square().mean() + output.commit_loss).backward()
    finally:
        dist.destroy_process_group()
    for weight, other in zip(model.parameters(), parallel.module.parameters(), strict=True):
        torch.testing.assert_close(other.grad, weight.grad, rtol=0, atol=1e-6)


def make_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        addition_embed_type="image",
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    ).eval()


def test_kandinsky_pipeline_of_diffusers_draws_the_same_image():
    diffusers = pytest.importorskip("diffusers")
    # The package lists it only where transformers is installed, which this file does not need.
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    unet, images = make_unet(), []
    for model in make_pair("movq"):
        pipeline = KandinskyV22Pipeline(unet, diffusers.DDIMScheduler(), movq=model)
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            torch.ones(1, 16),
            torch.zeros(1, 16),
            height=64,
            width=64,
            num_inference_steps=2,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        )
        images.append(drawn.images)
    assert images[0].std() > 0.05
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-5)


def test_page_examples_run(tmp_path, monkeypatch):
    shutil.copytree(CHECKPOINT, tmp_path / "vqgan")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    scope = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
