import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import shell
from tests.vqgan import compvis
from tests.vqgan.compvis import make_vqgan
from vqpipe import storage
from vqpipe.codec.weights import Weights
from vqpipe.commands import cli
from vqpipe.vqgan import VQModel

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@pytest.fixture
def convert(capfd):
    """Runs `vqpipe convert` in this process; returns what it printed on both streams."""

    def run(*arguments, expect=0):
        code = cli.main(["convert", *map(str, arguments)])
        printed = "".join(capfd.readouterr())
        assert code == expect, printed
        return printed

    return run


@pytest.fixture
def taming(tmp_path):
    return compvis.write_taming(tmp_path / "logs")


@torch.no_grad()
def test_convert_compvis_checkpoint_gives_equal_codes_in_diffusers(taming, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    output = shell.run("convert", taming, tmp_path / "out")
    assert f"{sum(p.numel() for p in make_vqgan('taming').parameters()):,}" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [CONFIG, WEIGHTS]
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents, codes = make_vqgan("taming").encode(pixels)
    theirs = diffusers.VQModel.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False).eval()
    found = theirs.encode(pixels).latents
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-5)
    assert torch.equal(theirs.quantize(found)[2][2].view(codes.shape), codes)
    assert torch.equal(VQModel.from_pretrained(tmp_path / "out").encode_to_codes(pixels), codes)


@pytest.mark.s3
def test_convert_from_s3_to_s3_is_the_same_checkpoint(bucket, convert):
    for name in (CONFIG, WEIGHTS):
        storage.publish(f"{bucket}/a/vqvae/{name}", (shell.CHECKPOINT / name).read_bytes())
    convert(f"{bucket}/a", f"{bucket}/b", "--subfolder", "vqvae")
    expected = Weights.load(str(shell.CHECKPOINT))
    found = Weights.load(f"{bucket}/b")
    assert (found.description, found.sha256()) == (expected.description, expected.sha256())


def test_convert_twice_is_fine_and_another_checkpoint_is_not_overwritten(tmp_path, convert):
    convert(shell.CHECKPOINT, tmp_path)
    convert(shell.CHECKPOINT, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    other = tmp_path / "other"
    other.mkdir()
    (other / CONFIG).write_bytes((tmp_path / CONFIG).read_bytes())
    save_file({name: tensor.half() for name, tensor in state.items()}, other / WEIGHTS)
    before = (tmp_path / WEIGHTS).read_bytes()
    output = convert(other, tmp_path, expect=4)
    assert WEIGHTS in output
    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_convert_beside_another_index_is_refused(tmp_path, convert):
    (tmp_path / f"{WEIGHTS}.index.json").write_text("{}")  # diffusers would read it instead
    output = convert(shell.CHECKPOINT, tmp_path, expect=4)
    assert "index.json" in output
    assert len(list(tmp_path.iterdir())) == 1


def remove_tensor(state, _):
    del state["quant_conv.weight"]


def put_nan(state, _):
    state["quant_conv.weight"][0, 0, 0, 0] = torch.nan


def add_unknown_field(_, config):
    config["quant_conv.weight"] = 3


@pytest.mark.parametrize("damage", [remove_tensor, put_nan, add_unknown_field])
def test_convert_bad_checkpoint_ends_with_4_and_names_it(damage, tmp_path, convert):
    state = load_file(shell.CHECKPOINT / WEIGHTS)
    config = json.loads((shell.CHECKPOINT / CONFIG).read_text())
    damage(state, config)
    save_file(state, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    output = convert(tmp_path, tmp_path / "out", expect=4)
    assert "quant_conv.weight" in output
    assert str(tmp_path) in output
    assert not (tmp_path / "out").exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_convert_checkpoint_with_code_ends_with_4_and_does_not_run_it(taming, tmp_path):
    content = torch.load(taming, weights_only=True)
    torch.save(content | {"callbacks": Trap(tmp_path / "trap")}, taming)
    output = shell.run("convert", taming, tmp_path / "out", expect=4)
    assert str(taming) in output
    assert "builtins.getattr" in output
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("model", ["nowhere/", "s3s://bucket/x", "nowhere/last.ckpt"])
def test_convert_model_that_is_not_there_ends_with_4(model, tmp_path, convert):
    output = convert(model, tmp_path / "out", expect=4)
    assert model.rstrip("/").partition(":")[0] in output


def test_encode_and_convert_take_all_model_options():
    options = ["--subfolder", "vqvae", "--revision", "v1", "--variant", "fp16"]
    config = ["--model-config", "c.yaml"]
    encode = cli.parse(
        ["encode", "--source", "a", "--sink", "b", "--model", "m", *options, *config]
    )
    for job in (encode, cli.parse(["convert", "m", "out", *options, *config])):
        assert (job.model, job.subfolder, job.revision) == ("m", "vqvae", "v1")
        assert (job.variant, job.model_config) == ("fp16", "c.yaml")
