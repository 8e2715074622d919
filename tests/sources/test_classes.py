import json

import pyarrow as pa
import pytest

from tests.makers import jpeg
from tests.sink.runs import facts_of_kept, make_run
from vqpipe import storage
from vqpipe.commands.kept import begun_with
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.schema import Selection
from vqpipe.sink.plan import Plan
from vqpipe.sources import kept_schema, list_shards, read_shard

FOLDERS = Selection(label="folder")


def put(folder, *names):
    for name in names:
        storage.publish(f"{folder}/{name}", jpeg())
    return list_shards(str(folder))


def labels(listing, kept):
    samples = [each for shard in listing.shards for each in read_shard(shard, FOLDERS, kept)]
    return {each.key: each.kept["label"].to_pylist()[0] for each in samples}


def test_classes_are_the_first_folders_in_plain_order(tmp_path):
    listing = put(tmp_path, "b/0.jpg", "B/1.jpg", "a 10/x/y.jpg", "a 9/z.png", "ä/a.jpg", "top.jpg")
    kept = kept_schema(listing, FOLDERS)
    names = ["B", "a 10", "a 9", "b", "ä"]
    assert kept.field("label").type == pa.int64()
    said = {"label": {"names": names, "_type": "ClassLabel"}}
    assert json.loads(kept.metadata[b"huggingface"]) == {"info": {"features": said}}
    assert labels(listing, kept) == {
        "B/1.jpg": 0,
        "a 10/x/y.jpg": 1,
        "a 9/z.png": 2,
        "b/0.jpg": 3,
        "top.jpg": None,
        "ä/a.jpg": 4,
    }


def test_run_that_has_begun_keeps_its_numbers_and_refuses_new_classes(tmp_path):
    listing = put(tmp_path, "b/0.jpg", "d/0.jpg")
    kept = kept_schema(listing, FOLDERS)
    begun = begun_with(make_run(facts=facts_of_kept(kept)), Plan.of(listing.shards), ())
    storage.delete(f"{tmp_path}/b/0.jpg")
    more = put(tmp_path, "d/1.jpg")
    assert kept_schema(more, FOLDERS, begun).equals(kept, check_metadata=True)
    assert labels(more, kept) == {"d/0.jpg": 1, "d/1.jpg": 1}
    with pytest.raises(MismatchError, match="such as 'c'"):
        kept_schema(put(tmp_path, "c/0.jpg"), FOLDERS, begun)


def test_images_without_class_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="all images lie in"):
        kept_schema(put(tmp_path, "a.jpg"), FOLDERS)


def test_classes_of_other_formats_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    with pytest.raises(ConfigError, match="--label folder is about folders of images"):
        kept_schema(list_shards(str(tmp_path)), FOLDERS)


def test_column_of_that_name_beside_it_is_refused(tmp_path):
    listing = put(tmp_path, "a/a.jpg")
    with pytest.raises(ConfigError, match="'label', which the output has already"):
        kept_schema(listing, Selection(label="folder", keep=("label",)))
