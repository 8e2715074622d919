import io
import tarfile
from collections import Counter

import pyarrow as pa
import pytest

from vqpipe import schema
from vqpipe.images import ImageFormat
from vqpipe.stages.decode import ImagesProduct

KEYS = ["astronaut.png", "x/cat.JPG", "x/cat.gif", "plain", "notes.txt"]


def finish(layout, keys, **kept):
    fields = pa.schema([(name, pa.string()) for name in kept])
    product = ImagesProduct(fields, ImageFormat("png"), layout, (8, 8))
    values = {schema.KEPT + name: text for name, text in kept.items()}
    rows = [{"row": n, "key": key, "image": key.encode(), **values} for n, key in enumerate(keys)]
    written = []
    table = pa.Table.from_pylist(rows, schema=product.rows)
    finished = product.finish([table], "a", {}, written.append)
    return pa.concat_tables(written), finished.beside


@pytest.mark.parametrize("layout", ["folder", "webdataset"])
def test_images_product_files_have_the_ending_of_their_new_format_and_no_other(layout):
    columns, beside = finish(layout, KEYS)
    files = columns["file"].to_pylist()
    dot = "." if layout == "folder" else "%2E"  # a webdataset's key ends at its first dot
    assert files == [
        "astronaut.png",
        f"x/cat{dot}JPG.png",
        f"x/cat{dot}gif.png",
        "plain.png",
        f"notes{dot}txt.png",
    ]
    assert columns["key"].to_pylist() == KEYS
    if layout == "folder":
        assert beside.files == {f: k.encode() for f, k in zip(files, KEYS, strict=True)}
    else:
        with tarfile.open(fileobj=io.BytesIO(beside.files[""])) as tar:
            assert tar.getnames() == files


def test_tar_of_long_keys_and_long_columns_can_be_unpacked_on_any_disk(tmp_path):
    texts = {"caption": "a cat", "c" * 40: "room", "ü" * 100: "a long name", "c" * 255: "another"}
    keys = ["k" * 254, "deep/" + "k" * 254, "ü" * 100]
    _, beside = finish("webdataset", keys, **texts)
    with tarfile.open(fileobj=io.BytesIO(beside.files[""])) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # before 3.11.4 there is none
        tar.extractall(tmp_path)  # ext4, APFS and NTFS take 255 in one name
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert Counter(path.name.partition(".")[2] for path in found) == dict.fromkeys(
        ("png", "caption", "c" * 40, "json"), len(keys)
    )
