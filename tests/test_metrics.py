import json
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.spatial import distance

from vqpipe import metrics
from vqpipe.metrics import Moments, likeness

HISTOGRAMS = {
    "even": [5] * 16,
    "steep": [2**i for i in range(16)],
    "gaps": [0, 3, 0, 0, 9, 1, 0, 7] * 2,
    "other_gaps": [4, 0, 0, 2, 9, 0, 1, 0] * 2,
    "one": [0, 0, 12] + [0] * 13,
    "huge": [10**15, 1, 2**40, 0] * 4,
}


def histogram(name):
    return np.array(HISTOGRAMS[name], np.int64)


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_entropy_equals_scipys(name):
    counts = histogram(name)
    assert metrics.entropy_bits(counts) == pytest.approx(scipy.stats.entropy(counts, base=2))
    expected = 2 ** scipy.stats.entropy(counts, base=2)
    assert metrics.perplexity(counts) == pytest.approx(expected)


def test_entropy_of_one_code_or_none_is_plain_zero():
    for counts in (histogram("one"), np.zeros(16, np.int64)):
        assert json.dumps(metrics.entropy_bits(counts)) == "0.0"
        assert metrics.perplexity(counts) == 1


@pytest.mark.parametrize(("name", "dead"), [("even", 0), ("gaps", 8), ("one", 15)])
def test_dead_codes_and_used_ones_are_all_codes(name, dead):
    counts = histogram(name)
    assert metrics.dead_codes(counts) == dead
    assert metrics.codebook_usage(counts) == 1 - dead / 16


@pytest.mark.parametrize("first", HISTOGRAMS)
@pytest.mark.parametrize("second", HISTOGRAMS)
def test_jensen_shannon_equals_scipys(first, second):
    found = metrics.jensen_shannon(histogram(first), histogram(second))
    expected = distance.jensenshannon(histogram(first), histogram(second), base=2)
    assert found == pytest.approx(expected, abs=1e-7)


def test_jensen_shannon_goes_from_zero_for_shares_to_one_for_nothing_in_common():
    counts = histogram("gaps")
    assert metrics.jensen_shannon(counts, 3 * counts) == pytest.approx(0, abs=1e-7)
    assert metrics.jensen_shannon(counts, np.where(counts, 0, 5)) == pytest.approx(1)


def test_jensen_shannon_of_an_empty_histogram_is_nan():
    counts, empty = histogram("gaps"), np.zeros(16, np.int64)
    for pair in ((counts, empty), (empty, counts), (empty, empty)):
        assert np.isnan(metrics.jensen_shannon(*pair))


def test_summarise_equals_numpys():
    values = np.random.default_rng(0).gamma(2, 10, 1001)
    assert metrics.summarise(values) == {
        "count": 1001,
        "identical": 0,
        "undefined": 0,
        "mean": pytest.approx(values.mean()),
        "std": pytest.approx(values.std()),
        "min": values.min(),
        "p05": pytest.approx(np.percentile(values, 5)),
        "median": np.median(values),
        "p95": pytest.approx(np.percentile(values, 95)),
        "max": values.max(),
    }


def test_summarise_counts_identical_and_undefined_apart():
    found = metrics.summarise(iter([30.0, np.inf, 20.0, np.nan, np.inf]))
    assert (found["count"], found["identical"], found["undefined"]) == (5, 2, 1)
    assert (found["min"], found["mean"], found["max"]) == (20, 25, 30)


@pytest.mark.parametrize("values", [[], [np.inf], [np.nan, np.inf], [1], np.float32([1, 2])])
def test_summarise_is_always_strict_json(values):
    found = metrics.summarise(values)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["mean"] is None) == (not np.isfinite(values).any())


def draw(count, size, seed):
    """Returns (count, size) correlated vectors of a mean and spread of their own."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return (mixed + rng.normal(size=size)).astype(np.float32)


def frechet_by_sqrtm(first, second):
    covariances = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    apart = first.mean(0, np.float64) - second.mean(0, np.float64)
    return apart @ apart + np.trace(sum(covariances)) - 2 * np.trace(root).real


@pytest.mark.parametrize("size", [2, 16, 64])
def test_frechet_distance_equals_that_by_scipys_sqrtm(size):
    first, second = draw(300, size, 1), draw(200, size, 2)
    found = metrics.frechet_distance(Moments.of(first), Moments.of(second))
    assert found == pytest.approx(frechet_by_sqrtm(first, second), rel=1e-6)
    swapped = metrics.frechet_distance(Moments.of(second), Moments.of(first))
    assert swapped == pytest.approx(found)


def test_frechet_distance_in_one_dimension_is_that_of_means_and_deviations():
    first, second = draw(50, 1, 3), draw(60, 1, 4)
    means, deviations = (first.mean() - second.mean()) ** 2, first.std(ddof=1) - second.std(ddof=1)
    found = metrics.frechet_distance(Moments.of(first), Moments.of(second))
    assert found == pytest.approx(means + deviations**2, rel=1e-5)


def test_frechet_distance_of_fewer_vectors_than_dimensions_equals_that_by_all_eigenvalues():
    first, second = draw(20, 64, 5), draw(10, 64, 6)
    values = np.linalg.eigvals(np.cov(first.T) @ np.cov(second.T))
    apart = first.mean(0, np.float64) - second.mean(0, np.float64)
    spread = np.trace(np.cov(first.T)) + np.trace(np.cov(second.T))
    expected = apart @ apart + spread - 2 * np.sqrt(values.astype(complex)).real.sum()
    found = metrics.frechet_distance(Moments.of(first), Moments.of(second))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [10, 300])
def test_frechet_distance_of_a_set_to_itself_is_nothing_and_never_negative(count):
    moments = Moments.of(draw(count, 64, 7))
    spread = np.trace(moments.covariance)
    assert 0 <= metrics.frechet_distance(moments, moments) < 1e-6 * spread


def test_frechet_distance_of_shifted_vectors_is_the_square_of_the_shift():
    features = draw(100, 8, 8).astype(np.float64)
    found = metrics.frechet_distance(Moments.of(features), Moments.of(features + 3))
    assert found == pytest.approx(8 * 9)


def test_frechet_distance_of_a_single_vector_is_refused():
    with pytest.raises(ValueError, match="two feature vectors"):
        metrics.frechet_distance(Moments.of(draw(9, 4, 0)), Moments.of(draw(1, 4, 0)))


def test_moments_of_parts_add_up_to_those_of_the_whole():
    features = draw(100, 16, 9) + 1000
    parts = [Moments.of(part) for part in np.split(features, [1, 30, 31])]
    whole = sum(parts[1:], parts[0])
    assert whole.count == 100
    np.testing.assert_allclose(whole.mean, features.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(features.astype(float).T), atol=1e-8)


def test_likeness_is_that_of_the_coarse_picture():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 16, 16, 3))
    images = coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)
    noisy = np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    assert likeness(images, images) == pytest.approx(1)
    assert likeness(images, 255 - images) == pytest.approx(-1)
    assert likeness(images, noisy) > 0.97
    assert abs(likeness(images, images[[1, 2, 0]])) < 0.1
    assert abs(likeness(images, rng.permuted(images, axis=1))) < 0.2
    assert likeness(images, np.full_like(images, 9)) == 0.0


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (50, 33)])
def test_likeness_of_any_size_is_the_correlation_of_block_means(shape):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 1, *shape, 3)).astype(np.uint8)
    means = []
    for image in (a[0], b[0]):
        rows, columns = (np.linspace(0, side, 17).astype(int) for side in shape)
        blocks = [
            [image[top:bottom, left:right].mean((0, 1)) for left, right in pairwise(columns)]
            for top, bottom in pairwise(rows)
        ]
        means.append(np.array(blocks) - np.mean(blocks, (0, 1)))
    expected = np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1]
    assert likeness(a, b) == pytest.approx(expected, abs=1e-9)
