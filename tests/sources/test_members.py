"""Where keys of tars end, and whether what is to be kept is there, is judged by names."""

import gzip

import pytest

from tests.makers import jpeg, tar_of
from tests.sink.runs import make_run
from vqpipe.commands.members import settle_members
from vqpipe.errors import ConfigError
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection
from vqpipe.sources import kept_schema, list_shards, members, read_shard
from vqpipe.sources.members import check_kept, count_passed_over, judge_keys, look

DOTS = [f"st.martin_{i:03d}.jpg" for i in range(300)]
STEREO = [f"{i}.{side}.png" for i in range(3) for side in ("left", "right")]
PLAIN = [f"{i:05d}.jpg" for i in range(60)]


@pytest.fixture
def source(tmp_path):
    """Writes tars of members with these names; returns what is listed of them."""

    def write(**tars):
        for name, names in tars.items():
            (tmp_path / f"{name}.tar").write_bytes(tar_of(dict.fromkeys(names, b"x")))
        return list_shards(str(tmp_path))

    return write


def settle(listing, asked="auto", begun=None, **selected):
    return settle_members(asked, begun, listing, Selection(**selected))


def read_all(listing, selection):
    kept = kept_schema(listing, selection)
    return [sample for shard in listing.shards for sample in read_shard(shard, selection, kept)]


@pytest.mark.parametrize(
    ("names", "until"),
    [
        (PLAIN, "first-dot"),
        (DOTS, "last-dot"),
        ([*PLAIN, *DOTS], "last-dot"),
        ([f"v1.2_{i}.{kind}" for i in range(9) for kind in ("jpg", "txt")], "last-dot"),
        (["22.05.png", "22.06.png", "23.07.png"], "last-dot"),
        ([f"{i}.{kind}" for i in range(9) for kind in ("jpg", "seg.png", "json")], "first-dot"),
        ([f"{i}.{kind}" for i in range(9) for kind in ("jpg", "cls", "a.txt")], "first-dot"),
        ([*(f"{i}.{k}" for i in range(50) for k in ("jpg", "seg.png")), "x.seg.png"], "first-dot"),
        (["a.txt", "b.json"], "first-dot"),
        ([], "first-dot"),
    ],
    ids=[
        "plain",
        "dots",
        "both",
        "versions",
        "dates",
        "masks",
        "texts",
        "one_bad",
        "none",
        "empty",
    ],
)
def test_settle_members_tells_dots_in_names_from_kinds_of_members(source, names, until):
    listing = source(a=names)
    found, _ = settle(listing)
    assert found.key_until == until
    images = sum(name.endswith(("jpg", "png")) for name in names)
    counted = [
        sample.passed_over + (sample.rejection.lost or 1 if sample.rejection else 1)
        for sample in read_all(listing, found)
        if sample.rejection is None or images
    ]
    assert sum(counted) == images, "every image is a row, a rejection, or counted"


@pytest.mark.parametrize(
    "names", [STEREO, [f"{i}.v1.jpg" for i in range(5)], [*STEREO, *PLAIN[:3]]]
)
def test_settle_members_names_that_can_be_read_either_way_are_asked_about(source, names):
    with pytest.raises(ConfigError) as caught:
        settle(source(a=names))
    for cure in ("--image", "--key-until last-dot", "--key-until first-dot"):
        assert cure in caught.value.message


def test_settle_members_what_is_asked_for_is_done(source):
    listing = source(a=STEREO)
    both, _ = settle(listing, "last-dot")
    assert [sample.key for sample in read_all(listing, both)][:2] == ["0.left", "0.right"]
    left, _ = settle(listing, image="left.png")
    assert left.key_until == "first-dot"
    found = read_all(listing, left)
    assert [(sample.key, sample.passed_over) for sample in found] == [("0", 1), ("1", 1), ("2", 1)]
    first, _ = settle(listing, "first-dot")
    rejections = [sample.rejection for sample in read_all(listing, first)]
    assert {each.loss for each in rejections} == {Loss(2, "known")}
    assert all("--key-until" in each.message for each in rejections)


def test_settle_members_a_run_that_has_begun_has_settled_it(source):
    begun = make_run(key_until="first-dot")
    assert settle(source(a=DOTS), begun=begun)[0].key_until == "first-dot"


def test_settle_members_dots_in_a_later_shard_are_seen(source):
    listing = source(a=PLAIN, b=PLAIN, c=PLAIN, d=DOTS)
    found, said = settle(listing)
    assert found.key_until == "last-dot"
    assert "last dot" in str(said)
    samples = read_all(listing, found)
    assert sum(sample.rejection is None for sample in samples) == 3 * len(PLAIN) + len(DOTS)


def test_settle_members_dots_that_nobody_saw_are_no_single_loss(source):
    listing = source(**{f"t{i:02d}": DOTS if i == 5 else PLAIN for i in range(12)})
    found, _ = settle(listing)
    assert found.key_until == "first-dot"
    bad = [each.rejection for each in read_all(listing, found) if each.rejection]
    assert [(each.reason, each.lost) for each in bad] == [(Reason.NO_IMAGE, 300)]


def test_settle_members_of_other_formats_have_no_dots_to_settle(tmp_path):
    (tmp_path / "a.b.jpg").write_bytes(jpeg())
    listing = list_shards(str(tmp_path))
    assert settle(listing) == (Selection(), [])
    with pytest.raises(ConfigError, match="key-until"):
        settle(listing, "last-dot")


def test_settle_members_image_with_a_dot_has_no_last_dot(source):
    with pytest.raises(ConfigError, match=r"left\.png"):
        settle(source(a=STEREO), "last-dot", image="left.png")


CAPTIONS = [f"{i}.{kind}" for i in range(20) for kind in ("jpg", "caption", "json")]


@pytest.mark.parametrize(
    ("keep", "said"),
    [("captoin", "did you mean caption?"), ("lang", ".caption"), ("txt", ".json")],
)
def test_settle_members_kept_member_that_no_sample_has_is_an_error(source, keep, said):
    with pytest.raises(ConfigError) as caught:
        settle(source(a=CAPTIONS), keep=("json", keep))
    assert said in caught.value.message


def test_settle_members_kept_member_of_some_samples_is_fine(source):
    listing = source(a=[*CAPTIONS, "0.lang"], b=CAPTIONS)
    assert settle(listing, keep=("lang", "Caption"))[1] == []


def test_settle_members_kept_member_that_may_come_later_is_said(source, monkeypatch):
    monkeypatch.setattr(members, "_MEMBERS", 30)
    listing = source(a=[*CAPTIONS, "9.lang"])
    _, said = settle(listing, keep=("lang",))
    assert "lang" in dict(said)["take care"]
    with pytest.raises(ConfigError, match="did you mean caption"):
        settle(listing, keep=("captoin",))


def test_settle_members_images_that_are_passed_over_are_said(source):
    names = [f"{i}.{kind}" for i in range(9) for kind in ("jpg", "png", "seg.png", "txt")]
    listing = source(a=names)
    selection, said = settle(listing)
    assert count_passed_over(look(listing.shards, selection), selection) == {"png": 9, "seg.png": 9}
    assert "9 .seg.png" in dict(said)["passed over"]


def test_look_at_damaged_tars_takes_what_can_be_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html></html>" * 100)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar_of(dict.fromkeys(DOTS, b"x")))[:-900])
    (tmp_path / "c.tar").write_bytes(b"")
    seen = look(list_shards(str(tmp_path)).shards, Selection())
    assert not seen.is_whole
    assert judge_keys(seen, Selection()) == "last-dot"
    assert check_kept(seen, Selection(keep=("txt",))) == ["txt"]
