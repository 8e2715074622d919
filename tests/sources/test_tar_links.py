"""Links in tars, as GNU tar writes them, and the images of a sample that are not taken."""

import itertools
import os
import subprocess
import tarfile

import pytest

from tests.makers import jpeg, tar_of
from vqpipe.commands.members import settle_members
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, list_shards, read_shard

LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]


def header(name, kind, target="elsewhere.jpg"):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found, b""


def read(tmp_path, data, until="auto", **selected):
    (tmp_path / "x.tar").write_bytes(data)
    listing = list_shards(f"{tmp_path}/x.tar")
    selection, _ = settle_members(until, None, listing, Selection(**selected))
    kept = kept_schema(listing, selection)
    return list(read_shard(listing.shards[0], selection, kept))


def reasons(samples):
    return [(sample.key, sample.rejection and sample.rejection.reason) for sample in samples]


def images_in(samples):
    """Returns how many images are a row, a rejection, or counted."""
    return sum(
        (sample.rejection.lost or 1) if sample.rejection else 1 + sample.passed_over
        for sample in samples
    )


@pytest.mark.parametrize("ending", ["", ".jpg", ".v2.jpg", ".JPG"])
def test_every_image_of_a_folder_with_links_is_a_row_or_a_rejection(tmp_path, ending):
    """GNU tar writes every second hard link as a link member; on disk each is a whole image."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number:04}{ending}").write_bytes(jpeg(seed=number))
    for number in range(3):
        os.link(source / f"{number:04}{ending}", source / f"{number + 50:04}{ending}")
    os.symlink(f"0001{ending}", source / f"0060{ending}")
    command = ["tar", "-cf", tmp_path / "y.tar", "--sort=name", "-C", source, "."]
    subprocess.run(command, check=True)
    until = "last-dot" if ending == ".v2.jpg" else "auto"
    samples = read(tmp_path, (tmp_path / "y.tar").read_bytes(), until)
    assert len(samples) == images_in(samples) == len(os.listdir(source)) == 24
    bad = [sample for sample in samples if sample.rejection]
    assert [sample.key[:4] for sample in bad] == ["0050", "0051", "0052", "0060"]
    assert {sample.rejection.reason for sample in bad} == {Reason.NO_IMAGE}
    assert f"0000{ending}" in bad[0].rejection.message
    assert "--hard-dereference" in bad[0].rejection.message
    assert f"0001{ending}" in bad[3].rejection.message
    assert "--hard-dereference" not in bad[3].rejection.message
    subprocess.run([*command, "--hard-dereference", "--dereference"], check=True)
    samples = read(tmp_path, (tmp_path / "y.tar").read_bytes(), until)
    assert [sample.rejection for sample in samples] == [None] * 24, "as the messages say"


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["b", "b.v2.jpg", "b.PNG", "x/b", "b.seg.webp"])
def test_link_that_may_be_an_image_is_a_rejection(tmp_path, kind, name):
    samples = read(tmp_path, tar_of([("a.jpg", b"x"), header(name, kind)]), "first-dot")
    assert reasons(samples) == [("a", None), (name.partition(".")[0], Reason.NO_IMAGE)]
    assert f"{name} is a link or a device" in samples[1].rejection.message


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["b.txt", "a.json", "b.tar.gz"])
def test_link_to_something_else_is_no_sample(tmp_path, kind, name):
    samples = read(tmp_path, tar_of([("a.jpg", b"x"), header(name, kind)]))
    assert reasons(samples) == [("a", None)]


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("order", list(itertools.permutations(["link", "jpg", "txt"])))
def test_link_without_an_extension_takes_nothing_from_its_sample(tmp_path, kind, order):
    made = {"link": header("a", kind), "jpg": ("a.jpg", b"x"), "txt": ("a.txt", b"text")}
    data = tar_of([made[name] for name in order] + [("b.jpg", b"y")])
    a, b = read(tmp_path, data, keep=("txt",))
    assert (a.key, a.data, a.kept["txt"].to_pylist()) == ("a", b"x", ["text"])
    assert (b.key, b.data) == ("b", b"y")


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["a", "a.jpg", "a.v2.jpg"])
def test_link_that_stands_apart_does_not_take_the_key_of_an_image(tmp_path, kind, name):
    for data in (
        tar_of([header(name, kind), ("b.jpg", b"y"), ("a.jpg", b"x")]),
        tar_of([("a.jpg", b"x"), ("b.jpg", b"y"), header(name, kind)]),
    ):
        samples = read(tmp_path, data)
        assert {sample.key: sample.data for sample in samples if sample.data} == {
            "a": b"x",
            "b": b"y",
        }
        (bad,) = (sample for sample in samples if sample.rejection)
        assert (bad.key, bad.rejection.reason) == ("a", Reason.NO_IMAGE)


def test_folder_lists_and_labels_of_gnu_tar_are_no_links(tmp_path):
    data = tar_of([header("photos", b"V"), header("d", b"D"), header("./", b"D"), ("a.jpg", b"x")])
    assert reasons(read(tmp_path, data)) == [("a", None)]


SEVERAL = {"a": jpeg(seed=1), "a.jpg": jpeg(seed=2), "a.png": jpeg(seed=3), "a.x.gif": jpeg()}


@pytest.mark.parametrize("order", list(itertools.permutations(SEVERAL)))
def test_images_of_one_sample_are_counted_in_any_order(tmp_path, order):
    members = [(name, SEVERAL[name]) for name in order]
    (sample,) = read(tmp_path, tar_of([*members, ("a.txt", b"")]), "first-dot")
    assert (sample.data, sample.passed_over) == (SEVERAL["a.jpg"], 3)


def test_bare_image_beside_the_one_that_is_named_is_counted(tmp_path):
    members = [("a.png", b"x"), ("a", jpeg()), ("b", jpeg()), ("b.png", b"y"), ("c", b"text")]
    found = read(tmp_path, tar_of(members), image="png")
    assert [(sample.key, sample.data, sample.passed_over) for sample in found] == [
        ("a", b"x", 1),
        ("b", b"y", 1),
        ("c", None, 0),
    ]


@pytest.mark.parametrize(
    ("members", "keep", "reason"),
    [
        ([("a.jpg", b"1"), ("b.jpg", b"")], (), Reason.DUPLICATE_KEY),
        ([], ("txt",), Reason.BAD_METADATA),
    ],
)
@pytest.mark.parametrize("names", [["a.jpg"], ["a.jpg", "a.png"], ["a.png", "a.webp", "a.x.jpg"]])
def test_rejected_sample_stands_for_all_its_images(tmp_path, members, keep, reason, names):
    own = [(name, jpeg(seed=number)) for number, name in enumerate(names)]
    data = tar_of([*members, *own, ("a.txt", b"\xff")])
    *good, bad = read(tmp_path, data, keep=keep)
    assert bad.rejection.reason == reason
    assert bad.rejection.loss == (Loss(len(names), "known") if len(names) > 1 else None)
    assert images_in([*good, bad]) == len(members) + len(names)
