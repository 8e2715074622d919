"""The page that shows how good a run's codes are: one HTML file that needs nothing else.

    facts      plain data: what the page is made of
    pictures   originals and reconstructions, made to fit the page's size
    charts     places of ticks, bars and curves, in percent of a plot (`scales`)
    sections   what each part of the page says, worked out from the facts
    page       the templates filled in

All markup is in `templates/`, where everything that comes from Python is escaped.
"""

from vqpipe.report.facts import (
    Counts,
    Drift,
    Example,
    Metric,
    Picture,
    Pictures,
    Quality,
    Rejected,
    Report,
    Throughput,
)
from vqpipe.report.page import render_report

__all__ = [
    "Counts",
    "Drift",
    "Example",
    "Metric",
    "Picture",
    "Pictures",
    "Quality",
    "Rejected",
    "Report",
    "Throughput",
    "render_report",
]
