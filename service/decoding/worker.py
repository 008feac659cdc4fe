"""`python -m service.decoding.worker FD SANDBOX`: the fork server and its decoding processes.

The fork server imports the libraries once; a process forked from it starts in milliseconds and
shares that memory. Each decoding process is confined before it reads its first file, serves one
socket, with the jobs of requests or the packets of one live stream, and ends when that is closed.
The fork server and all its children end when the service closes its end of FD. SANDBOX is the
setting: `auto` or `required`.

The fork server reads no upload. Its commands have a fixed length and come from the service. Files
and results pass between the service and a decoding process through a socket that the fork server
only hands on. `sandbox.confine_forking` limits it: few open files, no core dumps, no capabilities
except those for confining and ending its children, no new privileges, and by seccomp only the
system calls for that. So it can fork, send SIGKILL and read files, but write no file, open no
socket and start no program.
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn

import av
import cv2
import numpy as np
import soundfile

from model.media import reader
from model.media.events.reader import read_camera_events, read_channel_events
from model.media.series import read_series
from model.preprocess.events import prepare_camera_events, prepare_channel_events
from model.preprocess.prepare import prepare
from model.preprocess.prepared import Prepared
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec
from service.classification import upload_fields
from service.decoding import live_process, sandbox, wire
from service.decoding.files import decode
from service.errors import Error, Problem
from service.runtime import garbage_collection

#: Seconds between two checks for processes that have ended.
_REAP_S = 5


def run_fork_server(control: socket.socket, seccomp_required: bool) -> None:
    """Carry out commands from `control` until the service closes it.

    Raises SeccompUnavailable where seccomp is required and missing, and OSError.
    """
    sandbox.confine_forking()
    layers = sandbox.probe(seccomp_required)
    children: set[int] = set()
    poll = select.poll()  # unlike select(), it takes descriptors above 1023
    poll.register(control, select.POLLIN)
    while True:
        ready = poll.poll(1000 * _REAP_S)
        _reap(children)
        if not ready:
            continue
        command, fds, _, _ = socket.recv_fds(control, wire.COMMAND.size, 2)
        if len(command) < wire.COMMAND.size:
            break
        kind, number, seconds = wire.COMMAND.unpack(command)
        if kind == wire.KILL:
            if number in children:  # not reaped yet, so no other process can have this id
                os.kill(number, signal.SIGKILL)
        elif kind == wire.HEARTBEAT:
            control.sendall(wire.REPLY.pack(layers))
        else:
            serve = live_process.serve if kind == wire.START_LIVE else _serve_jobs
            pid = _fork(control, fds, partial(serve, cpu_s=seconds), number, seccomp_required)
            children.add(pid)
            control.sendall(wire.REPLY.pack(pid))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(
    control: socket.socket,
    fds: list[int],
    serve: Callable[[socket.socket], NoReturn],
    memory_bytes: int,
    seccomp_required: bool,
) -> int:
    """Fork a decoding process for the socket and the stderr in `fds`; return its process id."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        control.close()
        sock, stderr = fds
        os.dup2(stderr, sys.stderr.fileno())
        os.close(stderr)
        confine = partial(sandbox.confine, memory_bytes, seccomp_required, parent=parent)
        _run_confined(socket.socket(fileno=sock), confine, serve)
    for fd in fds:
        os.close(fd)
    return pid


def _reap(children: set[int]) -> None:
    """Wait for children that have ended, and remove them from the set."""
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            children.discard(pid)


def _serve_jobs(sock: socket.socket, cpu_s: float) -> NoReturn:
    """Decode one job after another, each in at most `cpu_s` of CPU time. Raises PeerLost."""
    while True:
        files, request = wire.receive_request(sock)
        sandbox.limit_cpu(cpu_s)
        try:
            wire.send_result(sock, decode(files, request), request.canvas)
        except Problem as problem:
            wire.send_problem(sock, problem)
        except MemoryError:
            detail = "Decoding the files exceeds the memory limit (SCMRL_DECODE_MEMORY_MIB)."
            wire.send_problem(sock, Problem(Error.TOO_LARGE, detail))
        del files


def _run_confined(
    sock: socket.socket, confine: Callable[[], object], serve: Callable[[socket.socket], NoReturn]
) -> NoReturn:
    """Confine this process, serve until the service closes the socket, and exit the process.

    It exits without Python's clean-up, which is the fork server's.
    """
    code = 1
    try:
        confine()
        serve(sock)
    except (wire.PeerLost, sandbox.Orphaned):
        code = 0
    except BaseException:
        with suppress(BaseException):
            wire.send_failure(sock, traceback.format_exc())
    finally:
        os._exit(code)


def _warm() -> None:
    """Use each library once: they load parts at first use, and a confined process opens no file."""
    # PyAV loads some of its modules when a file needs them.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    of_each_kind = {kind: kind for kind in upload_fields.KIND_READERS}
    for row in (*upload_fields.FIELDS, *upload_fields.checkpoint_fields(of_each_kind)):
        row.load_reader()
    cv2.setNumThreads(1)
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(800, np.float32), 8000, format="WAV")
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    tone = reader.read_sound(sound.getvalue())
    pictures = reader.Pictures((reader.read_picture(picture),), (0.0,))
    series = {"tactile": read_series(b"t,force\n0,1\n1,2\n")}
    for specs in PROFILES.values():
        _draw(prepare(specs, tone, pictures, 1, series=series))
    reader.read_clip(_clip(), 2)
    with suppress(reader.MediaError):
        reader.read_clip(bytes(64), 1)
    _warm_events()
    live_process.warm()


def _warm_events() -> None:
    """Read and preprocess an event of each kind: zipfile loads a codec for names, NumPy others."""
    file = io.BytesIO()
    ones = np.ones(1, np.int64)
    np.savez_compressed(file, x=ones, y=ones, p=ones, t=ones, channel=ones)
    size = (8, 8)
    camera, channels = read_camera_events(file.getvalue()), read_channel_events(file.getvalue())
    grid = ChannelEventSpec(bands=4, grid=(2, 2), size=size)
    _draw({"events": prepare_camera_events(camera, EventFrameSpec(size=size), 1)})
    _draw({"audio_events": prepare_channel_events(channels, grid, 1)})
    with suppress(reader.MediaError):
        read_camera_events(b"% evt 3.0\n")


def _draw(prepared: Mapping[str, Prepared]) -> None:
    """Draw the pictures under the maps, which are made only where an overlay is asked for."""
    for stream in prepared.values():
        stream.canvas()


def _clip() -> bytes:
    """Return a small MP4 with pictures and sound."""
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
    garbage_collection.freeze()  # so that its children share its memory for longer
    try:
        run_fork_server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2] == "required")
    except sandbox.SeccompUnavailable as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
