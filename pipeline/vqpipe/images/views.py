"""Compressed image to uint8 RGB views and back.

    views_of  bytes            ->  its views: cut out, resized, (H, W, 3) uint8 RGB
    compress  (H, W, 3) uint8  ->  bytes of a JPEG, PNG or WebP

How many views an image has, where each is cut and how large it is, `preprocess` says; `resize`
makes them of the image that was opened here.

What becomes of what is stored:

    RGB, grey, 1-bit, palette   as they are, in RGB
    any kind of transparency    laid on the background colour
    CMYK, YCCK                  Pillow's conversion, which undoes Adobe's inversion
    grey of 12, 16 or 32 bits   0 to the greatest value becomes 0..255, rounded
    grey whose 0 is white       inverted
    16-bit colour               the high byte of each sample, as Pillow reads it; of JPEG XL too
    10- and 12-bit AVIF, HEIC   8 bits, as libavif and libheif round them
    ICC profile, gamma, cICP    ignored, but for HDR: numbers are taken as sRGB
    orientation                 of EXIF, or of XMP where that has none, applied; of AVIF and HEIC,
                                `irot` and `imir`, and of JPEG XL its own, whatever EXIF says; what
                                is unreadable counts as upright
    gain map                    ignored: the picture for screens is taken
    JPEG packed as JPEG XL      as the JPEG
    other metadata, texts       ignored, whatever their size
    animation, several pages    the first frame; of HEIC the primary image
    GIF's or WebP's space       around the first frame: transparent, as browsers have it
    data cut and closed again   rejected as truncated; `jpeg`, `png`, `tiff`, `heif`: what is seen

and what is rejected as `unsupported`, because nothing says what its numbers mean, or because Pillow
would read it as something else:

    TIFF    signed or floating-point samples, CIELab, other inks than CMYK, no word on whether 0 is
            black or white, and what `tiff` names; any kind that Pillow does not know
    PNG     a transparent colour in 16-bit RGB; something before its header
    JPEG    CMYK without Adobe's mark: nothing says whether it is inverted
    HEIC    other codecs than HEVC
    JXL     what `jxl` names: animations, floating-point samples, CMYK, profiles it would undo
    HDR     PQ and HLG, by PNG's cICP, AVIF's and HEIC's nclx, JPEG XL's colours; Radiance, OpenEXR,
            JPEG XR. What an ICC profile, or only AV1's or HEVC's own header, says of it is not seen
    any     what this Pillow is built without; HEIC and JPEG XL without the extra (`plugins`)

Pixels are resampled as `Preprocess.resize` says, by default once, from the original to the view.
Only `Preprocess.draft` has large JPEGs decoded smaller before (`draft`), which changes their views
a little. Pillow's `reducing_gap` is not used: it changes all of them.
"""

import io

import numpy as np
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from vqpipe.errors import in_one_line
from vqpipe.images import draft, hdr, heif, isobmff, jpeg, jxl, plugins, png, tiff, webp
from vqpipe.images.draft import Decoded
from vqpipe.images.orientation import size_of, turn_of
from vqpipe.images.preprocess import Preprocess, View, Views
from vqpipe.images.resize import resize_views
from vqpipe.rejections import LeftOut, Reason, Rejection

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", *plugins.INSTALLED)
"""Pillow's names of what is opened; its JPEG opens MPO too. EPS, for one, starts Ghostscript."""

_NO_CODEC = "compression format has not been built in"  # libheif's words
# Pillow's own limit warns or raises from inside `Image.open`, process-wide, at other numbers.
# `Preprocess.max_pixels` is checked at the same place: after the header, before the pixels.
Image.MAX_IMAGE_PIXELS = None
# An image has one core; threads for every core of the machine would want memory for each.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def open_image(data: bytes, how: Preprocess) -> View | Rejection | LeftOut:
    """Returns the first view of an image, or why there is none."""
    opened = views_of(data, how)
    return opened[0] if isinstance(opened, tuple) else opened


def views_of(data: bytes, how: Preprocess, lot: int = 0) -> Views | Rejection | LeftOut:
    """Returns the views of an image, or why there are none; small images are enlarged.

    Args:
        data: The image.
        how: Which views.
        lot: The image's (`crops.lot_of`), if anything of them is drawn.
    """
    if not data:
        return Rejection(Reason.EMPTY, "the image has zero bytes")
    data = webp.with_alpha(png.without_ballast(data))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            left_out = _leave_out(image, data, how) if how.where else None
            rejection = left_out or _reject_large(image, how) or _reject_kind(image, data)
            return rejection or _reject_gaps(image, data) or _views(image, how, data, lot)
    except MemoryError:
        raise  # the machine's trouble, not the image's
    except UnidentifiedImageError:
        return _unidentified(data)
    except Exception as error:  # noqa: BLE001 (decoders raise nearly anything on bad data)
        return _rejection(data, error)


def _leave_out(image: Image.Image, data: bytes, how: Preprocess) -> LeftOut | None:
    """Returns why an image is left out, by its header: none of it is decompressed for that."""
    return how.find_unmet(*size_of(image, data))


def _reject_large(image: Image.Image, how: Preprocess) -> Rejection | None:
    if image.width * image.height <= how.max_pixels:
        return None
    size = f"{image.width} x {image.height} pixels"
    return Rejection(Reason.TOO_MANY_PIXELS, f"{size} are more than {how.max_pixels}")


def _reject_kind(image: Image.Image, data: bytes) -> Rejection | None:
    """Rejects what Pillow opens, and would convert to something else than it is."""
    reason = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        reason = tiff.find_unsupported(image.tag_v2)
    elif image.format == "PNG":
        reason = png.find_unsupported(data)
    elif image.format in {"AVIF", "HEIF"}:
        reason = heif.find_unsupported(data)
    elif isinstance(image, plugins.JxlImage):
        reason = jxl.find_unsupported(image.header)
    elif image.mode == "CMYK" and "adobe" not in image.info:
        reason = "CMYK without Adobe's mark: nothing says whether it is inverted"
    return Rejection(Reason.UNSUPPORTED, f"a {image.format} file: {reason}") if reason else None


def _reject_gaps(image: Image.Image, data: bytes) -> Rejection | None:
    """Rejects a TIFF or HEIC of which strips or tiles are not there."""
    gap = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        gap = tiff.find_missing(image.tag_v2, data)
    elif image.format == "HEIF":
        gap = heif.find_missing(data)
    return Rejection(Reason.TRUNCATED, f"a {image.format} file: {gap}") if gap else None


def _check_end(image: Image.Image, data: bytes) -> None:
    """Raises OSError if a loaded image lacks what its decoder filled up without a word."""
    if image.format in {"JPEG", "MPO"} and jpeg.is_closed_early(image, data):
        raise OSError("the image data is truncated, and has an end mark, or another, all the same")
    if image.format == "PNG" and png.is_closed_early(image, data):
        raise OSError("the image data is truncated: it ends properly, and before the last row")


def _reject_long(width: int, height: int, how: Preprocess) -> Rejection | None:
    """Rejects an image of such proportions that little of it covers a view only if all is huge."""
    across, down = how.canvas_of(width, height)
    if across * down <= how.canvas_pixels:
        return None
    size = f"{width} x {height} pixels become {across} x {down} to cover a view"
    return Rejection(Reason.TOO_MANY_PIXELS, f"{size}, more than {how.canvas_pixels} in all")


def _views(image: Image.Image, how: Preprocess, data: bytes, lot: int) -> Views | Rejection:
    drafted = draft.shrink(image, data, how, lot) if how.draft else None
    image.load()
    _check_end(image, data)
    settled = _settle(image, data)
    flat = _flatten(settled if drafted else turn_of(settled).apply(settled), how.background)
    decoded = drafted or Decoded(*flat.size)
    return _reject_long(*decoded.upright, how) or resize_views(flat, decoded, how, lot)


def _settle(image: Image.Image, data: bytes) -> Image.Image:
    """Returns the image with what only its format can tell: levels, palette, transparent grey."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _settle_tiff(image)
    if isinstance(image, GifImagePlugin.GifImageFile):
        return _settle_gif(image)
    if image.format == "AVIF":
        image.info.pop("xmp", None)  # whose orientation does not count; Pillow would take it
    if image.format == "HEIF":  # which is upright
        image.info.pop("exif", None)
        image.info.pop("xmp", None)
    transparent = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(transparent, int):
        return image
    if image.mode == "L":
        image.info["transparency"] = png.transparent_level(data, transparent)
    return image


def _settle_tiff(image: TiffImagePlugin.TiffImageFile) -> Image.Image:
    if image.mode.startswith("I"):
        white = tiff.white_level(image.tag_v2)
        return _grey_from_integers(image, white, is_negative=tiff.is_negative(image.tag_v2))
    if image.mode in {"P", "PA"} and (palette := tiff.palette_of_bytes(image.tag_v2)):
        image.putpalette(palette)
    return image.convert("LA") if image.mode == "La" else image


def _settle_gif(image: GifImagePlugin.GifImageFile) -> Image.Image:
    """Returns the frame on a transparent screen; Pillow's has the palette's first colour."""
    box = image.dispose_extent
    if box is None or box == (0, 0, *image.size):
        return image
    screen = Image.new("RGBA", image.size)
    screen.paste(image.crop(box).convert("RGBA"), box)
    return screen


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Returns the image in mode RGB or, three times cheaper to resize, L; without transparency."""
    if image.mode.startswith("I"):
        return _flatten_grey_16(image, background)
    if image.has_transparency_data:
        opaque = Image.new("RGB", image.size, background)
        above = image.convert("RGBA")
        opaque.paste(above, mask=above)
        return opaque
    return image if image.mode in {"RGB", "L"} else image.convert("RGB")


def _flatten_grey_16(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    grey = _grey_from_integers(image, 65_535, is_negative=False)
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    opaque = Image.new("RGB", image.size, background)
    opaque.paste(grey, mask=Image.fromarray(np.asarray(image) != transparent))
    return opaque


def _grey_from_integers(image: Image.Image, white: int, *, is_negative: bool) -> Image.Image:
    """Returns mode L for I and I;16, which Pillow itself would clip at 255.

    No value lies so close to the middle of two levels that float32 would round it wrong: 257 and
    273 / 17, the steps of 16 and 12 bits, are not even.
    """
    stored = np.asarray(image)
    stored = stored.view(np.uint32) if image.mode == "I" else stored
    levels = stored.astype(np.float32)
    levels *= np.float32(255 / white)
    grey = np.rint(levels, out=levels).astype(np.uint8)
    return Image.fromarray(255 - grey if is_negative else grey)


def _unidentified(data: bytes) -> Rejection:
    """Tells a known format with a broken header from everything else."""
    if unread := hdr.kind_of(data) or plugins.find_missing(data):
        return Rejection(Reason.UNSUPPORTED, unread)
    for name in FORMATS:
        _, accepts = Image.OPEN[name]
        accepted = accepts is not None and accepts(data[:16])
        if isinstance(accepted, str):
            return Rejection(Reason.UNSUPPORTED, f"{name}, which this Pillow is built without")
        kind = tiff.kind_of(data) if accepted and name == "TIFF" else None
        if kind:
            return Rejection(Reason.UNSUPPORTED, f"a TIFF of a kind that is not read: {kind}")
        if accepted:
            return Rejection(Reason.CORRUPT, f"a {name} file whose header cannot be read")
    return Rejection(Reason.NOT_AN_IMAGE, f"none of the formats {', '.join(FORMATS)}")


def _rejection(data: bytes, error: Exception) -> Rejection:
    """Returns why an image is rejected at which a decoder raised."""
    kind = tiff.kind_of(data) if data.startswith((b"II", b"MM")) else None
    is_unread = str(error).startswith("unknown raw mode") or data.startswith(tiff.BIG_ENDIAN_64)
    if kind and is_unread:
        return Rejection(Reason.UNSUPPORTED, f"a TIFF of a kind that is not read: {kind}")
    message = in_one_line(error)
    if _NO_CODEC in message:
        return Rejection(Reason.UNSUPPORTED, f"a HEIC file: {message}")
    return Rejection(_reason(data, error), f"{message} ({kind})" if kind else message)


def _reason(data: bytes, error: Exception) -> Reason:
    is_cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    is_cut = is_cut or webp.is_cut(data) or isobmff.is_cut(data)
    return Reason.TRUNCATED if is_cut else Reason.CORRUPT
