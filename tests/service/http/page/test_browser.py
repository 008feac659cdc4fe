"""The page in Chromium: clips, recordings, live streams, errors, and that all of it is accessible.

Needs Chromium (`apt-get install chromium`), and `pip install playwright axe-playwright-python`;
skipped without them. Camera and microphone are Chromium's own fake devices.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.service.conftest import CLIPS

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install)")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (pip install)"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHIN_MS = 60_000
KEY = "anna-q7Zt4mXv9RkB2wLc8NpY"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, service: httpx.Client) -> Iterator[Any]:
    """The page of the service. Anything that its policy blocks, or that fails, fails the test."""
    context = browser.new_context(base_url=str(service.base_url))
    opened = context.new_page()
    opened.set_default_timeout(WITHIN_MS)
    failures: list[str] = []
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.on(
        "console",
        lambda message: failures.append(message.text) if "Content Security" in message.text else 0,
    )
    opened.goto("/")
    yield opened
    context.close()
    assert failures == []


def violations(page: Any) -> list[str]:
    """What axe has to say against the page as it is."""
    entries = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in entries]


def fits(page: Any) -> bool:
    """Whether nothing makes the page wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def _drawn(page: Any) -> str:
    """The first picture that maps are drawn on, as a data URL."""
    return str(page.locator("figure canvas").first.evaluate("canvas => canvas.toDataURL()"))


def test_an_example_is_answered_as_the_service_answers_it(page: Any, service: httpx.Client) -> None:
    page.locator("#leave-one-out").check()
    page.locator("#diagnostics").check()
    page.get_by_role("button", name="A seven, drawn and spoken").click()
    page.locator(".headline").wait_for()
    clip = (CLIPS / "digit-7.webm").read_bytes()
    answer = service.post("/v1/classify", files={"clip": clip}).json()
    assert page.locator(".headline .label").inner_text() == answer["prediction"]["label"]
    labels = page.locator(".bars").first.locator("tbody th").all_inner_texts()
    assert labels == [entry["label"] for entry in answer["probabilities"]]
    command = page.get_by_role("region", name="The same on a command line").inner_text()
    assert command.startswith("curl -F clip=@digit-7.webm -F attention=overlay")
    assert command.endswith("/v1/classify")
    assert page.get_by_text("What each stream changes").count() == 2, "the setting and the answer"
    assert page.get_by_role("heading", name="Energy").count() == 1
    assert violations(page) == []

    page.get_by_text("All values of a stream sum to its contribution").wait_for()
    option = page.locator(".check:has(input[type=radio])").first
    box, words = option.locator("input").bounding_box(), option.locator("span").bounding_box()
    assert abs(box["y"] + box["height"] / 2 - words["y"] - words["height"] / 2) < 3
    drawn = [_drawn(page)]
    for kind in ("Attention", "None"):
        page.get_by_role("radio", name=kind).check()
        drawn.append(_drawn(page))
    assert len(set(drawn)) == 3, "each kind of map is another picture, and none is one as well"

    before = _drawn(page)
    page.get_by_role("slider", name="Time in the clip").press("Home")
    page.wait_for_function(
        "before => document.querySelector('figure canvas').toDataURL() !== before", arg=before
    )

    page.locator("#steps").press("ArrowRight")
    steps = page.locator("#steps").input_value()
    page.get_by_text(f"-F steps={steps}").wait_for()


def test_it_fits_a_telephone_and_is_accessible_in_the_dark(
    browser: Any, service: httpx.Client
) -> None:
    context = browser.new_context(
        base_url=str(service.base_url), viewport={"width": 360, "height": 720}, color_scheme="dark"
    )
    narrow = context.new_page()
    narrow.set_default_timeout(WITHIN_MS)
    narrow.goto("/")
    narrow.get_by_role("button", name="A seven, drawn and spoken").click()
    narrow.locator(".headline").wait_for()
    assert fits(narrow)
    assert violations(narrow) == []
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no clip" * 50}
    narrow.locator("#files").set_input_files(file)
    narrow.set_viewport_size({"width": 360, "height": 480})  # the error is below the examples
    narrow.evaluate("scrollTo(0, 0)")
    narrow.get_by_role("button", name="Classify").click()
    playwright.expect(narrow.get_by_role("alert")).to_be_in_viewport()
    narrow.get_by_role("tab", name="Clip").press("ArrowRight")
    assert narrow.get_by_role("tab", name="Live").get_attribute("aria-selected") == "true"
    assert fits(narrow)
    assert violations(narrow) == []
    context.close()


def test_the_slider_of_pictures_ends_at_the_last_one(page: Any) -> None:
    pictures = [cv2.imencode(".png", np.eye(32, k=k) * 255)[1] for k in (0, 9)]
    page.locator("#files").set_input_files(
        [
            {"name": f"{i}.png", "mimeType": "image/png", "buffer": picture.tobytes()}
            for i, picture in enumerate(pictures)
        ]
    )
    page.get_by_role("button", name="Classify").click()
    slider = page.get_by_role("slider", name="Time in the clip")
    assert slider.bounding_box()["width"] > page.locator(".timeline").bounding_box()["width"] / 2
    for key, shown in (("Home", "1 of 2"), ("End", "2 of 2")):
        slider.press(key)
        assert page.locator(".timeline output").inner_text() == shown


@pytest.mark.parametrize("place", ["#drop", "#answer"])
def test_a_clip_that_is_dropped_replaces_the_one_before(page: Any, place: str) -> None:
    page.locator("#files").set_input_files(CLIPS / "digit-3.webm")
    clip = base64.b64encode((CLIPS / "digit-7.webm").read_bytes()).decode()
    dropped = page.evaluate_handle(
        """(clip) => {
            const bytes = Uint8Array.from(atob(clip), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.webm", { type: "video/webm" }));
            return transfer;
        }""",
        clip,
    )
    page.dispatch_event(place, "dragover", {"dataTransfer": dropped})
    assert "over" in page.locator("#panel-clip").get_attribute("class")
    page.dispatch_event(place, "drop", {"dataTransfer": dropped})
    assert page.locator(".files .name").all_inner_texts() == ["dropped.webm"]
    page.get_by_role("button", name="Classify").click()
    page.locator(".headline .label").wait_for()


def test_a_recording_is_classified(page: Any) -> None:
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Start", exact=True).click()
    with page.expect_response("**/v1/classify") as sent:
        page.get_by_role("button", name="Classify").click()
    answer = sent.value.json()
    assert sent.value.status == 200, answer
    assert {stream for stream, info in answer["streams"].items() if info["used"]} == {
        "audio", "visual",
    }  # fmt: skip
    page.locator(".headline").wait_for()


def test_a_live_stream_is_answered(page: Any) -> None:
    messages: list[dict[str, Any]] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda text: messages.append(json.loads(text))),
    )
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start").click()
    page.locator(".moment").first.wait_for()
    page.wait_for_function("() => document.querySelectorAll('.moment').length >= 3")
    page.get_by_text("Show map: what speaks for").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Start").wait_for()
    assert violations(page) == []
    label = page.locator(".headline .label").inner_text()
    assert page.get_by_role("heading", name=f"Contribution of each stream to {label}").count() == 1
    answers = [message for message in messages if message["type"] == "answer"]
    assert all(answer["result"]["streams"]["audio"]["used"] for answer in answers)
    assert any(answer["result"]["streams"]["visual"]["used"] for answer in answers)
    assert {answer["segment"] for answer in answers} == {0}
    summary = messages[-1]
    assert summary["type"] == "summary", "it has said that it ends"
    assert summary["messages"]["frames"] > 0


def test_a_checkpoint_that_takes_neither_pictures_nor_sound_is_named(page: Any) -> None:
    """Before anything is sent: a live stream would be refused, and a recording."""
    card = ROOT / "weights" / "ndigits-events" / "card.json"
    page.route("**/v1/models/avdigits", lambda route: route.fulfill(path=card))
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.get_by_role("button", name="Record").click()
    words = "The checkpoint ndigits-events takes no pictures and no sound"
    page.get_by_role("alert").get_by_text(words).wait_for()
    assert page.get_by_role("button", name="Start", exact=True).is_disabled()
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start").click()
    page.get_by_role("alert").get_by_text(words).wait_for()
    page.get_by_role("button", name="Start").wait_for()
    assert sockets == []


def test_devices_that_a_checkpoint_does_not_take_are_switched_off(page: Any) -> None:
    card = json.loads((ROOT / "weights" / "avdigits" / "card.json").read_bytes())
    del card["streams"]["visual"]
    page.route("**/v1/models/avdigits", lambda route: route.fulfill(json=card))
    page.get_by_role("button", name="Record").click()
    panel = page.get_by_role("tabpanel", name="Clip")
    playwright.expect(panel.get_by_label("Camera", exact=True).last).not_to_be_checked()
    playwright.expect(panel.get_by_label("Microphone")).to_be_checked()
    panel.get_by_label("Microphone").uncheck()
    panel.get_by_label("Camera", exact=True).last.check()
    page.get_by_role("alert").get_by_text("Switch the microphone on").wait_for()


def test_probabilities_have_as_many_digits_as_they_need(page: Any) -> None:
    """None but 1 is 100 %, and none between two others has another number of digits."""
    words = page.evaluate(
        "async (values) => values.map((await import('/page/elements.js')).percent)",
        [0, 1e-9, 0.05, 0.09994, 0.09996, 0.1, 0.9994, 0.9997, 0.99999, 1],
    )
    assert words == [
        "0.00 %", "< 0.01 %", "5.00 %", "9.99 %", "10.0 %", "10.0 %", "99.9 %", "99.97 %",
        "> 99.99 %", "100.0 %",
    ]  # fmt: skip


def test_errors_are_in_words(page: Any) -> None:
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no clip" * 50}
    page.locator("#files").set_input_files(file)
    page.get_by_role("button", name="Classify").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "this file format is not supported" in alert.inner_text()
    assert "unknown-format" in alert.inner_text()
    assert violations(page) == []
    page.route("**/v1/classify", lambda route: route.abort())
    page.get_by_role("button", name="Classify").click()
    page.get_by_role("alert").get_by_text("did not answer").wait_for()


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch"])
def test_the_description_sends_a_clip_alone(page: Any, path: str) -> None:
    """/docs fills in what a field may have: none of that may stand in a clip's way."""
    page.goto("/docs")
    page.locator(".opblock-summary", has=page.get_by_text(path, exact=True)).click()
    if path.endswith("batch"):
        page.get_by_role("button", name="Add string item").first.click()
    page.locator("input[type=file]").first.set_input_files(CLIPS / "digit-7.webm")
    with page.expect_response(f"**{path}") as sent:
        page.get_by_role("button", name="Execute").click()
    answer = sent.value.json()
    assert sent.value.status == 200, answer
    for each in [part["answer"] for part in answer.get("results", [])] or [answer]:
        assert each["steps"] == 4, "the checkpoint's"
        assert len(each["probabilities"]) == 10
        assert not each["abstained"]


def test_missing_features_of_the_browser_are_named(browser: Any, service: httpx.Client) -> None:
    """As where the page is not served over HTTPS, browsers give no devices there."""
    context = browser.new_context(base_url=str(service.base_url))
    context.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
    insecure = context.new_page()
    insecure.set_default_timeout(WITHIN_MS)
    insecure.goto("/#live")
    alert = insecure.get_by_role("alert")
    alert.get_by_text("served over HTTPS").wait_for()
    assert insecure.get_by_role("button", name="Start").is_disabled()
    context.close()


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Any, keyed: httpx.Client) -> None:
    context = browser.new_context(base_url=str(keyed.base_url))
    locked = context.new_page()
    locked.set_default_timeout(WITHIN_MS)
    locked.goto("/")
    locked.get_by_role("alert").get_by_text("An API key is required").wait_for()
    locked.get_by_role("textbox", name="API key").fill(KEY)
    locked.get_by_role("button", name="Use").click()
    locked.get_by_role("alert").wait_for(state="detached")
    stored = locked.evaluate("[JSON.stringify(sessionStorage), localStorage.length]")
    assert stored == [json.dumps({"scmrl.key": KEY}, separators=(",", ":")), 0]
    assert locked.context.cookies() == []
    context.close()
