"""`make audit` says that versions are clean only where an index of advisories was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ci import load
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

audit = load("audit")
CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 3

FLASK = audit.Pin("flask", "0.12")
IDNA = audit.Pin("idna", "3.20")
#: An advisory as an OSV server sends it.
ADVISORY = {
    "id": "PYSEC-2018-66",
    "aliases": ["CVE-2018-1000656"],
    "summary": "Unexpected memory use with a crafted encoding of JSON.",
    "affected": [
        {
            "package": {"name": "flask", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.12.3"}]}],
        }
    ],
}


# --- reports that pip-audit 2.10.1 wrote -----------------------------------------------------


def recorded(name: str) -> Any:
    return audit.read_report(
        (ROOT / "tests" / "data" / "audit" / name).read_text(), "", [FLASK, IDNA]
    )


def test_a_report_of_versions_without_advisories_is_clean() -> None:
    report = recorded("clean.json")
    assert report.code == CLEAN
    assert report.asked == (FLASK, IDNA)


def test_a_report_names_the_vulnerable_package_its_version_and_the_fixed_one() -> None:
    report = recorded("vulnerable.json")
    assert report.code == VULNERABLE
    assert "flask 0.12: PYSEC-2018-66, CVE-2018-1000656; fixed in 0.12.3" in str(report)
    assert "idna 3.20:" not in str(report)


def test_packages_that_pip_audit_skipped_are_not_clean() -> None:
    report = recorded("skipped.json")
    assert report.code == NOT_ASKED
    assert "2 of 2 versions" in str(report)
    assert "Dependency not found on PyPI and could not be audited" in str(report)


# --- anything that pip-audit may print -------------------------------------------------------

OUTCOMES = ("clean", "vulnerable", "unfixed", "skipped", "absent", "other version")


def entry(pin: Any, outcome: str) -> list[dict[str, Any]]:
    """The entries of pip-audit's report about a pin."""
    if outcome == "absent":
        return []
    if outcome == "skipped":
        return [{"name": pin.name, "skip_reason": f"{pin.name} is not there"}]
    version = "0.0.0" if outcome == "other version" else pin.version
    fixed = {"vulnerable": ["9.9"], "unfixed": []}.get(outcome)
    vulns = [] if fixed is None else [{"id": f"X-{pin.name}", "fix_versions": fixed}]
    return [{"name": pin.name, "version": version, "vulns": vulns}]


@given(st.lists(st.sampled_from(OUTCOMES), max_size=8))
def test_one_advisory_is_vulnerable_and_else_one_version_not_asked_about_is_not_clean(
    outcomes: list[str],
) -> None:
    pins = [audit.Pin(f"package-{place}", f"1.{place}") for place in range(len(outcomes))]
    pairs = list(zip(pins, outcomes, strict=True))
    printed = {"dependencies": [e for pin, outcome in pairs for e in entry(pin, outcome)]}
    report = audit.read_report(json.dumps(printed), "", pins)

    if {"vulnerable", "unfixed"} & set(outcomes):
        assert report.code == VULNERABLE
    elif not outcomes or {"skipped", "absent", "other version"} & set(outcomes):
        assert report.code == NOT_ASKED
    else:
        assert report.code == CLEAN
    for pin, outcome in pairs:
        if outcome == "vulnerable":
            assert f"{pin.name} {pin.version}: X-{pin.name}; fixed in 9.9" in str(report)
        if outcome == "skipped":
            assert f"{pin.name} is not there" in str(report)


@pytest.mark.parametrize("printed", ["", "null", "[]", "{}", '{"dependencies": 3}', "Traceback"])
def test_without_a_report_the_result_is_not_clean_and_has_pip_audits_error(printed: str) -> None:
    errors = "WARNING:pip_audit._cli:a hint\nTraceback:\n  a line\nConnectionError: no such host\n"
    report = audit.read_report(printed, errors, [FLASK, IDNA])
    assert report.code == NOT_ASKED
    assert "no such host" in str(report)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["name", "version", "vulns", "id", "x"]), inner)
    ),
    max_leaves=8,
)


@given(json_values, st.lists(json_values, max_size=3))
def test_a_report_of_another_form_is_not_clean_and_not_vulnerable(
    whole: Any, dependencies: list[Any]
) -> None:
    for document in (whole, {"dependencies": dependencies}):
        report = audit.read_report(json.dumps(document), "it failed", [FLASK])
        assert report.code == NOT_ASKED


@pytest.mark.parametrize("vulns", [None, 3, [3], [{}], [{"id": "X"}], "none"])
def test_advisories_of_another_form_are_not_read_as_none(vulns: object) -> None:
    document = {"dependencies": [{"name": "flask", "version": "0.12", "vulns": vulns}]}
    assert audit.read_report(json.dumps(document), "", [FLASK]).code == NOT_ASKED


# --- pip-audit itself, and an index on this machine ------------------------------------------


@contextmanager
def index(vulnerable: str, status: int = 200) -> Iterator[str]:
    """Serve advisories as OSV does: one for the package that is named, none for others."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = {"vulns": [ADVISORY]} if query["package"]["name"] == vulnerable else {}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str) -> Any:
    pytest.importorskip("pip_audit", reason="pip-audit is in the extra dev")
    return audit.ask([FLASK, IDNA], ["-s", "osv", "--osv-url", url])


def test_an_advisory_of_the_index_makes_its_version_vulnerable() -> None:
    with index(vulnerable="flask") as url:
        report = ask(url)
    assert report.code == VULNERABLE
    assert [(a.pin, a.fixed) for a in report.advisories] == [(FLASK, ("0.12.3",))]


def test_an_index_without_advisories_makes_versions_clean() -> None:
    with index(vulnerable="another") as url:
        assert ask(url).code == CLEAN


def test_an_index_that_fails_or_cannot_be_reached_does_not_make_them_clean() -> None:
    with index(vulnerable="flask", status=500) as url:
        assert ask(url).code == NOT_ASKED
    report = ask(url)  # the server has stopped
    assert report.code == NOT_ASKED
    assert "127.0.0.1" in str(report)


# --- the lock --------------------------------------------------------------------------------


def test_every_version_of_the_lock_is_asked_about_and_a_package_once_in_a_run() -> None:
    text = (ROOT / "requirements.lock").read_text()
    groups = audit.split(audit.read_pins(text))
    lines = [line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert sorted(f"{pin.name}=={pin.version}" for group in groups for pin in group) == sorted(
        lines
    )
    for group in groups:
        assert len({pin.name for pin in group}) == len(group)
