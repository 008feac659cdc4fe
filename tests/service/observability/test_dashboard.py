"""The Grafana dashboard and the service agree on what there is to see."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from service.observability.state_metrics import DEPRECATED
from tests.conftest import ROOT
from tests.service.running_server import wait_until
from tests.service.scraped import scrape

DASHBOARD = ROOT / "docker" / "grafana" / "scmrl.json"
#: What is not a name of a metric in PromQL as the dashboard has it: between braces, brackets or
#: parentheses of labels, or a function's name.
_NOT_NAMES = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on)\s*\([^)]*\)")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w|\s*\()")


def names(query: str) -> set[str]:
    """The metrics that a query asks for."""
    words = set(_NAME.findall(_NOT_NAMES.sub(" ", query)))
    return words - {"by", "or", "and", "unless", "on"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_query_finds_something_and_every_metric_is_shown(
    service: httpx.Client, clip: bytes
) -> None:
    assert service.post("/v1/classify", files={"clip": clip}).status_code == 200
    wait_until(lambda: "scmrl_firing_rate_count" in scrape(service).samples)
    exposed = set(scrape(service).samples) - set(DEPRECATED)
    dashboard = json.loads(DASHBOARD.read_text())
    queried: set[str] = set()
    for panel in panels(dashboard):
        for target in panel["targets"]:
            metrics = names(target["expr"])
            assert metrics, target["expr"]
            assert metrics <= exposed, f"{panel['title']}: {metrics - exposed} are not exposed"
            queried |= metrics
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.match(r"label_values\((\w+), \w+\)", variable["definition"])
            assert metric
            assert metric[1] in exposed

    parts = re.compile("_(?:bucket|sum|count)$")
    on_panels = {parts.sub("", name) for name in queried}
    ours = {
        parts.sub("", name)
        for name in exposed
        if name.startswith("scmrl_") and not name.endswith("_created")
    }
    assert ours <= on_panels, f"on no panel: {ours - on_panels}"


def test_names_are_what_a_query_asks_for() -> None:
    query = 'sum by (le, route) (rate(a_bucket{x="b_total"}[5m])) / (sum(c_total) > 0) or vector(0)'
    assert names(query) == {"a_bucket", "c_total"}


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in panels(dashboard)]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on each other"
    assert all(x < 24 for x, _ in cells)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used - {"__rate_interval"} <= variables
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"
