"""What files say of the images around them, held against what was written into them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import jpeg
from tests.sink.runs import facts_of_kept, make_run
from vqpipe import storage
from vqpipe.commands.keeping import describe_about
from vqpipe.commands.kept import begun_with
from vqpipe.errors import ConfigError, MismatchError, SourceChangedError
from vqpipe.rejections import Reason
from vqpipe.schema import Selection
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sources import (
    about_files,
    count_rows,
    kept_schema,
    list_shards,
    read_shard,
    with_about,
)


@pytest.fixture
def put(base):
    """Writes images, and files about them; returns what is listed of them to keep some columns."""

    def write(*images, keep=(), **about):
        for name in images:
            storage.publish(f"{base}/{name}", jpeg())
        for name, text in about.items():
            data = text if isinstance(text, bytes) else text.encode()
            storage.replace(f"{base}/{name.replace('__', '/').replace('_dot_', '.')}", data)
        return with_about(list_shards(base, "folder"), Selection(keep=keep))

    return write


def read(listing, *keep, begun=None):
    """Returns the kept columns and, by key, their values or the reason of the rejection."""
    selection = Selection(keep=keep)
    kept = kept_schema(listing, selection, begun)
    samples = [each for shard in listing.shards for each in read_shard(shard, selection, kept)]
    assert sum(count_rows(shard, selection) for shard in listing.shards) == len(samples)
    return kept, {
        each.key: each.rejection.reason
        if each.rejection
        else tuple(each.kept[name].to_pylist()[0] if name in each.kept else None for name in keep)
        for each in samples
    }


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def lines(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


NAMES = ["b.jpg", "x/a.jpg"]
ROWS = [
    {"file_name": "x/a.jpg", "t": 'a, "b"\nc', "n": 2**53 + 1},
    {"file_name": "b.jpg", "t": "NA", "n": 1},
]
FORMATS = {
    "metadata_dot_csv": 'n,file_name,t\n9007199254740993,x/a.jpg,"a, ""b""\nc"\n1,b.jpg,NA\n',
    "metadata_dot_jsonl": lines(*ROWS),
    "metadata_dot_parquet": parquet(
        **{name: [row[name] for row in ROWS] for name in ("file_name", "t", "n")}
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_columns_of_any_format_go_with_their_images(put, name):
    listing = put(*NAMES, "c.jpg", keep=("t", "n"), **{name: FORMATS[name]})
    kept, found = read(listing, "t", "n")
    assert kept == pa.schema([("t", pa.string()), ("n", pa.int64())])
    assert found == {
        "b.jpg": ("NA", 1),
        "c.jpg": (None, None),
        "x/a.jpg": ('a, "b"\nc', 2**53 + 1),
    }
    assert listing.ignored == {}


def test_nearest_file_speaks_of_an_image_and_it_alone(put):
    listing = put(
        "a.jpg",
        "x/a.jpg",
        "x/b.jpg",
        "y/z/a.jpg",
        keep=("t",),
        metadata_dot_csv="file_name,t\na.jpg,root\nx/b.jpg,hidden\ny/z/a.jpg,far\n",
        x__metadata_dot_csv="file_name,t\na.jpg,near\n",
    )
    assert read(listing, "t")[1] == {
        "a.jpg": ("root",),
        "x/a.jpg": ("near",),
        "x/b.jpg": (None,),
        "y/z/a.jpg": ("far",),
    }
    said = str(describe_about(listing, Selection(keep=("t",))))
    assert "1 row(s) speak of no image that is read, such as 'x/b.jpg'" in said
    assert "of 1 image(s) no metadata file says anything" in said


def test_rows_of_no_image_and_of_one_twice_are_said_and_the_latter_rejected(put):
    text = "file_name,t\na.jpg,1\n./b.jpg,2\nb.jpg,3\ngone.jpg,4\n,5\n"
    listing = put("a.jpg", "b.jpg", keep=("t",), metadata_dot_csv=text)
    assert read(listing, "t")[1] == {"a.jpg": (1,), "b.jpg": Reason.BAD_METADATA}
    said = str(describe_about(listing, Selection(keep=("t",))))
    assert "2 row(s) speak of no image" in said
    assert "of 1 image(s) several rows speak: these are rejected" in said


@pytest.mark.parametrize("name", ["./x/a.jpg", "x//a.jpg", "x\\\\a.jpg", "y/../x/a.jpg"])
def test_names_are_taken_however_they_are_spelled(put, name):
    text = lines({"file_name": name.replace("\\\\", "\\"), "t": 1})
    listing = put("x/a.jpg", keep=("t",), metadata_dot_jsonl=text)
    assert read(listing, "t")[1] == {"x/a.jpg": (1,)}


def test_types_hold_the_values_of_all_files_or_two_are_named(put):
    listing = put(
        "x/a.jpg",
        "y/a.jpg",
        keep=("t",),
        x__metadata_dot_csv="file_name,t\na.jpg,1\n",
        y__metadata_dot_jsonl=lines({"file_name": "a.jpg", "t": 1.5}),
    )
    kept, found = read(listing, "t")
    assert kept == pa.schema([("t", pa.float64())])
    assert found == {"x/a.jpg": (1.0,), "y/a.jpg": (1.5,)}
    listing = put(keep=("t",), y__metadata_dot_jsonl=lines({"file_name": "a.jpg", "t": "x"}))
    with pytest.raises(ConfigError) as caught:
        read(listing, "t")
    for part in ("'t'", "x/metadata.csv", "y/metadata.jsonl"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    "about",
    [
        {"metadata_dot_csv": "file_name,t\na.jpg,12345678901234567890\n"},
        {"metadata_dot_csv": "file_name,t\na.jpg,9007199254740993\nb.jpg,1.5\n"},
        {"metadata_dot_jsonl": '{"file_name": "a.jpg", "t": 12345678901234567890}\n'},
        {"metadata_dot_jsonl": '{"file_name": "a", "t": 9007199254740993}\n{"t": 0.5}\n'},
    ],
)
def test_whole_numbers_that_would_be_rounded_are_refused(put, about):
    listing = put("a.jpg", keep=("t",), **about)
    with pytest.raises(ConfigError, match=r"metadata\.\w+ cannot be read: column 't' has \d{16}"):
        read(listing, "t")


def test_text_that_looks_like_a_time_in_json_stays_text(put):
    row = {"file_name": "a.jpg", "t": "2020-01-01", "d": {"t": ["2020-01-01"]}}
    listing = put("a.jpg", keep=("t", "d"), metadata_dot_jsonl=lines(row))
    assert read(listing, "t", "d")[1] == {"a.jpg": ("2020-01-01", {"t": ["2020-01-01"]})}


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"metadata_dot_csv": "file_name,t\na.jpg,1,2\n"}, "cannot be read"),
        ({"metadata_dot_csv": b"file_name,t\n\xff\xfe.jpg,\xff\n"}, "metadata.csv"),
        ({"metadata_dot_csv": ""}, "cannot be read"),
        ({"metadata_dot_jsonl": "{"}, "cannot be read"),
        ({"metadata_dot_parquet": b"PAR1"}, "cannot be read"),
        ({"metadata_dot_csv": "file_name,u\na.jpg,1\n"}, "columns: file_name (string), u (int64)"),
        ({"metadata_dot_csv": "name,t\na.jpg,1\n"}, "has 0 columns 'file_name'"),
        ({"metadata_dot_csv": "file_name,t,t\na.jpg,1,2\n"}, "has 2 columns 't'"),
        ({"x_dot_csv": "file_name,t\n"}, "the source has none"),
    ],
)
def test_file_that_cannot_be_used_is_refused_by_name_before_any_work(put, about, said):
    listing = put("a.jpg", keep=("t",), **about)
    with pytest.raises(ConfigError) as caught:
        read(listing, "t")
    assert said in caught.value.message


def test_two_files_of_one_folder_are_refused(put):
    text = "file_name,t\na.jpg,1\n"
    with pytest.raises(ConfigError, match=r"metadata\.csv and .*metadata\.jsonl both speak"):
        put("a.jpg", keep=("t",), metadata_dot_csv=text, metadata_dot_jsonl="{}")


@pytest.mark.parametrize("size", [10, 2**21])
def test_file_that_changes_after_it_was_listed_is_found_out(put, size):
    text = "file_name,t\na.jpg,1\n" + f"b.jpg,{'x' * size}\n"
    listing = put("a.jpg", keep=("t",), metadata_dot_csv=text)
    kept = pa.schema([("t", pa.string())])
    put(metadata_dot_csv=text.replace("1", "22"))
    with pytest.raises(SourceChangedError, match=r"metadata\.csv"):
        list(read_shard(listing.shards[0], Selection(keep=("t",)), kept))
    changed = put(keep=("t",))
    plan = Plan.of(listing.shards)
    with pytest.raises(SourceChangedError, match="--replace-changed"):
        plan.grow(Plan.of(changed.shards), Growth(extend=True), "sink")
    plain = Plan.of(put().shards)
    assert plain.grow(Plan.of(put().shards), Growth(), "sink") is plain, "nothing of it is kept"


def test_large_file_is_read_once_for_all_shards(put, monkeypatch):
    monkeypatch.setattr(about_files, "_HELD_FROM_BYTES", 0)
    monkeypatch.setattr("vqpipe.sources.folder.IMAGES_PER_SHARD", 1)
    listing = put("a.jpg", "b.jpg", keep=("t",), metadata_dot_csv="file_name,t\na.jpg,1\nb.jpg,2\n")
    about_files._load_and_hold.cache_clear()
    assert read(listing, "t")[1] == {"a.jpg": (1,), "b.jpg": (2,)}
    assert about_files._load_and_hold.cache_info().misses == 1


def test_run_that_has_begun_takes_new_files_that_go_with_its_types(put):
    listing = put("x/a.jpg", keep=("t",), x__metadata_dot_csv="file_name,t\na.jpg,1\n")
    kept = kept_schema(listing, Selection(keep=("t",)))
    run = make_run(facts=facts_of_kept(kept), keep=["t"])
    begun = begun_with(run, Plan.of(listing.shards), ("t",))
    more = put("y/a.jpg", keep=("t",), y__metadata_dot_csv="file_name,t\na.jpg,2\n")
    assert read(more, "t", begun=begun)[1] == {"x/a.jpg": (1,), "y/a.jpg": (2,)}
    other = put(keep=("t",), y__metadata_dot_csv="file_name,t\na.jpg,b\n")
    with pytest.raises(MismatchError, match=r"y/metadata\.csv, which is new"):
        read(other, "t", begun=begun)


def test_planned_shards_keep_their_images_beside_files_about_them(put):
    listing = put("a.jpg", keep=("t",), metadata_dot_csv="file_name,t\na.jpg,1\n")
    (shard,) = Plan.of(listing.shards).shards()
    assert shard == listing.shards[0]
    assert [file.uri.rpartition("/")[2] for file in shard.images] == ["a.jpg"]
    assert shard.size == shard.images[0].size
