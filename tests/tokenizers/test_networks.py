"""Networks that are no VQModel, against their published arithmetic, from files as published."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from tests.tokenizers.published import rqvae, titok, var
from vqpipe import metrics
from vqpipe.codec import doctor
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.errors import CheckpointError
from vqpipe.vector_layout import VectorLayout

NETS = {
    "var": (var.make_random, var.write, 256),
    "var, 512": (lambda: var.make_random(512), var.write, 512),
    "rqvae": (rqvae.make_random, rqvae.write, 64),
    "rqvae, of faces": (lambda: rqvae.make_random(16), rqvae.write, 32),
    "titok, legacy": (lambda: titok.make_random(True), titok.write, 64),
    "titok, later": (lambda: titok.make_random(False), titok.write, 64),
    "titok, legacy .bin": (lambda: titok.make_random(True), titok.write_bin, 64),
    "titok, later .bin": (lambda: titok.make_random(False), titok.write_bin, 64),
}
FAITHFUL = {
    "var": (var.make_faithful, var.write, 256, "signed"),
    "rqvae": (rqvae.make_faithful, rqvae.write, 128, "signed"),
    "titok, legacy": (lambda: titok.make_faithful(True), titok.write, 64, "unit"),
    "titok, later": (lambda: titok.make_faithful(False), titok.write, 64, "unit"),
}
LARGE = {"var, 512"}
every_net = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] * (name in LARGE)) for name in NETS]
)


@every_net
@torch.no_grad()
def test_network_gives_the_published_codes_and_pixels(name, tmp_path):
    make, write, side = NETS[name]
    net, weights = make(), Weights.load(write(tmp_path, make()))
    assert weights.provenance["family"] == name.partition(",")[0]
    ours = weights.build(torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, side, side) * 2 - 1
    codes = net.encode(pixels)
    assert len(codes.unique()) >= 8
    latents = ours.latents_of(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.equal(ours.codes_of(latents), codes)
    torch.testing.assert_close(ours.pixels_of(codes), net.decode(codes), rtol=0, atol=3e-4)
    layout = weights.description.layout_of(side, side)
    assert layout.shape == codes.shape[1:]
    assert latents.shape[1:] == weights.description.latent_shape_of(layout)
    assert weights.description.size_of(layout) == (side, side)


@every_net
def test_network_gives_vectors_of_the_shape_of_its_latents_that_decode_as_their_codes(
    name, tmp_path
):
    make, write, side = NETS[name]
    weights = Weights.load(write(tmp_path, make()))
    codec = Codec(weights, CodecConfig())
    images = np.random.default_rng(2).integers(0, 256, (2, side, side, 3), np.uint8)
    shape = weights.description.latent_shape_of(weights.description.layout_of(side, side))
    wanted = [VectorLayout(each, shape, "float32") for each in ("latents", "quantized")]
    codes, _, latents, quantized = codec.encode_vectors(images, wanted)
    assert latents.shape == quantized.shape == (2, *shape)
    assert np.array_equal(codes, codec.encode(images)[0])
    pixels = codec.decode(codes)[0]
    assert np.array_equal(codec.decode_quantized(quantized)[0], pixels)
    assert np.array_equal(codec.decode_latents(latents)[0], pixels)


@every_net
@torch.no_grad()
def test_network_in_float64_is_the_published_one(name, tmp_path, monkeypatch):
    make, write, side = NETS[name]
    weights = Weights.load(write(tmp_path, make()))
    built = weights.build(torch.device("cpu"), torch.float32)
    ours = built.network.double()
    theirs = copy.deepcopy(make()).double()
    torch.manual_seed(1)
    pixels = torch.rand(1, 3, side, side, dtype=torch.float64) * 2 - 1
    codes = theirs.encode(pixels)
    tokenizer = dataclasses.replace(built, network=ours, dtype=torch.float64)
    assert torch.equal(tokenizer.codes_of(ours.encode(pixels)), codes)
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)
    found = tokenizer.pixels_of(codes)
    # Where entries are brought to length 1, ours are rounded to float32 then.
    atol = 1e-7 if "normalises" in vars(theirs) and theirs.normalises else 1e-10
    torch.testing.assert_close(found, theirs.decode(codes), rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["var", "rqvae", "titok, legacy", "titok, later"])
def test_converted_network_is_read_again_as_the_same(name, tmp_path):
    make, write, _ = NETS[name]
    (tmp_path / "published").mkdir()
    weights = Weights.load(write(tmp_path / "published", make()))
    (tmp_path / "converted").mkdir()
    for file, data in weights.files.items():
        (tmp_path / "converted" / file).write_bytes(data)
    again = Weights.load(str(tmp_path / "converted"))
    assert (again.files, again.provenance) == (weights.files, weights.provenance)
    assert again.description == weights.description
    assert again.codebook_sha256() == weights.codebook_sha256()


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ["var", "rqvae", "titok, legacy", "titok, later"])
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_network_with_a_tensor_too_few_too_many_or_of_another_shape_is_an_error(
    name, change, tmp_path, monkeypatch
):
    make, write, _ = NETS[name]
    net = make()
    for place in ("encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.mask_token"):
        state = dict(net.state_dict())
        if place not in state:
            continue
        tensor = state.pop(place)
        if change != "missing":
            state[place] = tensor if change == "extra" else tensor[:-1]
        if change == "extra":
            state[f"{place}2"] = tensor.clone()
        with monkeypatch.context() as patched:
            patched.setattr(type(net), "state_dict", lambda *_, state=state, **__: state)
            model = write(tmp_path, net)
        with pytest.raises(CheckpointError, match=place.rpartition(".")[0].replace(".", r"\.")):
            Weights.load(model)


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_l2_norm", None),
        ("quantize_mode", "vae"),
        ("num_latent_tokens", 32),
        ("codebook_size", 4096),
        ("is_legacy", False),
        ("finetune_decoder", False),
        ("vit_dec_patch_size", 8),
    ],
)
def test_titok_config_that_is_not_of_its_weights_is_an_error(field, value, tmp_path):
    folder = titok.write(tmp_path, titok.make_random(True))
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["vq_model"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=field):
        Weights.load(folder)


@pytest.mark.fault(28)
def test_titok_of_its_first_stage_or_without_its_config_says_what_is_missing(tmp_path, monkeypatch):
    net = titok.make_random(True)
    state = {n: t for n, t in net.state_dict().items() if not n.startswith("pixel_")}
    with monkeypatch.context() as patched:
        patched.setattr(type(net), "state_dict", lambda *_, **__: state)
        titok.write(tmp_path, net)
    with pytest.raises(CheckpointError, match="first stage"):
        Weights.load(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="--model-config"):
        Weights.load(str(tmp_path))


@pytest.mark.parametrize("name", FAITHFUL)
def test_codec_and_doctor_take_a_network_that_is_no_grid(name, tmp_path):
    make, write, side, pixel_range = FAITHFUL[name]
    weights = Weights.load(write(tmp_path, make()))
    codec = Codec(weights, CodecConfig(pixel_range=pixel_range))
    images = doctor.load_probes(side)
    codes, finite = codec.encode(images)
    assert finite.all()
    layout = weights.description.layout_of(side, side)
    assert codes.shape == (len(images), *layout.shape)
    back, finite = codec.decode(codes)
    assert finite.all()
    assert metrics.mean_psnr(images, back) > 17
    latents = np.zeros((1, *weights.description.latent_shape_of(layout)), np.float32)
    assert codec.decode_latents(latents)[0].shape == (1, side, side, 3)
    settled, findings = doctor.check_start(weights, "float32", "auto")
    assert settled == pixel_range
    assert findings["side_px"] == side


@torch.no_grad()
def test_rqvae_with_a_codebook_for_each_code_of_a_place_is_read(tmp_path):
    net = copy.deepcopy(rqvae.make_random())
    books = net.quantizer.codebooks
    for i in range(1, len(books)):
        books[i] = copy.deepcopy(books[0])
        books[i].weight[:-1] = books[0].weight[:-1].roll(i, 0) * (1 - i / 8)
    weights = Weights.load(rqvae.write(tmp_path, net))
    assert weights.parsed.config.codebooks == len(books)
    torch.manual_seed(3)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    ours = weights.build(torch.device("cpu"), torch.float32)
    codes = net.encode(pixels)
    assert torch.equal(ours.codes_of(ours.latents_of(pixels)), codes)
    torch.testing.assert_close(ours.pixels_of(codes), net.decode(codes), rtol=0, atol=3e-4)


@pytest.mark.fault(28)
def test_rqvae_that_folds_latents_into_a_place_is_an_error(tmp_path):
    model = rqvae.write(tmp_path, rqvae.make_random())
    path = tmp_path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["arch"]["hparams"]["code_shape"][0] //= 2
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match="code_shape"):
        Weights.load(model)


@pytest.mark.fault(28)
@pytest.mark.parametrize("named", ["codebooks.1", "depth", "size"])
def test_rqvae_whose_codebooks_are_not_those_of_its_config_is_an_error(named, tmp_path):
    model = rqvae.write(tmp_path, rqvae.make_random())
    file = torch.load(model, weights_only=True)
    path = tmp_path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    if named == "codebooks.1":
        del file["state_dict"]["quantizer.codebooks.1.weight"]
        torch.save(file, model)
    elif named == "depth":
        config["arch"]["hparams"]["code_shape"][2] += 1
    else:
        config["arch"]["hparams"]["n_embed"] += 1
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=r"counted from 0|code_shape's last|n_embed is"):
        Weights.load(model)


@pytest.mark.parametrize("name", ["var", "rqvae", "titok, legacy"])
def test_network_in_half_precision_keeps_what_its_codes_stand_for(name, tmp_path):
    make, write, _ = NETS[name]
    weights = Weights.load(write(tmp_path, make()))
    network = weights.build(torch.device("cpu"), torch.bfloat16).network
    for each, tensor in network.state_dict().items():
        is_exact = each in weights.parsed.codebook
        assert tensor.dtype == (torch.float32 if is_exact else torch.bfloat16), each
        if is_exact:
            assert torch.equal(tensor, weights.parsed.codebook[each].float())
    assert not any(each.requires_grad for each in network.parameters())


def test_rqvae_says_whether_its_codes_share_a_codebook(tmp_path):
    weights = Weights.load(rqvae.write(tmp_path, rqvae.make_random()))
    layout = weights.description.layout_of(64, 64)
    assert layout.codebooks == (rqvae.SIZE,)
    assert layout.shapes[0][2] == rqvae.DEPTH > 1
    apart = dataclasses.replace(weights.description, codebooks=rqvae.DEPTH)
    assert apart.layout_of(64, 64).codebooks == (rqvae.SIZE,) * rqvae.DEPTH
    assert f"{rqvae.DEPTH} codes for" in weights.description.describe_codes()


@pytest.mark.fault(28)
@pytest.mark.parametrize("key", ["patch_nums", "v_patch_nums", None])
def test_var_with_other_scales_is_an_error(key, tmp_path):
    model = var.write(tmp_path, var.make_random())
    scales = [1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64]
    if key:
        (tmp_path / "config.json").write_text(json.dumps({key: scales}))
    else:
        state = torch.load(model, weights_only=True)
        state["quantize.ema_vocab_hit_SV"] = torch.zeros(14, var.SIZE)
        torch.save(state, model)
    with pytest.raises(CheckpointError, match=r"has scales .*; those of VAR's own"):
        Weights.load(model)


CONVERTED = {
    "titok, legacy": ("patch", "tokens", "side", "encoder_width", "pixels"),
    "rqvae": ("depth", "codebooks"),
    "var": ("phis",),
}


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("name", "field"), [(name, each) for name, some in CONVERTED.items() for each in some]
)
@pytest.mark.parametrize("value", [0, "16", 2.5, [1]])
def test_converted_config_with_a_number_that_cannot_be_is_an_error(name, field, value, tmp_path):
    make, write, _ = NETS[name]
    weights = Weights.load(write(tmp_path, make()))
    for path in tmp_path.iterdir():
        path.unlink()
    for file, data in weights.files.items():
        (tmp_path / file).write_bytes(data)
    config = json.loads(weights.files["config.json"])
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(CheckpointError, match=rf"{field} is "):
        Weights.load(str(tmp_path)).parsed  # noqa: B018
