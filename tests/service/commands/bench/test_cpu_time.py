"""CPU time of a server by process and kind of thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.bench import cpu_time

#: A process like the service: a thread that works under an engine's name, one under no known name,
#: and a child with a child of its own.
SERVER = """
import os, subprocess, sys, threading, time
from model.thread_name import show_thread_name

def work(seconds):
    show_thread_name()
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    ready.release()
    time.sleep(600)

ready = threading.Semaphore(0)
for name, seconds in (("scmrl-engine", 0.3), ("scmrl-fused_0", 0.2), ("scmrl-watch", 0.1)):
    threading.Thread(target=work, args=(seconds,), name=name, daemon=True).start()
    ready.acquire()
burn = "import time\\nwhile time.process_time() < 0.4: pass\\nprint(flush=True); time.sleep(600)"
child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
subprocess.Popen([sys.executable, "-c", child, burn])
sys.stdin.read()
os.killpg(0, 15)
"""


def test_cpu_time_is_counted_by_process_and_kind_of_thread() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        server.stdout.readline()  # the grandchild has worked
        first = cpu_time.read_cpu_s(server.pid)
    finally:
        server.communicate()
    tick = 0.03
    assert abs(first["batch worker"] - 0.3) < tick
    assert abs(first["network"] - 0.2) < tick
    assert 0.1 - tick < first[cpu_time.OTHER_THREADS] < 0.3
    assert first["hand-over to decoders"] == 0
    assert first[cpu_time.EVENT_LOOP] > 0
    assert first[cpu_time.FORK_SERVER] > 0
    assert 0.4 - tick < first[cpu_time.DECODERS] < 0.6
    twice = {kind: 2 * seconds for kind, seconds in first.items()}
    each = cpu_time.per_request_ms(first, twice, 10)
    assert each["batch worker"] == pytest.approx(100 * first["batch worker"])
    assert each["all"] == pytest.approx(100 * sum(first.values()))
