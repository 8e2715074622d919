"""What a command writes down of what it runs with."""

import pillow_heif
from PIL import Image

from vqpipe.commands.runs import versions


def test_versions_name_the_decoders_that_are_installed_beside_pillow():
    found = versions()
    assert found["pillow"] == Image.__version__
    assert found["pillow-heif"] == pillow_heif.__version__
    assert found["pillow-jxl-plugin"].split(".")[0].isdigit()
