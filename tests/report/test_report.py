import io
import itertools
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.makers import jpeg
from tests.report.reports import (
    make_counts,
    make_metric,
    make_picture,
    make_quality,
    make_rejected,
    make_report,
)
from vqpipe.report import Drift, Pictures, Quality, Report, Throughput, render_report
from vqpipe.report.formats import elide, fixed, rough, share
from vqpipe.report.page import LIMIT_BYTES
from vqpipe.report.pictures import fit_pictures

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg/onload=alert(1)>",
    "{{ report.title }}{% include 'page.css' %}",
)
VOID = {"img", "link", "meta"}


class Page(HTMLParser):
    """What an HTML parser finds: tags with their attributes, and the text in them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self._open = [], [], []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def parse(**changes):
    return Page(render_report(make_report(**changes)))


def hostile_report(text):
    return make_report(
        title=text,
        identity=[(text, text)],
        quality=make_quality(picked=text, notes=[text], metrics=[make_metric(text, 1.0)]),
        pictures=Pictures(random=[make_picture(text, shard=text)]),
        drift=[Drift(shard=text + str(i), distance=0.1, samples=1) for i in range(3)],
        throughput=Throughput(points=[(0, 0), (1, 1)], bound_by=text),
        rejections=[make_rejected(reason=text, meaning=text)],
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_page_text_that_is_markup_stays_text(text):
    page = Page(render_report(hostile_report(text)))
    plain = Page(render_report(hostile_report("plain")))
    assert [name for name, _ in page.tags] == [name for name, _ in plain.tags]
    assert [set(each) for _, each in page.tags] == [set(each) for _, each in plain.tags]
    assert page.text.count(text) >= 10
    assert [image["alt"] for image in page.of("img")] == [
        f"Original of {text}",
        f"Reconstruction of {text}",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_page_rejected_key_and_message_that_are_markup_stay_text(text):
    (example,) = make_rejected().examples
    changed = type(example)(key=text, shard=text, row=1, message=text)
    page = parse(rejections=[make_rejected(examples=[changed])])
    assert page.text.count(text) == 3
    assert len(page.tags) == len(parse().tags)


def test_page_controls_surrogates_and_turned_writing_become_marks():
    html = render_report(make_report(title="a\x00b\u202ec\ud800d\ne"))
    assert "a\ufffdb\ufffdc\ufffdd e" in Page(html.encode().decode()).text


def test_page_runs_nothing_and_loads_nothing():
    page = parse()
    assert not page.of("script")
    assert not page.of("link")
    policy = next(each for each in page.of("meta") if "http-equiv" in each)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/jpeg").startswith("data:image/jpeg")


def test_page_links_lead_to_sections_and_headings_are_in_order():
    page = parse()
    places = [each["id"] for _, each in page.tags if "id" in each]
    assert len(places) == len(set(places))
    assert {each["href"][1:] for each in page.of("a")} <= set(places)
    named = [each[name] for _, each in page.tags for name in each if name == "aria-labelledby"]
    assert {place for names in named for place in names.split()} <= set(places)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_every_image_has_size_and_alternative():
    images = parse().of("img")
    assert len(images) == 12
    assert {(each["width"], each["height"]) for each in images} == {
        ("64", "64"),
        ("48", "48"),
        ("96", "96"),
    }
    assert images[2]["alt"] == "Original of random-1"
    assert images[-1]["alt"] == f"Reconstruction of {'a/very/long/name/of/a/folder/' * 4}worst.jpg"


def test_page_charts_have_titles_and_descriptions():
    page = parse()
    charts = [each for each in page.of("svg") if "role" in each]
    assert len(charts) == 4
    assert all(each["role"] == "img" and each["height"] for each in charts)
    assert "Codes by rank, both axes logarithmic: the most frequent occurs" in page.text


def test_page_numbers_are_those_given():
    text = parse().text
    for number in (
        "120,000 of 120,060 images became 30.7 million codes, 256 an image",
        "Complete all 120 shards committed",
        "120,060: 120,000 encoded, 60 rejected",
        "Mean PSNR 24.7 dB",
        "Mean SSIM 0.781",
        "mean 24.68 0.7812 0.0409",
        "rFID 12.34",
        "0.21%",
        "LPIPS: no weights were given.",
        "60 images were rejected, 0.05% of all",
        "dog row 1,234 of photos/0001 ends after 12 bytes",
        "23.5 dB · SSIM 0.789",
        "0123456789abcdef" * 4,
    ):
        assert number in text


def test_page_codebook_numbers_against_arithmetic():
    text = parse(code_counts=np.array([4, 0, 2, 0, 1, 0, 1, 0])).text
    assert "in use 50.0% 4 of 8 codes occur" in text
    assert "dead 4" in text
    assert "entropy 1.75 bits a code, of 3.00 at most" in text
    assert f"perplexity {2**1.75:.1f}" in text
    assert "most frequent code 50.0% of the stored codes are code 0" in text


def test_page_histogram_bars_hold_every_finite_psnr_once():
    values = [*np.random.default_rng(1).gamma(9, 3, 997).tolist(), math.inf, math.inf, math.nan]
    page = parse(quality=make_quality(psnr_db=values))
    bars = [re.fullmatch(r"(\S+) to (\S+) dB: (\S+)", text) for text in page.texts]
    found = [(float(bar[1]), float(bar[2]), int(bar[3].replace(",", ""))) for bar in bars if bar]
    for low, high, number in found:
        assert number == sum(low <= value < high for value in values)
    assert sum(number for *_, number in found) == 997
    assert "2 reconstructions equal their originals" in page.text
    assert "PSNR could not be measured of 1 image." in page.text


def test_page_100_000_shards_are_a_small_curve_and_the_ten_most_drifted():
    distances = np.random.default_rng(0).permutation(100_000) / 200_000
    drift = [
        Drift(shard=f"shard-{i}", distance=float(distance), samples=1)
        for i, distance in enumerate(distances)
    ]
    html = render_report(make_report(drift=drift, pictures=Pictures()))
    assert len(html) < 60_000
    named = re.findall(r"<bdi>(shard-\d+)</bdi>", html)
    assert named == [f"shard-{i}" for i in np.argsort(-distances)[:10]]


def test_page_largest_codebook_is_a_small_curve():
    counts = np.random.default_rng(0).poisson(3, 262_144)
    html = render_report(make_report(code_counts=counts, pictures=Pictures()))
    assert len(html) < 60_000
    assert f"{(counts > 0).sum():,} of 262,144 codes occur" in Page(html).text


EMPTY = Report(
    title="codes",
    counts=make_counts(
        samples=0, encoded=0, rejected=0, shards_done=0, is_complete=False, bytes_per_image=math.nan
    ),
)
NOTHING = Quality(metrics=[], samples=0, shards=0, picked="There was nothing to pick.")
EDGES = {
    "nothing at all": (EMPTY, "Incomplete 0 of 120 shards committed"),
    "no rejection": (
        make_report(counts=make_counts(rejected=0, samples=120_000), rejections=[]),
        "Nothing was rejected: every image has its codes.",
    ),
    "no rejection yet": (
        make_report(
            counts=make_counts(rejected=0, samples=9, encoded=9, shards_done=1, is_complete=False)
        ),
        "Nothing has been rejected so far.",
    ),
    "no pictures": (make_report(pictures=Pictures()), "No picture was kept for this page."),
    "nothing evaluated": (make_report(quality=NOTHING), "0 images of 0 shards were decoded"),
    "not closed": (
        make_report(counts=make_counts(is_complete=False)),
        "Incomplete 120 of 120 shards committed, not marked complete yet",
    ),
    "one shard": (
        make_report(drift=[Drift(shard="only", distance=0.0, samples=9)]),
        "The run has one shard, only : there is nothing to compare it with.",
    ),
    "equal shards": (
        make_report(drift=[Drift(shard=f"{i}", distance=0.0, samples=9) for i in range(2)]),
        "Dashed: the median, 0.000.",
    ),
    "no throughput": (
        make_report(throughput=Throughput()),
        "The last command left no throughput over time.",
    ),
    "one point": (
        make_report(throughput=Throughput(points=[(1.0, 5)], bound_by="It waited.")),
        "It waited. The last command left no throughput over time.",
    ),
    "points at one time": (
        make_report(throughput=Throughput(points=[(1.0, 5), (1.0, 9)])),
        "The last command left no throughput over time.",
    ),
    "parts that were busy": (
        make_report(throughput=Throughput(points=[], busy=[("opening", 0.973), ("codec", 0.4)])),
        "opening 97% of the cores codec 40% of the codecs' time The last command left no",
    ),
    "a GPU that was seen": (
        make_report(throughput=Throughput(gpu=0.9, gpu_memory=(2**34, 2**37))),
        "GPU 90% by NVML GPU memory 16.0 GiB at most, of 128.0 GiB",
    ),
    "nothing done": (
        make_report(throughput=Throughput(points=[(0, 0), (9, 0)])),
        "Dashed: the mean, 0.000 images per second.",
    ),
    "identical images": (
        make_report(
            quality=make_quality(
                metrics=[make_metric("psnr_db", math.inf, std=math.nan, median=math.inf)],
                psnr_db=[math.inf] * 3,
            ),
            pictures=Pictures(best=[make_picture(psnr_db=math.inf)]),
        ),
        "Median PSNR ∞ dB",
    ),
    "not numbers": (
        make_report(
            quality=make_quality(
                metrics=[make_metric("psnr_db", math.nan)],
                psnr_db=[math.nan],
                flip_rate=math.nan,
                rfid=math.nan,
            ),
            pictures=Pictures(best=[make_picture(psnr_db=math.nan, ssim=math.nan)]),
            drift=[Drift(shard=f"{i}", distance=0.1, samples=1, psnr_db=None) for i in range(3)],
        ),
        "– dB · SSIM –",  # noqa: RUF001
    ),
    "one code of one": (make_report(code_counts=np.array([7])), "1 of 1 codes occur"),
    "one code of many": (make_report(code_counts=np.eye(1, 512, 3)[0].astype(int)), "dead 511"),
    "equal PSNR": (make_report(quality=make_quality(psnr_db=[20.0] * 5)), "5 images between 20.00"),
    "key unknown": (
        make_report(
            rejections=[
                make_rejected(
                    examples=[
                        type(each)(key=None, shard="s", row=0, message="the tar ends")
                        for each in make_rejected().examples
                    ]
                )
            ]
        ),
        "key unknown row 0 of s the tar ends",
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_page_where_there_is_little_to_show_says_so(name):
    report, said = EDGES[name]
    html = render_report(report)
    page = Page(html)
    assert said in page.text
    attributes = [value for _, each in page.tags for value in each.values() if value]
    for text in (page.text, *attributes):
        assert not re.search(r"\b(nan|NaN|inf|None)\b", text)


def noise(side):
    """A JPEG that is about as large as one can be."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def test_page_too_many_bytes_of_pictures_are_made_smaller_and_it_says_so():
    large = noise(768)
    pictures = [make_picture(f"{i}", 768, original=large, decoded=large) for i in range(4)]
    assert 2 * 4 * len(large) > 2 * LIMIT_BYTES
    html = render_report(make_report(pictures=Pictures(random=pictures)))
    assert LIMIT_BYTES / 2 < len(html.encode()) <= LIMIT_BYTES == 3_000_000
    page = Page(html)
    assert "To keep this page small, pictures are shown at" in page.text
    images = page.of("img")
    assert len(images) == 8
    assert {(each["width"], each["height"]) for each in images} == {("768", "768")}


def test_page_longest_keys_and_most_examples_stay_within_the_limit():
    (example,) = make_rejected().examples
    longest = '"' * 65_536
    endless = type(example)(key=longest, shard=longest, row=0, message=longest)
    groups = [
        make_rejected(reason=f"{i}{longest}", meaning=longest, examples=[endless] * 9)
        for i in range(200)
    ]
    pictures = [make_picture(f"{i}{longest}", shard=longest) for i in range(100)]
    report = make_report(rejections=groups, pictures=Pictures(random=pictures))
    html = render_report(report)
    assert len(html.encode()) <= LIMIT_BYTES
    assert len(Page(html).of("img")) == 200


def test_fit_pictures_that_fit_are_left_as_they_are():
    pictures = make_report().pictures
    fitted = fit_pictures(pictures, LIMIT_BYTES)
    assert fitted.groups["random"] == list(pictures.random)
    assert not fitted.note


def test_fit_pictures_without_room_drops_the_last_of_the_longest_group():
    pictures = Pictures(
        random=[make_picture(f"r{i}", 200, original=jpeg(200, 200)) for i in range(5)],
        worst=[make_picture("w", 200)],
    )
    fitted = fit_pictures(pictures, 20_000)
    kept = [each.key for group in fitted.groups.values() for each in group]
    assert 1 < len(kept) < 6
    assert kept[-1] == "w"
    assert kept[:-1] == [f"r{i}" for i in range(len(kept) - 1)]
    dropped = 6 - len(kept)
    assert f"{dropped} more {'is' if dropped == 1 else 'are'} left out." in fitted.note


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0%"),
        (1, "100%"),
        (1e-9, "<0.01%"),
        (0.99999, ">99.99%"),
        (0.9996, "99.96%"),
        (0.0021, "0.21%"),
        (0.123, "12.3%"),
        (math.nan, "–"),  # noqa: RUF001
        (None, "–"),  # noqa: RUF001
    ],
)
def test_share_is_never_rounded_to_all_or_nothing(value, text):
    assert share(value) == text


def test_numbers_read_well():
    assert fixed(-0.001, 2) == "0.00"
    assert fixed(-1234.5, 1) == "−1,234.5"  # noqa: RUF001
    assert fixed(-math.inf, 1) == "−∞"  # noqa: RUF001
    assert rough(999_999) == "999,999"
    assert rough(308_080_896) == "308.1 million"
    assert elide("0123456789", 10) == "0123456789"
    assert elide("0123456789", 7) == "012…789"
