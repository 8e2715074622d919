"""Daft as its documentation shows it: from_glob_path, download, decode, resize, a UDF, Parquet.

It reads no tars, so it is given the images as files, and resizes in its own way, the whole image.
"""

import sys

import daft
import numpy as np
from daft import col

from tests.benchmarks import curve


@daft.udf(return_dtype=daft.DataType.fixed_size_list(daft.DataType.uint16(), 256), batch_size=64)
def network(images):
    curve.note(len(images))
    return list(np.zeros((len(images), 256), np.uint16))


def main(source, sink):
    files = daft.from_glob_path(f"{source}/*.jpg")
    pixels = col("path").download().decode_image(mode="RGB").resize(256, 256)
    files.select(col("path"), network(pixels).alias("codes")).write_parquet(sink)


if __name__ == "__main__":
    main(*sys.argv[1:])
