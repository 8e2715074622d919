import os
import re

import pytest

from tests.sink import runs
from vqpipe import storage
from vqpipe.commands.places import check_lengths, check_places
from vqpipe.errors import ConfigError
from vqpipe.sink import layout
from vqpipe.sink.commit import commit_rows
from vqpipe.sources.names import MAX_NAME_BYTES


@pytest.fixture
def base(tmp_path):
    """A folder with photos in it, another one, and a link to each."""
    for name in ("photos/deep", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "loop").symlink_to("../" + tmp_path.name)
    return tmp_path


def normalised(base, path):
    return storage.normalise_uri(f"{base}/{path}")


@pytest.mark.fault(31)
@pytest.mark.parametrize("source", ["photos", "link", "other/../photos"])
@pytest.mark.parametrize("below", ["", "/deep", "//no/such/../codes"])
@pytest.mark.parametrize(
    "sink", ["photos", "link", "missing/../photos", "loop/loop/link", "/photos"]
)
def test_check_places_sink_inside_its_source_by_any_path_is_config_error(base, source, sink, below):
    with pytest.raises(ConfigError, match="inside the source" if below else "the source itself"):
        check_places(normalised(base, source), normalised(base, sink + below))


@pytest.mark.fault(31)
@pytest.mark.parametrize("sink", ["", "loop", "photos/..", "link/.."])
def test_check_places_source_inside_its_sink_is_config_error(base, sink):
    with pytest.raises(ConfigError, match="inside the sink"):
        check_places(normalised(base, "photos/deep"), normalised(base, sink))


@pytest.mark.parametrize("sink", ["codes", "photos2", "other", "photos/../codes", "loop/codes"])
@pytest.mark.parametrize("source", ["photos", "link", "photos*", "missing"])
def test_check_places_beside_each_other_are_fine(base, source, sink):
    check_places(normalised(base, source), normalised(base, sink))


def test_check_places_sink_that_a_link_in_the_source_leads_to_is_config_error(base):
    (base / "photos" / "l").symlink_to("../other")
    links = [f"{base}/photos/l"]
    check_places(f"{base}/photos", f"{base}/codes", links)
    with pytest.raises(ConfigError, match=r"inside the source.*photos/l"):
        check_places(f"{base}/photos", f"{base}/other/codes", links)


STORES = [("s3", "s3"), ("gs", "gcs"), ("gcs", "gs"), ("az", "abfs"), ("abfss", "az")]


@pytest.mark.fault(31)
@pytest.mark.parametrize(("one", "other"), STORES)
def test_check_places_in_a_bucket_are_told_by_their_prefixes(one, other):
    for sink in ("photos", "photos/codes", "photos//codes", "/photos/codes", "photos/"):
        with pytest.raises(ConfigError, match=r"inside the source|is the source itself"):
            check_places(
                storage.normalise_uri(f"{one}://b/photos"),
                storage.normalise_uri(f"{other}://b/{sink}"),
            )
    for sink in (f"{other}://b/photos2", f"{other}://c/photos", f"{other}://b/codes", "/b/photos"):
        check_places(f"{one}://b/photos", sink)


def test_check_places_case_is_the_disks_own_matter(tmp_path):
    (tmp_path / "photos").mkdir()
    if os.path.exists(tmp_path / "PHOTOS"):
        with pytest.raises(ConfigError):
            check_places(f"{tmp_path}/photos", f"{tmp_path}/PHOTOS/codes")
    else:
        check_places(f"{tmp_path}/photos", f"{tmp_path}/PHOTOS/codes")


@pytest.mark.parametrize("sink", ["/sink", "s3://bucket/sink"])
def test_check_lengths_refuses_before_the_work_what_would_fail_at_its_commit(sink):
    most = 1_024 if "://" in sink else 4_095
    for size in (most - 400, most):
        name = "/".join(["x" * 99] * (size // 100))
        evaluation = f"{sink}/evaluation/{'0' * 12}"
        longest = layout.range_uri(evaluation, name, (10**8, 10**8), 10**8, "r" + "0" * 32)
        if size < most - 300:
            check_lengths(sink, ["a", name])
            assert len(longest) <= most
        else:
            with pytest.raises(ConfigError, match=re.escape(f"shard {name}")):
                check_lengths(sink, ["a", name])


def test_commit_of_a_shard_with_the_longest_name_leaves_what_it_should(tmp_path):
    name = "/".join(["é" * (MAX_NAME_BYTES // 2)] * 2)
    writer = runs.start(tmp_path, names=(name,))
    for numbers in ([4, 5], [0, 1, 2, 3]):
        commit_rows(runs.encoded_rows(writer, 0, 6, numbers), writer)
    runs.check_committed(writer, [6])
