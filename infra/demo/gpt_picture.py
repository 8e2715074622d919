"""Draws what `gpt` makes beside what it was shown, and how its loss fell."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIDE, GAP, LEFT, TEXT, CURVE = 128, 8, 130, 34, 200
SMALL, NORMAL = ImageFont.load_default(12), ImageFont.load_default(14)
INKS = "dimgrey", "darkorange", "firebrick"


def draw(
    captions: Sequence[str],
    rows: Mapping[str, Tensor],
    losses: Sequence[float],
    guesses: Mapping[str, float],
) -> Image.Image:
    """Returns a page: a column a caption, a row a kind of picture, and a curve below.

    Args:
        captions: Of each picture of a row.
        rows: Pictures by what they are, each (captions, 3, H, W) uint8.
        losses: Of each step.
        guesses: Losses to compare with, by who has them.
    """
    below = TEXT + len(rows) * (SIDE + GAP)
    page = Image.new("RGB", (LEFT + len(captions) * (SIDE + GAP), below + CURVE), "white")
    pen = ImageDraw.Draw(page)
    for column, caption in enumerate(captions):
        words = caption.removeprefix("a piece of ").replace("_", " ")
        pen.text((_left(column), GAP), words, "black", SMALL)
    for row, (name, images) in enumerate(rows.items()):
        top = TEXT + row * (SIDE + GAP)
        pen.multiline_text((GAP, top + GAP), name, "black", NORMAL)
        for column, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            shown = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            page.paste(shown, (_left(column), top))
    box = (LEFT, below + 2 * GAP, page.width - 5 * GAP, page.height - 3 * GAP)
    _draw_curve(pen, box, losses, guesses)
    return page


def _left(column: int) -> int:
    return LEFT + column * (SIDE + GAP)


def _draw_curve(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    losses: Sequence[float],
    guesses: Mapping[str, float],
) -> None:
    """Draws losses from left to right in a box, and guesses as lines across it."""
    left, top, right, bottom = box
    all_of_them = [*losses, *guesses.values()]
    most, least = max(all_of_them), min(all_of_them)

    def height(loss: float) -> float:
        return bottom - (loss - least) / (most - least) * (bottom - top)

    for ink, (name, loss) in zip(INKS, guesses.items(), strict=True):
        pen.line([(left, height(loss)), (right, height(loss))], ink)
        pen.text((right, height(loss)), f"guessing {name}: {loss:.2f}", ink, SMALL, anchor="rd")
    step, means = (right - left) / max(len(losses) - 1, 1), _means(losses)
    for ink, width, curve in (("lightsteelblue", 1, losses), ("royalblue", 3, means)):
        points = [(left + number * step, height(loss)) for number, loss in enumerate(curve)]
        pen.line(points, ink, width)
    pen.multiline_text((GAP, top), "loss, in nats a\ncode, by step", "black", NORMAL)
    pen.text((right + 4, height(means[-1])), f"{means[-1]:.2f}", "royalblue", SMALL, anchor="lm")
    pen.text((left, bottom + 4), "1", "dimgrey", SMALL)
    pen.text((right, bottom + 4), f"{len(losses)}", "dimgrey", SMALL, anchor="ra")


def _means(losses: Sequence[float], over: int = 20) -> list[float]:
    """Returns the mean of each loss and those just before it."""
    parts = (losses[max(end - over, 0) : end] for end in range(1, len(losses) + 1))
    return [sum(part) / len(part) for part in parts]
