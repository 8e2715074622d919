"""Recipes: how published trainers make views of their images, by name.

llamagen    FoundationVision/LlamaGen, `autoregressive/train/extract_codes_c2i.py --ten-crop`, run
            with `--crop-range 1.1` and again with 1.05; `center_crop_arr` of its augmentation.py
open-muse   huggingface/open-muse, `scripts/pre_encode.py`: bilinear, antialiased, there of floats
            on a GPU, here of bytes as Pillow does
4m          apple/ml-4m, `save_vq_tokens.py --n_crops 10`, its `min_crop_scale` and `crop_ratio`;
            what is drawn there of a process's state is drawn here of seed and key
lumina      Alpha-VLLM/Lumina-DiMOO, `pre_tokenizer`: `generate_crop_size_list` of 512 px, and
            `var_center_crop`; the crop, at a random place there, is in the middle here
"""

from dataclasses import dataclass
from typing import Literal

RecipeName = Literal["llamagen", "open-muse", "4m", "lumina"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe says; the fields are options of `vqpipe encode`."""

    views: tuple[str, ...] = ("center",)
    flip: Literal["none", "both", "random"] = "none"
    resize: Literal["one-step", "crop-first", "short-side", "adm", "squash"] = "one-step"
    resample: Literal["bicubic", "lanczos", "bilinear", "box"] = "bicubic"
    buckets: tuple[str, ...] = ()
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)


PLAIN = Recipe()
"""What is done unless another is asked for."""

RECIPES: dict[RecipeName, Recipe] = {
    "llamagen": Recipe(views=("ten-crop:1.1", "ten-crop:1.05"), resize="adm"),
    "open-muse": Recipe(resize="short-side", resample="bilinear"),
    "4m": Recipe(
        views=("random-resized:10",),
        flip="random",
        resize="crop-first",
        crop_area=(0.8, 1.0),
        crop_ratio=(0.75, 1.3333),
    ),
    "lumina": Recipe(buckets=("lumina:512",), resize="adm"),
}
