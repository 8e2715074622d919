"""Every family against its published arithmetic, from files as they are published."""

import copy
import json
import re

import diffusers
import pytest
import torch

from tests.tokenizers.published import chameleon, ibq, llamagen, magvit, maskgit, movqgan
from vqpipe.codec.weights import Weights
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.tokenizers.ibq import add_lengths
from vqpipe.vqgan.nearest import find_nearest

FORMATS = {
    "llamagen": (llamagen, llamagen.write, {}),
    "llamagen, janus": (llamagen, llamagen.write_janus, {}),
    "janus": (llamagen, llamagen.write_transformers, {}),
    "ibq": (ibq, ibq.write, {}),
    "ibq, by name": (ibq, ibq.write, {"family": "ibq", "without": "*.yaml"}),
    "ibq, emu": (ibq, ibq.write_emu, {}),
    "maskgit": (maskgit, maskgit.write, {}),
    "magvit": (magvit, magvit.write, {}),
    "magvit, safetensors": (magvit, magvit.write_safetensors, {}),
    "taming, chameleon's": (chameleon, chameleon.write, {}),
    "chameleon": (chameleon, chameleon.write, {"family": "chameleon"}),
    "chameleon, transformers": (chameleon, chameleon.write_transformers, {}),
    "movqgan": (movqgan, movqgan.write, {}),
}
"""What is written how, and what has to be said of it; the family is named up to the comma."""

every_format = pytest.mark.parametrize("name", FORMATS)


def load(name, folder, make="make_random", **changes):
    """Returns the published network, and what is read of its files."""
    family, write, options = FORMATS[name]
    net, options = getattr(family, make)(), options | changes
    folder.mkdir(parents=True, exist_ok=True)
    model = write(folder, net)
    for path in folder.glob(options.pop("without", "no such file")):
        path.unlink()
    return net, Weights.load(model, **options)


@every_format
@torch.no_grad()
def test_family_gives_the_published_codes_and_pixels(name, tmp_path):
    net, weights = load(name, tmp_path)
    assert weights.provenance["family"] == name.partition(",")[0]
    ours = weights.build(torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    codes = net.encode(pixels)
    assert len(codes.unique()) >= 8
    found = ours.codes_of(ours.latents_of(pixels.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(found, codes)
    torch.testing.assert_close(ours.pixels_of(codes), net.decode(codes), rtol=0, atol=1e-5)


@pytest.mark.fault(28)
@every_format
def test_family_lacking_or_having_a_tensor_too_many_is_an_error(name, tmp_path, monkeypatch):
    state = dict(FORMATS[name][0].make_random().state_dict())
    ends = ("conv2.weight", "conv_in.weight", "norm2.bias")
    some = [each for each in state if each.endswith(ends)]
    for missing in some[:: max(1, len(some) // 5)]:
        rest = {each: tensor for each, tensor in state.items() if each != missing}
        with pytest.raises(
            CheckpointError, match=r"missing|not of family|no tokenizer|averages of"
        ):
            load_state(name, tmp_path / missing, rest, monkeypatch)
    for start in ("encoder.", "decoder.", "quantize."):
        extra = state | {f"{start}strange.weight": torch.ones(3)}
        with pytest.raises(CheckpointError, match=rf"extra tensor .*{start}strange\.weight"):
            load_state(name, tmp_path / start, extra, monkeypatch)


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ["llamagen", "ibq", "maskgit", "magvit", "chameleon", "movqgan"])
def test_family_with_a_tensor_of_another_rank_is_an_error_that_names_it(
    name, tmp_path, monkeypatch
):
    state = dict(FORMATS[name][0].make_random().state_dict())
    some = [each for each in state if each.endswith(("conv_in.weight", "conv_out.weight"))]
    some += [each for each in state if "embedding" in each and name != "magvit"]
    for place, misshapen in enumerate(some):
        for rank, tensor in enumerate((torch.tensor(1.0), state[misshapen].flatten())):
            other = state | {misshapen: tensor}
            folder = tmp_path / f"{place}{rank}"
            with pytest.raises(CheckpointError, match=re.escape(misshapen)):
                load_state(name, folder, other, monkeypatch)


@pytest.mark.fault(28)
@pytest.mark.parametrize("biases", [("nin_shortcut",), ("nin_shortcut", "conv2")])
def test_maskgit_with_a_bias_that_it_never_has_is_an_error(biases, tmp_path, monkeypatch):
    state = dict(maskgit.make_random().state_dict())
    at = next(each for each in state if each.endswith(".nin_shortcut.weight"))
    for bias in biases:
        name = at.replace("nin_shortcut.weight", f"{bias}.bias")
        state[name] = torch.ones(len(state[at]))
    with pytest.raises(CheckpointError, match=r"extra tensor .*nin_shortcut\.bias"):
        load_state("maskgit", tmp_path / "biased", state, monkeypatch)


@pytest.mark.fault(28)
def test_names_that_are_nearly_a_family_say_of_which_and_what_is_lacking(tmp_path):
    net = chameleon.make_random().state_dict()
    gumbel = {
        name.replace("quantize.embedding", "quantize.embed"): each for name, each in net.items()
    }
    torch.save(gumbel, tmp_path / "gumbel.ckpt")
    with pytest.raises(CheckpointError, match="it is a GumbelVQ of taming-transformers"):
        Weights.load(str(tmp_path / "gumbel.ckpt"))
    torch.save({name: each for name, each in net.items() if "mid" not in name}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"the nearest is taming, of which it lacks encoder"):
        Weights.load(str(tmp_path / "b.ckpt"))
    movq = movqgan.write(tmp_path, movqgan.make_random())
    for path in tmp_path.rglob("*.yaml"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"it is of movqgan, and it also has .*conv_y"):
        Weights.load(movq, family="taming")


@pytest.mark.fault(28)
def test_averages_of_a_part_are_no_averages_of_the_model(tmp_path):
    net = movqgan.make_random()
    model = movqgan.write(tmp_path, net, has_averages=True)
    file = torch.load(model, weights_only=True)
    state = file.get("state_dict", file)
    for name in [each for each in state if each.startswith("ema_decoder.")]:
        del state[name]
    torch.save(file, model)
    with pytest.raises(CheckpointError, match=r"these are running averages.*--weights raw"):
        Weights.load(model, weights="ema")


def load_state(name, folder, state, monkeypatch):
    """Reads a checkpoint that has other tensors than its network, which knows nothing of it."""
    family, write, options = FORMATS[name]
    net, options = family.make_random(), dict(options)
    if name in {"ibq", "ibq, by name"}:
        options["weights"] = "raw"
    folder.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(type(net), "state_dict", lambda *_, **__: dict(state))
        model = write(folder, net)
    for path in folder.glob(options.pop("without", "no such file")):
        path.unlink()
    return Weights.load(model, **options)


def codes_of(weights, pixels):
    tokenizer = weights.build(torch.device("cpu"), torch.float32)
    return tokenizer.codes_of(tokenizer.latents_of(pixels))


@pytest.fixture
def pixels():
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 64) * 2 - 1


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ["ibq", "taming, chameleon's"])
def test_family_that_does_not_show_is_asked_for_and_a_wrong_one_gives_other_codes(
    name, tmp_path, pixels
):
    family, write, _ = FORMATS[name]
    model = write(tmp_path, family.make_random())
    for path in tmp_path.rglob("*.yaml"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"--family taming: .*--family ibq: ") as caught:
        Weights.load(model)
    assert "--model-config" in str(caught.value)
    which = "ema" if name == "ibq" else None
    found = [Weights.load(model, family=each, weights=which) for each in ("taming", "ibq")]
    first, second = (codes_of(each, pixels) for each in found)
    assert (first != second).double().mean() > 0.2


@pytest.mark.fault(28)
def test_family_that_the_config_or_the_names_rule_out_is_refused(tmp_path):
    model = ibq.write(tmp_path / "ibq", ibq.make_random())
    with pytest.raises(ConfigError, match=r"--family taming does not go with .*yaml.*ibq"):
        Weights.load(model, family="taming")
    model = llamagen.write(tmp_path / "llamagen", llamagen.make_random())
    with pytest.raises(CheckpointError, match=r"not of family maskgit.*it is of llamagen"):
        Weights.load(model, family="maskgit")
    (tmp_path / "magvit").mkdir()
    folder = magvit.write(tmp_path / "magvit", magvit.make_random())
    (tmp_path / "magvit" / "config.json").write_text(json.dumps({"_class_name": "MaskGitVQGAN"}))
    with pytest.raises(CheckpointError, match=r"not of family maskgit, as .*config\.json says"):
        Weights.load(folder)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [("ibq", {}, "ema"), ("movqgan", {"has_averages": True}, "raw")],
)
def test_family_takes_the_weights_that_its_own_programs_take_and_says_so(
    name, options, rule, tmp_path, pixels
):
    family, write, _ = FORMATS[name]
    net = family.make_random()
    model = write(tmp_path, net, **options)
    found = {which: Weights.load(model, weights=which) for which in (None, "ema", "raw")}
    assert torch.equal(codes_of(found[None], pixels), net.encode(pixels))
    assert found[None].sha256() == found[rule].sha256()
    assert found["ema"].sha256() != found["raw"].sha256()
    assert found[None].provenance["weights"] == rule
    assert any(each.startswith("weights: ") for each in found[None].provenance["did"])


@pytest.mark.fault(28)
def test_family_without_a_rule_asks_which_weights_are_meant(tmp_path, pixels):
    raw, ema = llamagen.make_random(), ibq.shake(llamagen.make_random())
    model = llamagen.write(tmp_path, raw, ema)
    with pytest.raises(ConfigError, match="--weights ema or --weights raw"):
        Weights.load(model)
    for which, net in (("raw", raw), ("ema", ema)):
        assert torch.equal(codes_of(Weights.load(model, weights=which), pixels), net.encode(pixels))


def test_ibq_without_averages_is_read_and_cannot_give_them(tmp_path, pixels):
    net = ibq.make_random()
    model = ibq.write(tmp_path, net, has_averages=False)
    assert torch.equal(codes_of(Weights.load(model), pixels), net.encode(pixels))
    with pytest.raises(ConfigError, match="no running averages"):
        Weights.load(model, weights="ema")


def test_ibq_entries_get_one_length_to_the_last_bits():
    torch.manual_seed(0)
    entries = torch.randn(4096, 64) * torch.randn(4096, 1).exp()
    wider = add_lengths(entries)
    assert torch.equal(wider[:, :64], entries)
    squares = wider.double().square().sum(1)
    assert (squares.max() - squares.min()) < 2.0**-43 * squares.max()
    z = torch.randn(2048, 64)
    exact = (z.double() @ entries.double().T).argmax(1)
    assert torch.equal(find_nearest(torch.nn.functional.pad(z, (0, 2)), wider), exact)


def test_llamagen_entries_in_half_precision_get_length_1_in_float32(tmp_path):
    net = copy.deepcopy(llamagen.make_random()).bfloat16()
    state = Weights.load(llamagen.write(tmp_path, net)).parsed.state
    codebook = state["quantize.embedding.weight"]
    assert codebook.dtype == torch.float32
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(len(codebook)), rtol=0, atol=1e-6)
    assert state["encoder.conv_in.weight"].dtype == torch.bfloat16


@pytest.mark.fault(28)
def test_magvit_whose_table_of_signs_is_another_is_an_error(tmp_path, monkeypatch):
    state = dict(magvit.make_random().state_dict())
    state["quantize.embedding"] = state["quantize.embedding"].flip(0)
    with pytest.raises(CheckpointError, match=r"quantize\.embedding is not the table of all signs"):
        load_state("magvit", tmp_path / "flipped", state, monkeypatch)


@pytest.mark.fault(28)
def test_chameleon_without_its_decoder_says_where_there_is_one(tmp_path):
    net = chameleon.make_random()
    folder = chameleon.write_transformers(tmp_path, net, has_decoder=False)
    with pytest.raises(CheckpointError, match=r"without its decoder.*tokenizer/vqgan\.ckpt"):
        Weights.load(folder)


def test_chameleon_in_shards_reads_those_that_hold_it(tmp_path, pixels):
    net = chameleon.make_random()
    folder = chameleon.write_transformers(tmp_path, net, shards=3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {f"model.layers.{i}.weight": "language.safetensors" for i in range(3)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(codes_of(Weights.load(folder), pixels), net.encode(pixels))


def test_what_was_done_and_left_out_is_said(tmp_path):
    folder = llamagen.write_janus(tmp_path, llamagen.make_random())
    (normalised, left) = Weights.load(folder).provenance["did"]
    assert "length 1" in normalised
    assert re.fullmatch(r"left out: 7 other tensors, of aligner, .*language_model.*", left)


@pytest.mark.parametrize("name", ["llamagen", "ibq", "maskgit", "chameleon", "movqgan", "magvit"])
@torch.no_grad()
def test_converted_checkpoint_is_a_diffusers_model_and_read_again_as_the_same(name, tmp_path):
    net, weights = load(name, tmp_path / "published")
    (tmp_path / "vqgan").mkdir()
    for file, data in weights.files.items():
        (tmp_path / "vqgan" / file).write_bytes(data)
    again = Weights.load(str(tmp_path / "vqgan"))
    assert (again.files, again.provenance) == (weights.files, weights.provenance)
    if name == "magvit":  # a decoder of its own is what diffusers lacks
        return
    model = diffusers.VQModel.from_pretrained(tmp_path / "vqgan", low_cpu_mem_usage=False).eval()
    torch.manual_seed(2)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = model.double().encode(pixels.double()).latents
    codes = model.quantize(latents)[2][2].view(net.encode(pixels).shape)
    assert torch.equal(codes, net.encode(pixels))
