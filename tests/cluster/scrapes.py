"""What the exporters of a Ray cluster say while a block lasts, as Prometheus would hear it."""

import contextlib
import json
import threading
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 0.25
_OF_PROMETHEUS = {"le", "quantile"}


class Scrapes:
    """The last value of every series of ours, and what each number is."""

    def __init__(self):
        self.kinds = {}
        """Type of each number, by its name without `_total`, `_bucket` and so on."""
        self.series = {}
        """Values by name of the sample and labels, these as sorted pairs."""

    def read(self, text):
        for family in text_string_to_metric_families(text):
            if family.name.startswith("ray_vqpipe_"):
                self.kinds[family.name] = family.type
                for sample in family.samples:
                    self.series[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def labels(self, name):
        """Returns the names of labels that all series of a sample have."""
        found = [{label for label, _ in labels} for known, labels in self.series if known == name]
        return set.intersection(*found) - _OF_PROMETHEUS if found else set()

    def total(self, name, **labels):
        """Returns the sum of a sample's series that have some labels."""
        wanted = set(labels.items())
        return sum(
            value
            for (known, found), value in self.series.items()
            if known == name and wanted <= set(found)
        )


@contextlib.contextmanager
def scraping(folder):
    """Yields what the nodes of a cluster say, who stand in the list that Ray makes for Prometheus.

    Args:
        folder: Of the cluster's sessions.
    """
    heard, is_over = Scrapes(), threading.Event()
    thread = threading.Thread(target=_scrape, args=(Path(folder), heard, is_over))
    thread.start()
    try:
        yield heard
    finally:
        is_over.set()
        thread.join()


def _scrape(folder, heard, is_over):
    while not is_over.wait(EVERY_S):
        _listen(folder, heard)
    _listen(folder, heard)  # what processes said as they ended


def _listen(folder, heard):
    for target in _targets(folder / "prom_metrics_service_discovery.json"):
        with contextlib.suppress(OSError), urllib.request.urlopen(target, timeout=10) as answer:
            heard.read(answer.read().decode())


def _targets(listed):
    try:
        groups = json.loads(listed.read_text())
    except (OSError, ValueError):  # not there yet, or half of it
        return []
    return [f"http://{target}/metrics" for group in groups for target in group["targets"]]
