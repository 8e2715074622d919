"""What becomes of formats whose decoders are not installed."""

import subprocess
import sys

import pytest
from PIL import Image

from tests.images.jxls import boxed
from tests.makers import encoded, picture

OPEN_WITHOUT = """
import sys
from pathlib import Path

sys.modules |= dict.fromkeys(sys.argv[2:])  # importing them is an ImportError
from vqpipe.images import FORMATS, Preprocess, open_image, square

for path in sorted(Path(sys.argv[1]).iterdir()):
    found = open_image(path.read_bytes(), Preprocess(square(8)))
    print(path.name, getattr(found, "reason", "opened"), getattr(found, "message", ""), sep="|")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    heic, jxl = (encoded(picture(60, 40), kind) for kind in ("HEIF", "JXL"))
    files = {"a.avif": encoded(picture(60, 40), "AVIF"), "a.heic": heic, "a.jpg": jpeg()}
    files |= {"a.jxl": jxl, "b.heic": heic[:8] + b"mif1" + heic[12:], "b.jxl": boxed(jxl)}
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def jpeg():
    return encoded(Image.new("RGB", (20, 20)), "JPEG")


def opened_without(folder, *modules):
    command = [sys.executable, "-c", OPEN_WITHOUT, str(folder), *modules]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split("|")[0]: tuple(line.split("|")[1:]) for line in output.splitlines()}


def test_format_without_its_extra_is_unsupported_and_the_extra_is_named(folder):
    found = opened_without(folder, "pillow_heif", "pillow_jxl")
    heic = ("unsupported", "HEIC; pip install 'vqpipe[heic]' opens it")
    jxl = ("unsupported", "JPEG XL; pip install 'vqpipe[jxl]' opens it")
    assert found == {
        **dict.fromkeys(("a.heic", "b.heic"), heic),
        **dict.fromkeys(("a.jxl", "b.jxl"), jxl),
        **dict.fromkeys(("a.avif", "a.jpg"), ("opened", "")),
    }


@pytest.mark.parametrize(
    ("module", "missing"),
    [("pillow_heif", "heic"), ("_pillow_heif", "heic"), ("pillow_jxl", "jxl")],
)
def test_format_without_one_extra_leaves_the_other(folder, module, missing):
    found = opened_without(folder, module)
    assert {name for name, (reason, _) in found.items() if reason == "unsupported"} == {
        f"a.{missing}",
        f"b.{missing}",
    }
