"""`python -m service.decoding.worker FD SANDBOX`: the fork server, which forks decoding processes.

It imports what decoding needs once; a process forked from it starts in milliseconds and shares
that memory. Each is confined before it reads its first file, serves one socket, and ends when
that closes. The fork server ends, and they with it, when the service closes its end of FD. SANDBOX
is the setting `auto` or `required`.

The fork server reads nothing that a stranger sent: its orders have one length and come from the
service alone, files go from the service to a forked process by a socket that the fork server only
passes on, and their answers go the same way back. It is held by `sandbox.confine_forking`: few
open files, no core dumps, no capabilities but those that confining and ending its children need,
no new privileges, and by seccomp the calls for that alone. So it can fork, end processes by
SIGKILL, and read files; it can write no file, open no socket and start no program.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import av
import cv2
import numpy as np
import soundfile

from model.media import reader
from model.preprocess.prepare import prepare
from model.preprocess.specs import PROFILES
from service.classification import inputs
from service.decoding import sandbox, wire
from service.decoding.files import decode
from service.errors import Error, Problem
from service.runtime import gc

#: Seconds between two looks for processes that have ended.
_REAP_S = 5


def run_fork_server(control: socket.socket, seccomp_required: bool) -> None:
    """Carry out orders until the service has gone.

    Raises SeccompUnavailable where seccomp is required and not there, and OSError.
    """
    sandbox.confine_forking()
    layers = sandbox.try_out(seccomp_required)
    children: set[int] = set()
    own_pid = os.getpid()
    waiting = select.poll()  # unlike select(), it takes descriptors above 1023
    waiting.register(control, select.POLLIN)
    while True:
        ready = waiting.poll(1000 * _REAP_S)
        _reap(children)
        if not ready:
            continue
        order, fds, _, _ = socket.recv_fds(control, wire.COMMAND.size, 2)
        if len(order) < wire.COMMAND.size:
            break
        kind, number, seconds = wire.COMMAND.unpack(order)
        if kind == wire.KILL:
            if number in children:  # ours and not reaped: it can be no other process
                os.kill(number, signal.SIGKILL)
            continue
        if kind == wire.HEARTBEAT:
            control.sendall(wire.REPLY.pack(layers))
            continue
        pid = os.fork()
        if not pid:
            control.close()
            os.dup2(fds[1], sys.stderr.fileno())
            os.close(fds[1])
            confine = partial(sandbox.confine, number, seccomp_required, parent=own_pid)
            _work(socket.socket(fileno=fds[0]), confine, seconds)
        for fd in fds:
            os.close(fd)
        children.add(pid)
        control.sendall(wire.REPLY.pack(pid))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _reap(children: set[int]) -> None:
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            children.discard(pid)


def _work(sock: socket.socket, confine: Callable[[], object], cpu_s: float) -> None:
    """Decode one job after another, then end without the fork server's clean-up."""
    code = 1
    try:
        confine()
        while True:
            files, wanted = wire.receive_request(sock)
            sandbox.limit_cpu(cpu_s)
            try:
                wire.send_result(sock, decode(files, wanted), wanted.canvas)
            except Problem as problem:
                wire.send_problem(sock, problem)
            except MemoryError:
                detail = "The files need more memory than there is for them."
                wire.send_problem(sock, Problem(Error.TOO_LARGE, detail))
            del files
    except (wire.PeerLost, sandbox.Orphaned):
        code = 0
    except BaseException:
        with suppress(BaseException):
            wire.send_failure(sock, traceback.format_exc())
    finally:
        os._exit(code)


def _warm() -> None:
    """Load what is loaded at first use: a confined process can open no file."""
    # PyAV loads some of its modules when a file needs them.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for row in inputs.INPUTS:
        row.load_reader()
    cv2.setNumThreads(1)
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(800, np.float32), 8000, format="WAV")
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    heard = reader.read_sound(sound.getvalue())
    seen = reader.Pictures((reader.read_picture(picture),), (0.0,))
    for specs in PROFILES.values():
        prepare(specs, heard, seen, 1)
    reader.read_clip(_clip(), 2)
    with suppress(reader.MediaError):
        reader.read_clip(bytes(64), 1)


def _clip() -> bytes:
    """A small one, with pictures and sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width, video.height = 16, 16
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=8000, layout="mono")
        for _ in range(3):
            container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        container.mux(audio.encode(samples))
        container.mux(video.encode())
        container.mux(audio.encode())
    return file.getvalue()


def main() -> None:
    """Run the fork server. The command line is in the module's docstring."""
    _warm()
    gc.spare()  # and so its children share its memory for longer
    try:
        run_fork_server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2] == "required")
    except sandbox.SeccompUnavailable as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
