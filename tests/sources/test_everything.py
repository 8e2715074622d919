"""What --keep-all stands for, and what it says that it leaves."""

import pyarrow as pa
import pyarrow.parquet as pq

from tests.makers import jpeg, tar_of
from vqpipe.schema import Selection
from vqpipe.sources import list_shards, read_shard
from vqpipe.sources.everything import find_everything

PHOTO = jpeg()


def test_all_columns_are_those_of_all_files_but_images_keys_and_our_own(tmp_path):
    plain = {
        "id": ["a"],
        "image": [PHOTO],
        "caption": ["c"],
        "width": [1],
        "phash": [b"12345678"],
        "thumbnail": [PHOTO],
        "masks": [[PHOTO]],
        "tags": [["a"]],
        "uuid": pa.array([bytes(16)], pa.uuid()),
    }
    pq.write_table(pa.table({**plain, "first_only": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({**plain, "second_only": [1]}), tmp_path / "b.parquet")
    listing = list_shards(str(tmp_path))
    found = find_everything(listing, Selection("image", "id"), read_shard)
    assert found.names == ["caption", "phash", "tags"]
    assert found.passed_over == {
        "width": "the output has one of that name",
        "thumbnail": "it may hold images",
        "masks": "it may hold images",
        "uuid": "an extension type",
        "first_only": "not in all files, or twice in one",
        "second_only": "not in all files, or twice in one",
    }
    several = find_everything(listing, Selection(("thumbnail", "masks"), "id"), read_shard)
    assert several.passed_over["image"] == "the output has one of that name"


def test_all_members_are_those_of_text_by_their_names(tmp_path):
    kinds = ("jpg", "seg.png", "txt", "en.txt", "json", "cls", "npy", "mp3", "xcf")
    members = [(f"{i}.{kind}", b"1") for i in range(3) for kind in kinds]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    found = find_everything(list_shards(str(tmp_path)), Selection(), read_shard)
    assert found.names == ["cls", "en.txt", "json", "txt"]
    assert found.passed_over == dict.fromkeys(["xcf", "mp3", "npy"], "no text by its name")


def test_all_that_is_said_of_images_is_what_all_files_say(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(PHOTO)
        text = f"caption,file_name,row,only_{name}\nc,a.jpg,1,2\n"
        (tmp_path / name / "metadata.csv").write_text(text)
    found = find_everything(list_shards(str(tmp_path)), Selection(), read_shard)
    assert found.names == ["caption"]
    assert set(found.passed_over) == {"row", "only_x", "only_y"}
