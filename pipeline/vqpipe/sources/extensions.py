"""What a file is, judged by its name."""

from collections import Counter
from collections.abc import Iterable, Mapping

from vqpipe.errors import ConfigError

_JPEG_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "pjpeg", "pjp")
"""All JPEG: browsers on Windows save .jfif, older tools .jpe."""
_HEIC_EXTENSIONS = ("heic", "heif", "hif")  # of phones, of the standard, of cameras
_TWITTER_EXTENSIONS = tuple(
    f"{kind}{mark}{size}"
    for kind in ("jpg", "jpeg", "png")
    for mark in "_-:"
    for size in ("large", "orig")
)
"""What was saved from an address that ended with `.jpg:large`; most programs write `_` or `-`."""
IMAGE_EXTENSIONS = (
    *_JPEG_EXTENSIONS,
    *("png", "webp", "avif", "bmp", "tif", "tiff", "gif", "jxl"),
    *_HEIC_EXTENSIONS,
    *_TWITTER_EXTENSIONS,
)
"""Extensions of images, the preferred one first where a sample has several."""

FORMATS = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet",),
    "folder": tuple(f".{extension}" for extension in IMAGE_EXTENSIONS),
}
"""Formats and the extensions of their files."""
NO_EXTENSION = "(no extension)"


def extension(path: str) -> str:
    """Returns the lower-case extension with its dot, `.tar.gz` as one, or an empty string."""
    base = path.rpartition("/")[2].lower()
    if base.endswith(".tar.gz"):
        return ".tar.gz"
    stem, dot, last = base.rpartition(".")
    return dot + last if stem else ""


def stem(path: str) -> str:
    """Returns the path without its extension."""
    return path[: len(path) - len(extension(path))]


def count_extensions(paths: Iterable[str]) -> dict[str, int]:
    """Returns how many paths have each extension, the most frequent first."""
    counts = Counter(extension(path) or NO_EXTENSION for path in paths)
    return dict(counts.most_common())


def subtract_extensions(counts: Mapping[str, int], paths: Iterable[str]) -> dict[str, int]:
    """Returns counts of extensions without those of some paths."""
    return dict(Counter(counts) - Counter(extension(path) or NO_EXTENSION for path in paths))


def check_format(name: str) -> str:
    """Returns a known format's name as it is.

    Raises:
        ConfigError: For any other name.
    """
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is not known; use one of {', '.join(FORMATS)}")
    return name
