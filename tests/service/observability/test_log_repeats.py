"""Lines of log that repeat are written once a minute, with their number."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.observability.log_repeats import RepeatLimit, Suppressed

#: A line: seconds since the last one, which place in the code logs it, and its text.
LINES = st.lists(
    st.tuples(
        st.floats(0, 40), st.sampled_from("abc"), st.sampled_from([f"t{n}" for n in range(6)])
    )
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_text_is_let_through_once_a_minute_and_the_rest_is_counted() -> None:
    clock = Clock()
    limit = RepeatLimit(window_s=60, max_texts=2, clock=clock)
    assert [limit.admit("a", text) for text in ("x", "x", "y", "z", "y")] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert limit.admit("b", "x"), "another place in the code"
    clock.now = 59
    assert list(limit.ended()) == []
    clock.now = 60
    assert list(limit.ended()) == [Suppressed(3, 60, "y")]
    assert limit.admit("a", "x")


@given(LINES)
def test_every_line_is_let_through_or_counted(lines: list[tuple[float, str, str]]) -> None:
    clock, admitted, counted = Clock(), 0, 0
    limit = RepeatLimit(window_s=60, max_texts=3, clock=clock)
    recent: Counter[str] = Counter()
    for seconds, source, text in lines:
        clock.now += seconds
        counted += sum(one.count for one in limit.ended())
        if limit.admit(source, text):
            admitted += 1
            recent[f"{source} {int(clock.now // 60)}"] += 1
    counted += sum(one.count for one in limit.ended(all_windows=True))
    assert admitted + counted == len(lines)
    assert list(limit.ended(all_windows=True)) == []
    assert max(recent.values(), default=0) <= 2 * 3, "two windows may share a minute of the clock"


PROGRAM = """
import logging
from service.observability import logs
logs.configure("info", "json")
log = logging.getLogger("scmrl.http")
for number in range(5000):
    log.warning("too many open files")
for number in range(5000):
    log.warning("process %d has died", number)
for number in range(30):
    log.info("checkpoint is ready")
    logging.getLogger("scmrl.access").warning("GET /")
    try:
        raise ValueError("the same")
    except ValueError:
        log.exception("a bug")
"""


def test_a_flood_of_warnings_is_a_few_lines_and_their_numbers() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in io.StringIO(ran.stderr)]
    texts = Counter(line["message"] for line in lines)
    assert texts["too many open files"] == 1
    assert sum(count for text, count in texts.items() if text.startswith("process")) == 20
    assert texts["checkpoint is ready"] == texts["GET /"] == 30
    assert texts["a bug"] == 1
    summaries = [line for line in lines if line["logger"] == "scmrl.logs"]
    assert [line["suppressed"] for line in summaries] == [4999, 4980, 29]
    assert "4999 more such lines in" in summaries[0]["message"]
    assert summaries[0]["message"].endswith(": too many open files")
    assert {line["level"] for line in summaries} == {"warning"}


LAST = """
import logging
from service.observability import logs
logs.configure("info", "json")
for number in range(3):
    logging.getLogger("scmrl.decoding").error("it cannot be started")
logging.getLogger("scmrl.app").critical("the service ends")
"""


def test_a_critical_line_comes_after_the_numbers_of_what_was_suppressed() -> None:
    """It is the last line of the log, which says why the process ended."""
    ran = subprocess.run([sys.executable, "-c", LAST], capture_output=True, text=True, check=True)
    messages = [json.loads(line)["message"] for line in io.StringIO(ran.stderr)]
    assert messages[0] == "it cannot be started"
    assert messages[1].startswith("2 more such lines")
    assert messages[2:] == ["the service ends"]
