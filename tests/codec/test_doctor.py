import shutil

import pytest
import torch

from tests.codec.models import DEMO, make_unit, make_untrained
from vqpipe.codec.doctor import check_start, decide_range, diagnose, load_probes, probe_range
from vqpipe.codec.weights import Weights
from vqpipe.errors import ConfigError
from vqpipe.vqgan import VQModel


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


def test_check_start_undecided_range_is_config_error_that_asks_for_the_flag(checkpoints):
    with pytest.raises(ConfigError, match="--pixel-range signed"):
        check_start(load(checkpoints["untrained"]), "float32", "auto")


@pytest.mark.parametrize("asked", ["signed", "unit"])
def test_check_start_undecided_range_leaves_the_choice_to_the_user(checkpoints, asked):
    pixel_range, findings = check_start(load(checkpoints["untrained"]), "float32", asked)
    assert (pixel_range, findings["verdict"]) == (asked, None)


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
