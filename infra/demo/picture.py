"""Puts original photos beside what their stored codes decode to."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds
import torch
from PIL import Image, ImageDraw, ImageFont

from infra.demo.photos import HELD_OUT
from vqpipe.metrics import psnr
from vqpipe.vqgan import VQModel

COLUMNS, SIDE, GAP, TEXT = 5, 256, 12, 44


def draw_pairs(folder: Path, sink: Path, model: Path, picture: Path) -> float:
    """Draws every whole photo above its reconstruction; returns their mean PSNR in dB."""
    rows = _whole_photos(sink)
    views = [_view(folder / row["key"], row["crop"]) for row in rows]
    decoded = _decode(model, [row["codes"] for row in rows])
    scores = [psnr(view, image) for view, image in zip(views, decoded, strict=True)]
    names = [Path(row["key"]).stem for row in rows]
    _draw(names, views, decoded, scores).save(picture)
    return float(np.mean(scores))


def _whole_photos(sink: Path) -> list[dict[str, object]]:
    table = ds.dataset(sink / "data").to_table(columns=["key", "codes", "crop"])
    return [row for row in table.to_pylist() if row["key"].startswith("whole/")]


def _view(path: Path, crop: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=crop)
    return np.asarray(square)


@torch.inference_mode()
def _decode(model: Path, codes: list[list[int]]) -> npt.NDArray[np.uint8]:
    """Returns (N, 256, 256, 3) uint8 of flat code lists."""
    grid = round(len(codes[0]) ** 0.5)
    network = VQModel.from_pretrained(model)
    batch = torch.tensor(codes).view(-1, grid, grid)
    pixels = torch.cat([network.decode_codes(part) for part in batch.split(4)])  # [-1, 1]
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _draw(
    names: list[str],
    views: list[npt.NDArray[np.uint8]],
    decoded: npt.NDArray[np.uint8],
    scores: list[float],
) -> Image.Image:
    rows = -(-len(names) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (2 * SIDE + TEXT + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for i, (name, view, image, score) in enumerate(zip(names, views, decoded, scores, strict=True)):
        left = GAP + (i % COLUMNS) * (SIDE + GAP)
        top = GAP + (i // COLUMNS) * (2 * SIDE + TEXT + GAP)
        page.paste(Image.fromarray(view), (left, top))
        page.paste(Image.fromarray(image), (left, top + SIDE + 4))
        note = ", not trained on" if name in HELD_OUT else ""
        pen.text((left, top + 2 * SIDE + 8), name, "black", font)
        pen.text((left, top + 2 * SIDE + 25), f"{score:.1f} dB{note}", "dimgrey", font)
    return page
