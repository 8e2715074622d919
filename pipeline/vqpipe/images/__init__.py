"""Bytes to pixels, and pixels to bytes.

preprocess  what a view is; how many an image has, how large they are, where they are cut
sizes       which sizes are wanted
shapes, crops, frame   how large views are, where they lie, and in what
resize    an image that is open to its views
views     compressed images to views, the one table of what is done with every kind
compressed, opened   many of them before and after, side by side
jpeg, png, tiff, webp, jxl, heif, hdr   what decoders do not say of a file
isobmff   the boxes that some formats are in
plugins   formats that are opened by what may be installed beside Pillow
orientation   which way a stored image is turned
draft     large JPEGs decoded at a part of their size
formats   pixels to compressed images
sandbox   the same in a child process, on a `table` in `memory` that both see: not part of this
          face, since the child imports it
"""

from vqpipe.images.compressed import Compressed
from vqpipe.images.crops import lot_of
from vqpipe.images.formats import ImageFormat, compress, size_of
from vqpipe.images.opened import OpenedImages, open_images
from vqpipe.images.preprocess import Opened, Pixels, Preprocess, View, Views
from vqpipe.images.shapes import square
from vqpipe.images.views import FORMATS, open_image, views_of

__all__ = [
    "FORMATS",
    "Compressed",
    "ImageFormat",
    "Opened",
    "OpenedImages",
    "Pixels",
    "Preprocess",
    "View",
    "Views",
    "compress",
    "lot_of",
    "open_image",
    "open_images",
    "size_of",
    "square",
    "views_of",
]
