"""A minimal RTSP server: one clip as an MPEG transport stream in RTP over the same connection."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import av

#: Bytes of a packet of a transport stream, and packets in a packet of RTP.
_PACKET, _IN_RTP = 188, 7
_MP2T = 33  # payload type
_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
_SDP += f"m=video 0 RTP/AVP {_MP2T}\r\na=control:track\r\n"


def transport_stream(clip: Path) -> bytes:
    """Return the clip in the container MPEG-TS."""
    out = io.BytesIO()
    with av.open(str(clip)) as source, av.open(out, "w", format="mpegts") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return out.getvalue()


class RtspServer:
    """Serves one client, and plays the clip within `seconds`."""

    def __init__(self, clip: Path, seconds: float) -> None:
        self._data = transport_stream(clip)
        self._seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/clip"
        self.methods: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as reader:
            while line := reader.readline():
                if not line.startswith(b"$"):  # RTCP of the client
                    method, headers = line.split()[0].decode(), {}
                    while header := reader.readline().strip():
                        name, _, value = header.decode().partition(":")
                        headers[name.lower()] = value.strip()
                    self.methods.append(method)
                    connection.sendall(self._respond(method, headers))
                    if method == "PLAY":
                        with suppress(ConnectionError):  # the client has gone
                            self._play(connection)
                        return

    def _respond(self, method: str, headers: dict[str, str]) -> bytes:
        body = _SDP if method == "DESCRIBE" else ""
        lines = ["RTSP/1.0 200 OK", f"CSeq: {headers['cseq']}", "Session: 1"]
        lines += ["Public: OPTIONS, DESCRIBE, SETUP, PLAY"] if method == "OPTIONS" else []
        lines += [f"Transport: {headers['transport']}"] if method == "SETUP" else []
        lines += ["Content-Type: application/sdp"] if body else []
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()

    def _play(self, connection: socket.socket) -> None:
        step = _PACKET * _IN_RTP
        count = -(-len(self._data) // step)
        for number in range(count):
            time.sleep(self._seconds / count)
            stamp = round(90_000 * self._seconds * number / count)
            header = struct.pack(">BBHII", 0x80, _MP2T, number & 0xFFFF, stamp, 1)
            packet = header + self._data[number * step : (number + 1) * step]
            connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
