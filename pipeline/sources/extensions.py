"""What a file is, judged by its name."""

from collections import Counter

from pipeline.errors import ConfigError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")
"""Extensions of images, the preferred one first where a sample has several."""

FORMATS = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet",),
    "folder": tuple(f".{extension}" for extension in IMAGE_EXTENSIONS),
}
"""Formats and the extensions of their files. Of several in one source, the first wins: writers
such as img2dataset put a Parquet file of metadata beside each tar."""


def extension(path: str) -> str:
    """Returns the lower-case extension with its dot, `.tar.gz` as one, or an empty string."""
    base = path.rpartition("/")[2].lower()
    if base.endswith(".tar.gz"):
        return ".tar.gz"
    stem, dot, last = base.rpartition(".")
    return dot + last if stem else ""


def count_extensions(paths: list[str]) -> dict[str, int]:
    """Returns how many paths have each extension, the most frequent first."""
    counts = Counter(extension(path) or "(no extension)" for path in paths)
    return dict(counts.most_common())


def detect_format(counts: dict[str, int]) -> str | None:
    """Returns the first format of `FORMATS` that has a file, or None."""
    return next((name for name, known in FORMATS.items() if counts.keys() & set(known)), None)


def check_format(name: str) -> str:
    """Returns a known format's name as it is.

    Raises:
        ConfigError: For any other name.
    """
    if name not in FORMATS:
        raise ConfigError(f"format {name!r} is not known; use one of {', '.join(FORMATS)}")
    return name
