"""Decoders that Pillow has none of its own for, and that may be installed beside it.

    HEIF    extra `heic`: pillow-heif (libheif, libde265)
    JXL     extra `jxl`: pillow-jxl-plugin (libjxl)

JPEG XL is opened by a class of our own around the plugin's decoder: its own decodes while it looks
at the header, on all cores, and takes grey with alpha of 16 bits for one of 8.
"""

import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from vqpipe.images import isobmff, jpeg, jxl
from vqpipe.images.orientation import turn_by


def find_missing(data: bytes) -> str | None:
    """Returns what a file is and how to open it, if what opens it is not installed."""
    kind = "JPEG XL" if jxl.is_jxl(data) else isobmff.kind_of(data)
    name, extra = {"HEIC": ("HEIF", "heic"), "JPEG XL": ("JXL", "jxl")}.get(kind or "", ("", ""))
    if not extra or name in INSTALLED:
        return None
    return f"{kind}; pip install 'vqpipe[{extra}]' opens it"


class JxlImage(ImageFile.ImageFile):
    """A JPEG XL; upright, and without anything said about it."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read()
        self.header = jxl.read_header(self._data)
        self._size, self._mode = self.header.size, self.header.mode
        self.tile = []

    def load(self) -> Any:  # noqa: ANN401 (a type that Pillow does not hand out)
        """Decodes it, the first time."""
        if self._im is None:
            decoded = self._decode()
            if decoded.size != self.size:
                raise OSError("what is in it has another size than its header says")
            self.im, self._mode, self._data = decoded.im, decoded.mode, b""
        return super().load()

    def _decode(self) -> Image.Image:
        assert _jxl_decoder is not None
        try:
            is_jpeg, said, pixels, *_ = _jxl_decoder(num_threads=0)(self._data)
        except RuntimeError:  # whose text is about how to build libjxl
            raise OSError("libjxl refuses it: it is damaged, or ends early") from None
        if is_jpeg:
            return turn_by(self.header.orientation).apply(_decode_jpeg(pixels))
        if self.mode in {"LA", "La"} and len(pixels) > 2 * self.width * self.height:
            pixels = (np.frombuffer(pixels, np.uint16) >> 8).astype(np.uint8).tobytes()
        image = Image.frombytes(self.mode, (said.width, said.height), pixels)
        return image.convert("LA") if image.mode == "La" else image


def _decode_jpeg(data: bytes) -> Image.Image:
    """Returns the pixels of a JPEG that was packed as JPEG XL, as they are stored."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        if jpeg.is_closed_early(image, data):
            raise OSError("the JPEG in it is truncated")
        return image.copy()


def _import_heif() -> bool:
    """Has Pillow open HEIC, if that can be; one thread, and nothing but the image."""
    try:
        plugin = importlib.import_module("pillow_heif")
        plugin.register_heif_opener(
            decode_threads=0, thumbnails=False, depth_images=False, aux_images=False
        )
    except ImportError:
        return False
    return True


def _import_jxl() -> Callable[..., Any] | None:
    """Has Pillow open JPEG XL, if that can be; returns the decoder, or None."""
    try:
        decoder: Callable[..., Any] = importlib.import_module("pillow_jxl").Decoder
    except ImportError:
        return None
    Image.register_open(JxlImage.format, JxlImage, jxl.is_jxl)
    return decoder


_jxl_decoder = _import_jxl()
INSTALLED = (*(("HEIF",) if _import_heif() else ()), *(("JXL",) if _jxl_decoder else ()))
"""Pillow's names of what is opened here."""
