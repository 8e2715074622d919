"""The colour photos that scikit-image 0.26 and scikit-learn 1.9 carry inside their packages.

The demo checkpoint is trained on `TRAIN` and measured on `HELD_OUT`; no photo is in both.
"""

from importlib.resources import as_file, files

from PIL import Image

PACKAGED = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "chelsea": ("skimage.data", "chelsea.png"),
    "china": ("sklearn.datasets.images", "china.jpg"),
    "coffee": ("skimage.data", "coffee.png"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
    "hubble_deep_field": ("skimage.data", "hubble_deep_field.jpg"),
    "immunohistochemistry": ("skimage.data", "ihc.png"),
    "stereo_motorcycle": ("skimage.data", "motorcycle_left.png"),
    "retina": ("skimage.data", "retina.jpg"),
    "rocket": ("skimage.data", "rocket.jpg"),
}
"""Package and file of each photo, by the name of the function that serves it there."""

HELD_OUT = ("astronaut", "coffee", "rocket")
"""Chosen before any training: a face, an object on a table, a landscape."""

TRAIN = tuple(name for name in PACKAGED if name not in HELD_OUT)


def open_photo(name: str) -> Image.Image:
    """Return one photo of `PACKAGED` in RGB, at its full size."""
    package, file = PACKAGED[name]
    with as_file(files(package) / file) as path, Image.open(path) as image:
        return image.convert("RGB")


def crop_square(image: Image.Image, side_px: int = 256) -> Image.Image:
    """Return the image's centre square, its short side first resized (bicubic) to `side_px`."""
    scale = side_px / min(image.size)
    width, height = (max(side_px, round(length * scale)) for length in image.size)
    left, top = (width - side_px) // 2, (height - side_px) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side_px, top + side_px))
