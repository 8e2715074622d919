import io
import tarfile

import pyarrow as pa
import pytest

from pipeline.images import ImageFormat
from pipeline.products import ImagesProduct

KEYS = ["astronaut.png", "x/cat.JPG", "x/cat.gif", "plain", "notes.txt"]


def finish(layout, keys):
    product = ImagesProduct(pa.schema([]), ImageFormat("png"), layout, (8, 8))
    rows = [{"row": row, "key": key, "image": key.encode()} for row, key in enumerate(keys)]
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
