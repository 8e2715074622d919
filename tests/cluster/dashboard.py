"""The dashboard in `infra/grafana/`: its queries, and the numbers and labels that they ask for."""

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[2] / "infra/grafana/vqpipe.json"
NUMBER = re.compile(r"\b(ray_vqpipe_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPS = re.compile(r"\bby\s*\(([^)]*)\)")
FILLED_IN = {"$__rate_interval": "1m", "$stage": ".*", "$run": ".*"}


def load():
    return json.loads(FILE.read_text())


def queries():
    """Returns all that the panels ask Prometheus, by panel, with the variables filled in."""
    found = []
    for panel in load()["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in FILLED_IN.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def numbers(query):
    """Returns the numbers that a query asks for, and the labels that each has to have."""
    groups = {each.strip() for found in GROUPS.findall(query) for each in found.split(",")}
    return [
        (name, (set(LABEL.findall(selector)) | groups) - {"le"})
        for name, selector in NUMBER.findall(query)
    ]
