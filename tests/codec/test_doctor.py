import copy
import shutil

import pytest
import torch

from tests.codec.models import DEMO, make_unit, make_untrained
from tests.tokenizers.published import chameleon, ibq, titok
from vqpipe.codec.doctor import (
    RangeProbe,
    check_start,
    decide_range,
    diagnose,
    load_probes,
    probe_range,
    settle_range,
)
from vqpipe.codec.weights import Weights
from vqpipe.errors import ConfigError
from vqpipe.vqgan import VQModel
from vqpipe.vqgan.checkpoint import write_state


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of models by what they were trained on."""
    root = tmp_path_factory.mktemp("ranges")
    make_unit().save_pretrained(root / "unit")
    make_untrained().save_pretrained(root / "untrained")
    return {"signed": DEMO, "unit": root / "unit", "untrained": root / "untrained"}


def load(folder):
    return Weights.load(str(folder))


def test_load_probes_are_different_photos_of_the_size_asked_for():
    probes = load_probes(96)
    assert probes.shape == (4, 96, 96, 3)
    assert len({probe.tobytes() for probe in probes}) == 4
    assert all(probe.std() > 20 for probe in probes)


@pytest.mark.parametrize("trained_on", ["signed", "unit"])
@pytest.mark.parametrize("side", [64, 128])
def test_probe_range_finds_what_the_model_was_trained_on(checkpoints, trained_on, side):
    probe = probe_range(load(checkpoints[trained_on]), load_probes(side))
    assert probe.verdict == trained_on
    assert probe.psnr_db[trained_on] == max(probe.psnr_db.values()) > 20


@pytest.mark.parametrize("trained_on", ["signed", "unit"])
def test_check_start_auto_settles_the_range_and_says_why(checkpoints, trained_on):
    pixel_range, findings = check_start(load(checkpoints[trained_on]), "float32", "auto")
    assert pixel_range == findings["verdict"] == trained_on
    assert findings["psnr_db"].keys() == {"signed", "unit"}


@pytest.mark.parametrize(("trained_on", "asked"), [("signed", "unit"), ("unit", "signed")])
def test_check_start_wrong_range_is_config_error_that_names_the_right_one(
    checkpoints, trained_on, asked
):
    with pytest.raises(ConfigError, match=f"--pixel-range {asked} is wrong.*use {trained_on}"):
        check_start(load(checkpoints[trained_on]), "float32", asked)


def seen(signed, unit, likeness=0.95):
    return RangeProbe({"signed": signed, "unit": unit}, {"signed": likeness, "unit": likeness})


def test_settle_range_that_does_not_show_asks_for_the_flag_and_takes_it():
    with pytest.raises(ConfigError, match=r"does not show.*--pixel-range signed"):
        settle_range("auto", seen(20.0, 24.5))
    assert [settle_range(asked, seen(20.0, 24.5)) for asked in ("signed", "unit")] == [
        "signed",
        "unit",
    ]


def test_settle_range_that_does_not_show_is_that_of_the_family():
    assert settle_range("auto", seen(20.0, 24.5), "unit") == "unit"
    assert settle_range("auto", seen(14.0, 13.0), "signed") == "signed"
    with pytest.raises(ConfigError, match=r"range signed.*--pixel-range unit"):
        settle_range("auto", seen(15.0, 25.0), "signed")
    assert settle_range("unit", seen(15.0, 25.0), "signed") == "unit"
    with pytest.raises(ConfigError, match=r"unit is wrong.* trained on range signed.* use signed"):
        settle_range("unit", seen(14.0, 18.5), "signed")


@pytest.mark.fault(28)
@pytest.mark.parametrize("asked", ["auto", "signed", "unit"])
def test_check_start_model_that_has_learnt_nothing_is_refused_whatever_range(checkpoints, asked):
    with pytest.raises(ConfigError, match=r"photos do not come back.*--skip-doctor"):
        check_start(load(checkpoints["untrained"]), "float32", asked)


def as_another(module, write, folder, **options):
    """Returns a checkpoint that is taken for one of another family, which its names allow."""
    model = write(folder, module.make_faithful())
    for path in folder.rglob("*.yaml"):
        path.unlink()
    return Weights.load(model, **options)


def averages_of_nothing(folder):
    """IBQ's whose raw weights were lost in training: only the averages give pictures."""
    return Weights.load(ibq.write(folder, ibq.make_faithful()), weights="raw")


def codebook_of_another(folder):
    """Entries whose channels lie in another order than the network's."""
    state = Weights.load(chameleon.write(folder, chameleon.make_faithful())).parsed
    book = state.state["quantize.embedding.weight"]
    changed = {**state.state, "quantize.embedding.weight": book.flip(1)}
    return Weights(write_state(state.config, changed), "swapped")


def pixel_codebook_in_another_order(folder):
    """TiTok's second codebook, whose rows only its decoder numbers."""
    net = copy.deepcopy(titok.make_faithful(True))
    book = net.pixel_quantize.embedding.weight
    with torch.no_grad():
        book.copy_(book.roll(1, 0))
    return Weights.load(titok.write(folder, net))


WRONG = {
    "ibq taken for taming": lambda folder: as_another(
        ibq, ibq.write, folder, family="taming", weights="ema"
    ),
    "chameleon taken for ibq": lambda folder: as_another(
        chameleon, chameleon.write, folder, family="ibq"
    ),
    "raw weights for averages": averages_of_nothing,
    "codebook of another": codebook_of_another,
    "codebook rows swapped": pixel_codebook_in_another_order,
}


@pytest.mark.fault(28)
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("asked", ["auto", pytest.param("signed", marks=pytest.mark.soak)])
def test_doctor_catches_weights_that_are_not_what_they_are_taken_for(kind, asked, tmp_path):
    weights = WRONG[kind](tmp_path)
    with pytest.raises(ConfigError, match="photos do not come back"):
        check_start(weights, "float32", asked)
    with pytest.raises(ConfigError, match="photos do not come back"):
        diagnose(weights, weights.description.side_near(128), asked)


def test_codebook_whose_rows_are_all_in_another_order_is_told_by_its_digest():
    """It decodes its own codes as before, so that photos come back: only codes are others."""
    parsed = load(DEMO).parsed
    changed = dict(parsed.state)
    changed["quantize.embedding.weight"] = changed["quantize.embedding.weight"].roll(1, 0)
    weights = Weights(write_state(parsed.config, changed), "rolled")
    check_start(weights, "float32", "auto")
    assert weights.codebook_sha256() != load(DEMO).codebook_sha256()


@pytest.mark.parametrize(
    ("signed", "unit", "verdict"),
    [
        (26.0, 25.0, "signed"),
        (25.0, 27.9, "signed"),  # [0, 1] is a pale picture to a model of [-1, 1]
        (12.0, 24.0, "unit"),
        (20.0, 24.5, None),  # neither clear nor pale
        (9.0, 14.0, None),  # reconstructs nothing
        (0.0, 0.0, None),
    ],
)
def test_decide_range_speaks_only_where_it_is_clear(signed, unit, verdict):
    assert decide_range(signed, unit) == verdict


@pytest.fixture
def upcast(tmp_path):
    """The demo model with a config that says that float16 overflows."""
    shutil.copytree(DEMO, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    text = config.read_text().replace('"force_upcast": false', '"force_upcast": true')
    assert "true" in text
    config.write_text(text)
    return tmp_path / "model"


def test_check_start_force_upcast_refuses_float16_alone(upcast):
    weights = load(upcast)
    with pytest.raises(ConfigError, match="force_upcast"):
        check_start(weights, "float16", "auto")
    assert check_start(weights, "bfloat16", "auto")[1]["flips"] < 0.2


@pytest.fixture
def overflowing(tmp_path):
    """The demo model with latents a million times as large inside, which only float16 minds."""
    model = VQModel.from_pretrained(DEMO)
    with torch.no_grad():
        model.encoder.conv_out.weight *= 1e6
        model.encoder.conv_out.bias *= 1e6
        model.quant_conv.weight /= 1e6
    model.save_pretrained(tmp_path)
    return tmp_path


def test_check_start_overflow_of_the_runs_dtype_is_config_error(overflowing):
    weights = load(overflowing)
    with pytest.raises(ConfigError, match=r"float16 is not safe.*finite"):
        check_start(weights, "float16", "auto")
    assert check_start(weights, "bfloat16", "auto")[0] == "signed"


def test_diagnose_says_which_precisions_are_safe(overflowing):
    found = {p.dtype: p for p in diagnose(load(overflowing), 64).precisions}
    assert {dtype: p.is_safe for dtype, p in found.items()} == {
        "float32": True,
        "bfloat16": True,
        "float16": False,
    }
    assert found["float32"].flips == 0.0
    assert 0.0 < found["bfloat16"].flips < 0.2


def test_diagnose_findings_equal_those_of_the_plain_model():
    model = VQModel.from_pretrained(DEMO)
    found = diagnose(load(DEMO), 64)
    pixels = torch.from_numpy(load_probes(64)).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        codes = model.encode_to_codes(pixels)
        again = model.encode_to_codes(model.decode_codes(codes).clamp(-1, 1))
    assert found.layout.shape == tuple(codes.shape[1:]) == (16, 16)
    assert found.codes_used == len(codes.unique())
    assert 1 < found.perplexity < found.codes_used
    assert found.again == pytest.approx((again == codes).float().mean().item(), abs=0.02)  # uint8


def test_probe_range_leaves_room_for_doubt_with_no_finite_latents(tmp_path):
    model = VQModel.from_pretrained(DEMO)
    with torch.no_grad():
        model.encoder.conv_in.weight.fill_(3e38)
    model.save_pretrained(tmp_path)
    assert probe_range(load(tmp_path), load_probes(64)).verdict is None
