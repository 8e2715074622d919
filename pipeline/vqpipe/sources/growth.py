"""How much may come out of a file: a few bytes of gzip or Parquet can stand for days of work."""

_RATIO, _SPARE_BYTES = 100, 2**30


def most_bytes(stored: int) -> int:
    """Returns the most bytes that are read out of a file of `stored` bytes.

    That is 100 times as much and 1 GiB. Images hardly shrink; deflate reaches 1,030 times, and a
    dictionary of Parquet any number.
    """
    return _RATIO * stored + _SPARE_BYTES


def check_growth(size: int, most: int) -> None:
    """Checks that no more than `most` bytes come out of a file.

    Raises:
        ValueError: If it is more.
    """
    if size > most:
        raise ValueError(
            f"it grows past {most:,} bytes, {_RATIO} times the file and 1 GiB, as images do not: "
            "if it is honest, store it uncompressed or in smaller files"
        )
