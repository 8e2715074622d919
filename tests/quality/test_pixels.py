import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vqpipe import metrics
from vqpipe.quality.pixels import WINDOW_PX, compare_images


def jpeg_again(photo, quality):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def with_noise(photo, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8)


def with_a_bad_edge(photo):
    broken = photo.copy()
    broken[:3], broken[:, -3:] = 0, 255
    return broken


DISTORTIONS = {
    "jpeg": lambda photo: jpeg_again(photo, 20),
    "noise": lambda photo: with_noise(photo, 25),
    "blur": lambda photo: np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(2))),
    "darker": lambda photo: photo // 2,
    "negative": lambda photo: 255 - photo,
    "one_level": lambda photo: photo ^ 1,
    "edge": with_a_bad_edge,
    "black": np.zeros_like,
    "channels": lambda photo: photo[..., ::-1].copy(),
}
PHOTOS = {
    "astronaut": data.astronaut()[100:148, 180:220],
    "coffee": data.coffee()[50:82, 200:241],
    "cat": data.chelsea()[90:101, 60:130],
    "flat": np.full((24, 24, 3), 254, np.uint8),
}


def reference(photo, other):
    with np.errstate(divide="ignore"):
        psnr_db = peak_signal_noise_ratio(photo, other, data_range=255)
    ssim = structural_similarity(
        photo,
        other,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=255,
    )
    return psnr_db, ssim, np.abs(photo.astype(float) - other).mean() / 255


def numbers(similarity):
    return np.stack([similarity.psnr_db, similarity.ssim, similarity.l1], 1)


@pytest.mark.parametrize("distortion", DISTORTIONS)
@pytest.mark.parametrize("name", PHOTOS)
def test_compare_images_equals_skimage_and_numpy(name, distortion):
    photo = PHOTOS[name]
    other = DISTORTIONS[distortion](photo)
    found = numbers(compare_images(photo[None], other[None]))
    np.testing.assert_allclose(found, [reference(photo, other)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_pixels", [1, 48 * 40 * 4, 2**30])
def test_compare_images_in_any_batch_equals_each_alone(max_pixels):
    photo = PHOTOS["astronaut"]
    others = np.stack([distort(photo) for distort in DISTORTIONS.values()])
    found = compare_images(np.stack([photo] * len(others)), others, max_pixels=max_pixels)
    alone = [numbers(compare_images(photo[None], other[None]))[0] for other in others]
    np.testing.assert_allclose(numbers(found), alone, rtol=0, atol=1e-12)


def test_compare_images_of_identical_ones_is_infinite_psnr_and_ssim_one():
    photos = PHOTOS["astronaut"][None].repeat(2, 0)
    found = compare_images(photos, photos)
    assert found.psnr_db.tolist() == [np.inf, np.inf]
    assert found.ssim.tolist() == pytest.approx([1, 1], abs=1e-12)
    assert found.l1.tolist() == [0, 0]


def test_compare_images_has_the_psnr_of_the_rest_of_the_pipeline():
    photo = PHOTOS["coffee"]
    others = np.stack([distort(photo) for distort in DISTORTIONS.values()])
    found = compare_images(np.stack([photo] * len(others)), others).psnr_db
    assert found.tolist() == pytest.approx([metrics.psnr(photo, other) for other in others])


@pytest.mark.parametrize("shape", [(WINDOW_PX - 1, 40), (40, WINDOW_PX - 1), (1, 1)])
def test_compare_images_smaller_than_the_window_has_no_ssim_and_all_else(shape):
    photo = PHOTOS["astronaut"][: shape[0], : shape[1]]
    found = compare_images(photo[None], 255 - photo[None])
    assert np.isnan(found.ssim).all()
    assert found.psnr_db[0] == pytest.approx(metrics.psnr(photo, 255 - photo))
    assert np.isfinite(found.l1).all()


def test_compare_images_of_none_is_empty_float64():
    none = np.zeros((0, 32, 32, 3), np.uint8)
    assert numbers(compare_images(none, none)).shape == (0, 3)
    assert compare_images(none, none).ssim.dtype == np.float64


def test_compare_images_takes_arrays_that_cannot_be_written_to():
    photo = np.frombuffer(PHOTOS["astronaut"].tobytes(), np.uint8).reshape(1, 48, 40, 3)
    assert compare_images(photo, photo).l1.tolist() == [0]


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((1, 32, 31, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
    ],
)
def test_compare_images_of_other_shapes_or_dtypes_is_value_error(other):
    with pytest.raises(ValueError, match="uint8 arrays"):
        compare_images(np.zeros((1, 32, 32, 3), np.uint8), other)


def test_compare_images_equals_torchmetrics_where_windows_lie_inside():
    functional = pytest.importorskip("torchmetrics.functional.image")
    pair = [PHOTOS["coffee"], DISTORTIONS["noise"](PHOTOS["coffee"])]
    first, second = (torch.tensor(image).permute(2, 0, 1)[None] / 255.0 for image in pair)
    options = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0, "return_full_image": True}
    _, full = functional.structural_similarity_index_measure(
        second.double(), first.double(), reduction="none", **options
    )
    found = compare_images(pair[0][None], pair[1][None])
    assert found.ssim[0] == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=1e-9)
    psnr_db = functional.peak_signal_noise_ratio(second, first, data_range=1.0)
    assert found.psnr_db[0] == pytest.approx(float(psnr_db), abs=1e-4)
