"""HDR: files and marks that say that numbers reach beyond the white of a screen.

Taken as sRGB, such numbers would be another picture, dull and grey. Bringing them down to a screen
is a choice of its own (tone mapping), so they are rejected by name. A gain map, as in Ultra HDR,
comes with a picture for screens, which is opened like any other.
"""

_KINDS = {
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"II\xbc": "JPEG XR",
}
"""What files begin with; the last is of ITU-T T.832, A.5."""
_TRANSFERS = {16: "PQ", 18: "HLG"}
"""TransferCharacteristics of ITU-T H.273, which PNG, AVIF, HEIC and JPEG XL all count by."""


def kind_of(data: bytes) -> str | None:
    """Returns which format of HDR a file is of, for a person; None if it is of none."""
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    return f"{kind}, a format of HDR, is not read" if kind else None


def find_unsupported(transfer: int) -> str | None:
    """Returns why pixels of such a transfer function are no sRGB, or None."""
    name = _TRANSFERS.get(transfer)
    return f"it is HDR ({name}): its numbers are no sRGB" if name else None
