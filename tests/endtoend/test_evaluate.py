"""`vqpipe evaluate` as a user runs it; truth is scikit-image on what `vqpipe decode` writes."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests import plain, shell
from tests.makers import jpeg, picture, tar_of
from tests.sink.damage import rewrite, set_column
from vqpipe.commands import cli

SIDE, SHARDS, IMAGES = 64, 3, 12
MARKUP = "<b>&"


def photo(shard, number):
    return picture(SIDE, SIDE, seed=100 * shard + number)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A sink with an evaluation of half its images, which are the views themselves."""
    root = tmp_path_factory.mktemp("evaluated")
    (root / "source").mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}{MARKUP}.png": png(photo(shard, i)) for i in range(IMAGES)} | {
            f"{shard}-bad.jpg": b"<html>"
        }
        (root / "source" / f"{shard}.tar").write_bytes(tar_of(members))
    plain.encode(root / "source", root / "codes", resolution=SIDE)
    root.joinpath("printed").write_text(evaluate(root / "codes", "--samples", 18))
    return root


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def evaluate(source, *options, **how):
    return shell.run("evaluate", "--source", source, *options, **how)


def document(root):
    return json.loads((root / "codes" / "evaluation.json").read_bytes())


def scores(root):
    (sink,) = (root / "codes" / "evaluation").iterdir()
    return shell.rows(sink)


@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_scores_equal_skimage_on_what_decode_writes(evaluated):
    plain.decode(evaluated / "codes", evaluated / "images", "--layout", "parquet")
    decoded = {
        row["key"]: np.asarray(Image.open(io.BytesIO(row["image"])))
        for row in shell.rows(evaluated / "images")
    }
    found = scores(evaluated)
    assert len(found) == 18
    for row in found:
        shard, _, number = row["key"].removesuffix(MARKUP).partition("-")
        original, back = photo(int(shard), int(number)), decoded[row["key"]]
        expected = (
            peak_signal_noise_ratio(original, back, data_range=255),
            structural_similarity(
                original,
                back,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                channel_axis=2,
                data_range=255,
            ),
            np.abs(original.astype(float) - back).mean() / 255,
        )
        assert (row["psnr_db"], row["ssim"], row["l1"]) == pytest.approx(expected, abs=1e-4)
        assert row["unlike"] == 0  # the run was in float32 itself
        assert row["place"] == int(number)
    means = {name: each["mean"] for name, each in document(evaluated)["metrics"].items()}
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([row[name] for row in found]), abs=1e-9)


@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_says_what_all_footers_add_up_to(evaluated):
    said = document(evaluated)
    codes = np.concatenate([row["codes"] for row in shell.rows(evaluated / "codes")])
    counts = np.bincount(codes, minlength=said["codebook"]["size"])
    share = counts[counts > 0] / counts.sum()
    assert said["codebook"]["entropy_bits"] == pytest.approx(-(share * np.log2(share)).sum())
    assert said["codebook"]["dead_codes"] == (counts == 0).sum()
    assert said["rejected_by_reason"] == {"not_an_image": SHARDS}
    assert (said["samples"], said["shards"], said["rejected"]) == (18, SHARDS, 0)
    assert [each["samples"] for each in said["drift"]["most"]] == [IMAGES] * SHARDS
    distances = [each["distance"] for each in said["drift"]["most"]]
    assert distances == sorted(distances, reverse=True)
    assert (said["drift"]["shards"], said["drift"]["median"]) == (SHARDS, np.median(distances))
    assert said["run"]["shards"] == said["run"]["shards_planned"] == SHARDS
    assert said["run"]["encoded"] == SHARDS * IMAGES


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_again_measures_nothing_twice_and_resumes_what_is_missing(evaluated):
    (sink,) = (evaluated / "codes" / "evaluation").iterdir()
    before = scores(evaluated)
    (sink / "data" / "1.parquet").unlink()
    (sink / "_SUCCESS").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (sink / "data").iterdir()}
    evaluate(evaluated / "codes", "--samples", 18)
    assert scores(evaluated) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_ends_with_a_report_that_holds_its_numbers_and_escapes_keys(evaluated):
    printed = (evaluated / "printed").read_text()
    assert str(evaluated / "codes" / "report.html") in printed
    assert f"{document(evaluated)['metrics']['psnr_db']['mean']:.2f} dB" in printed
    assert "LPIPS was not measured" in printed
    page = (evaluated / "codes" / "report.html").read_text()
    assert "&lt;b&gt;&amp;" in page
    assert MARKUP not in page
    assert page.count("data:image/jpeg;base64,") == 2 * (12 + 6 + 6)


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_images_that_are_others_now_are_refused(evaluated, tmp_path):
    shutil.copytree(evaluated / "source", tmp_path / "moved")
    other = {f"other-{i}.jpg": jpeg(64, 64, seed=i) for i in range(IMAGES)}
    (tmp_path / "moved" / "1.tar").write_bytes(tar_of(other))
    options = ("--images", tmp_path / "moved", "--samples", 17)
    printed = evaluate(evaluated / "codes", *options, expect=3)
    assert "--images" in printed
    assert "Traceback" not in printed


def test_evaluate_without_a_sink_or_with_a_bad_number_says_so(tmp_path, capsys):
    assert cli.main(["evaluate", "--source", str(tmp_path)]) == 4
    assert "holds no run" in capsys.readouterr().err
    assert cli.main(["evaluate", "--source", str(tmp_path), "--samples", "0"]) == 4
    assert "--samples is 0" in capsys.readouterr().err


PASSWORD = "canary-0123456789"


@pytest.mark.fault(32)
@pytest.mark.parametrize("option", ["source", "images", "model", "lpips", "inception"])
@pytest.mark.parametrize("place", ["s3://user:{}@b/x.pth", "hf://user:{}@org/name/x.pth"])
def test_evaluate_url_with_a_password_is_refused_and_not_repeated(option, place, capsys):
    arguments = {"source": "/nowhere"} | {option: place.format(PASSWORD)}
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    assert cli.main(["evaluate", *options]) == 4
    printed = capsys.readouterr().err
    assert "credentials" in printed or "hf:// is not supported" in printed
    assert PASSWORD not in printed


@pytest.mark.parametrize("where", ["", " ", "hf://org", "https://host/x.pth"])
def test_evaluate_weights_that_can_be_no_file_are_refused(where, capsys):
    assert cli.main(["evaluate", "--source", "/nowhere", "--lpips", where]) == 4
    assert "holds no run" not in capsys.readouterr().err


@pytest.mark.fault(2)
@pytest.mark.ray
@pytest.mark.soak
def test_evaluate_killed_and_run_again_completes_as_if_nothing_had_been(tmp_path):
    (tmp_path / "source").mkdir()
    for shard in range(6):
        members = {f"{shard}-{i}.png": png(photo(shard, i)) for i in range(20)}
        (tmp_path / "source" / f"{shard}.tar").write_bytes(tar_of(members))
    shell.encode(tmp_path / "source", tmp_path / "codes", resolution=SIDE)
    shutil.copytree(tmp_path / "codes", tmp_path / "other" / "codes")
    evaluate(tmp_path / "other" / "codes", "--samples", 100)
    process = shell.start("evaluate", "--source", tmp_path / "codes", "--samples", 100)
    done = shell.await_commit(process, tmp_path / "codes" / "evaluation", "*/data/*.parquet")
    process.kill()
    process.communicate()
    assert not (tmp_path / "codes" / "report.html").exists()
    before = {path: path.stat().st_mtime_ns for path in done}
    evaluate(tmp_path / "codes", "--samples", 100)
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert scores(tmp_path) == scores(tmp_path / "other")
    mine, theirs = document(tmp_path), document(tmp_path / "other")
    assert all([mine.pop("created"), theirs.pop("created")])
    assert mine == theirs


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_codes_of_other_images_have_more_unlike_codes(evaluated, tmp_path):
    """What the numbers are for: codes swapped between samples show."""
    shutil.copytree(evaluated / "codes", tmp_path / "codes")
    path = tmp_path / "codes" / "data" / "0.parquet"
    rewrite(path, set_column("codes", lambda rows: rows.append(rows.pop(0))))
    shutil.rmtree(tmp_path / "codes" / "evaluation")
    evaluate(tmp_path / "codes", "--samples", 18)
    rows = scores(tmp_path)
    swapped = [row["unlike"] > 0.5 * 256 for row in rows]
    assert swapped == [row["key"].startswith("0-") for row in rows]
