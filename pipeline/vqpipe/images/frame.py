"""What views are cut of: the image as it is, or resized until it covers a width and height.

one-step, crop-first   the largest part in the middle with the proportions of the view
squash                 all of the image
short-side, adm        the image resized until it covers the view, or the part that corners are of
"""

from typing import Literal, NamedTuple

from vqpipe.images.crops import Box, Field, Kind, Size
from vqpipe.images.shapes import Shape

Resize = Literal["one-step", "crop-first", "short-side", "adm", "squash"]
RESIZES: dict[Resize, str] = {
    "one-step": "a view is resampled from where it lies in the image, and from what is around it",
    "crop-first": "it is cut out, and then resized",
    "short-side": "the image is resized until its shorter side is the view's, and then cut",
    "adm": "the image is halved (box) while it is twice as large or more, then resized, then cut",
    "squash": "the whole image is resized to the view, whatever its proportions",
}
Crop = Box
"""What is kept of an image, in pixels of it once it is upright."""


def cuts_last(resize: Resize) -> bool:
    """Tells whether views are cut of the resized image, and not of the image as it is."""
    return resize in {"short-side", "adm"}


class Cut(NamedTuple):
    """How a view is cut out of its image."""

    crop: Crop
    flip: bool
    """Whether left and right change places."""
    covered: tuple[int, int] | None = None
    """Width and height that the image is resized to cover before it is cut; None if it is not."""
    box: Box | None = None
    """What of the resized image is cut out."""


class Frame(NamedTuple):
    """Where views of one kind may lie in an image, or in what it is resized to."""

    field: Field
    size: Size
    """Width and height of a view there."""
    covered: Size | None = None
    """What the image is resized to cover; None if it is cut as it is."""
    canvas: Size = (0, 0)
    """What it then has."""

    @classmethod
    def of(cls, resize: Resize, kind: Kind, shape: Shape, image: Size) -> "Frame":
        """Returns that of an image.

        Args:
            resize: How views are made.
            kind: Which they are.
            shape: Height and width of each.
            image: Width and height of the upright image.
        """
        if cuts_last(resize):
            return cls._of_canvas(resize, kind, shape, image)
        whole = Field(0, 0, *image)
        largest = image if resize == "squash" else _largest(shape, *image)
        size = tuple(max(1, round(side / kind.scale)) for side in largest)
        return cls(whole if kind.is_random else whole.part(largest), (size[0], size[1]))

    @classmethod
    def _of_canvas(cls, resize: Resize, kind: Kind, shape: Shape, image: Size) -> "Frame":
        covered = int(shape[1] * kind.scale), int(shape[0] * kind.scale)
        canvas = halved(covered, image)[-1] if resize == "adm" else covering(covered, image)
        whole = Field(0, 0, *canvas, rounds=resize == "short-side")
        field = whole if kind.is_random else whole.part(covered)
        return cls(field, (shape[1], shape[0]), covered, canvas)

    def cut(self, box: Box, image: Size, *, flip: bool) -> Cut:
        """Returns the cut of a view that has a box of it, of an image of that width and height."""
        if self.covered is None:
            return Cut(box, flip)
        crop = _scaled(box, self.canvas, image)
        return Cut(crop, flip, self.covered, box)


def _largest(shape: Shape, width: int, height: int) -> Size:
    """Returns width and height of the largest part of an image that has a shape's proportions."""
    rows, columns = shape
    return (
        max(1, min(width, height * columns // rows)),
        max(1, min(height, width * rows // columns)),
    )


def covering(covered: Size, image: Size) -> Size:
    """Returns the size of an image of which one side is what is to be covered, the other no less.

    Torchvision's (`_compute_resized_output_size`): the longer side is rounded down.
    """
    (across, down), (width, height) = covered, image
    if width * down >= height * across:
        return max(across, down * width // height), down
    return across, max(down, across * height // width)


def halved(covered: Size, image: Size) -> list[Size]:
    """Returns the sizes of an image as it is halved, and last the one that covers a size.

    ADM's (`center_crop_arr` of guided-diffusion, `image_datasets.py`), as Lumina's programs have it
    for any proportions.
    """
    sizes = []
    while image[0] >= 2 * covered[0] and image[1] >= 2 * covered[1]:
        image = image[0] // 2, image[1] // 2
        sizes.append(image)
    scale = max(covered[0] / image[0], covered[1] / image[1])
    return [*sizes, (round(image[0] * scale), round(image[1] * scale))]


def _scaled(box: Box, canvas: Size, image: Size) -> Crop:
    """Returns a box of a canvas in pixels of the image, whole ones, and at least one each way."""
    left, right = _span(box[0], box[2], canvas[0], image[0])
    top, bottom = _span(box[1], box[3], canvas[1], image[1])
    return left, top, right, bottom


def _span(start: int, end: int, before: int, side: int) -> tuple[int, int]:
    """Returns where a part of one side lies, to the pixel, on another that it was resized from."""
    first = min(round(start * side / before), side - 1)
    return first, max(first + 1, round(end * side / before))
