"""How a command has images become views: its recipe, its options, and what the model takes."""

import math
from dataclasses import fields, replace
from typing import Any

from vqpipe.code_layout import CodeLayout
from vqpipe.codec.weights import Weights
from vqpipe.commands.model import layout_of
from vqpipe.commands.recipes import PLAIN, RECIPES, Recipe
from vqpipe.commands.stage_jobs import Encode
from vqpipe.conditions.expression import parse
from vqpipe.errors import ConfigError
from vqpipe.images import Preprocess, square
from vqpipe.images.shapes import Shape, parse_buckets, parse_fit, word_of


def settle_views(job: Encode, weights: Weights) -> Preprocess:
    """Returns how images become views.

    Raises:
        ConfigError: If options do not go together, or the model takes no such images.
    """
    recipe = _recipe_of(job)
    try:
        shapes = _shapes(job, recipe, weights)
        how = Preprocess(
            shapes,
            recipe.resample,
            job.background,
            job.max_pixels,
            job.draft,
            "squash" if job.fit else recipe.resize,
            recipe.views,
            recipe.flip,
            job.seed,
            inside=job.fit is not None,
            area=recipe.crop_area,
            ratio=recipe.crop_ratio,
            where=parse(job.where).sizes,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return how if how.draws else replace(how, seed=0)


def _recipe_of(job: Encode) -> Recipe:
    """Returns what the recipe says, and in its place what is said beside it."""
    base = RECIPES[job.recipe] if job.recipe else PLAIN
    said = {each.name: getattr(job, each.name) for each in fields(Recipe)}
    if job.fit and (job.recipe or said["resize"] or said["buckets"]):
        raise ConfigError(
            "--fit has whole images in views: leave out --recipe, --resize, --buckets"
        )
    return replace(base, **{name: value for name, value in said.items() if value})


def _shapes(job: Encode, recipe: Recipe, weights: Weights) -> tuple[Shape, ...]:
    """Returns the heights and widths that views may have, all of which the model takes."""
    if not (job.fit or recipe.buckets):
        layout_of(job.resolution, weights)
        return square(job.resolution)
    model = weights.description
    said = f"--fit {job.fit}" if job.fit else f"--buckets {' '.join(recipe.buckets)}"
    try:
        if job.fit:
            shapes = parse_fit(job.fit, model.multiple)
        else:
            shapes = parse_buckets(recipe.buckets, model.multiple)
    except ValueError as error:
        raise ConfigError(f"{said}: {error}") from None
    for shape in shapes:
        if fault := model.find_fault(*shape):
            raise ConfigError(f"{said}: views of {word_of(shape)} px are {fault}")
    return shapes


def codes_of(how: Preprocess, weights: Weights) -> CodeLayout:
    """Returns what the codes of an image are."""
    layouts = [weights.description.layout_of(*shape) for shape in how.shapes]
    return layouts[0] if len(layouts) == 1 else CodeLayout.grids(layouts)


def identify(how: Preprocess) -> dict[str, Any]:
    """Returns what a run's identity says of views: what `preprocess_of` makes them of again."""
    is_square = len(how.shapes) == 1 and how.shapes[0][0] == how.shapes[0][1]
    is_drawn = any(kind.startswith("random-resized") for kind in how.kinds)
    return {
        "resolution": round(math.sqrt(max(math.prod(shape) for shape in how.shapes))),
        "resample": how.resample,
        "background": how.background,
        "max_pixels": how.max_pixels,
        "draft": how.draft,
        "resize": how.resize,
        "views": how.kinds,
        "flip": how.flip,
        "seed": how.seed,
        "shapes": () if is_square else tuple(map(word_of, how.shapes)),
        "inside": how.inside,
        "crop_area": how.area if is_drawn else (),
        "crop_ratio": how.ratio if is_drawn else (),
    }
