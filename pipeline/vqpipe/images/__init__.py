"""Bytes to pixels, and pixels to bytes.

views     compressed images to views, the one table of what is done with every kind
jpeg, png, tiff, webp   what decoders do not say of a file
sandbox   the same in a child process: not part of this face, since the child imports it
"""

from vqpipe.images.formats import ImageFormat, compress
from vqpipe.images.views import FORMATS, Opened, Pixels, Preprocess, View, open_image, open_images

__all__ = [
    "FORMATS",
    "ImageFormat",
    "Opened",
    "Pixels",
    "Preprocess",
    "View",
    "compress",
    "open_image",
    "open_images",
]
