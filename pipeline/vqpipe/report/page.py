"""The templates filled in: a report becomes one HTML file."""

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vqpipe.report import formats, sections
from vqpipe.report.facts import Report
from vqpipe.report.pictures import GROUPS, Fitted, fit_pictures, to_data_uri

LIMIT_BYTES = 3_000_000
"""What a page is at most: it can be sent on by mail."""
_NOTE_BYTES = 1_000
"""What headings of pictures take, and the note on them."""

_INTROS = {
    "random": ("Random", "Drawn from the evaluated images, whatever they look like."),
    "best": ("Best", "The highest PSNR of the evaluated images."),
    "worst": ("Worst", "The lowest PSNR of the evaluated images."),
}


def render_report(report: Report) -> str:
    """Returns the page: HTML that needs no network, no script and no other file.

    It takes 3 MB at most, encoded in UTF-8: where pictures would need more, they are made smaller
    or left out, and the page says so.
    """
    context = _describe(report)
    empty = Fitted({name: [] for name in GROUPS})
    taken = len(_fill(context, empty).encode())
    return _fill(context, fit_pictures(report.pictures, LIMIT_BYTES - taken - _NOTE_BYTES))


def _describe(report: Report) -> dict[str, object]:
    quality = report.quality
    return {
        "report": report,
        "state": sections.describe_state(report.counts),
        "outcome": sections.describe_outcome(report.counts),
        "figures": sections.list_figures(report),
        "statistics": [name for _, name in sections.STATISTICS],
        "quality": sections.describe_quality(quality) if quality else None,
        "codebook": sections.describe_codebook(report.code_counts),
        "drift": sections.describe_drift(report.drift),
        "rate": sections.describe_throughput(report.throughput),
        "busy": sections.describe_busy(report.throughput),
        "rejections": sections.describe_rejections(report.counts, report.rejections),
    }


def _fill(context: dict[str, object], fitted: Fitted) -> str:
    groups = [(name, *_INTROS[name], group) for name, group in fitted.groups.items() if group]
    template = _environment().get_template("page.html")
    return template.render(context, groups=groups, pictures_note=fitted.note)


@functools.cache
def _environment() -> Environment:
    """Returns the templates, where all that comes from Python is escaped and nothing is missing."""
    environment = Environment(
        loader=PackageLoader("vqpipe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "fixed", "share", "elide", "mark_options"):
        environment.filters[name] = getattr(formats, name)
    environment.filters["data_uri"] = to_data_uri
    return environment


def _finalize(value: object) -> object:
    """Returns what stands on the page for a value: text that can be shown, of bounded length."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return formats.printable(formats.elide(value, formats.LONGEST))
    return value
