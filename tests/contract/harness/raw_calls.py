"""gRPC calls that no client library makes: begun on a raw HTTP/2 connection, and then left alone."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 0x1, 0x4
SERVICE = "/volume_server_pb.VolumeServer/"


class RawCalls:
    """One connection to `address` (host, port) with any number of calls. The connection reads nothing that the server
    sends, except on request.
    """

    def __init__(self, address, source_host=""):
        self._sock = socket.create_connection(address, 20, (source_host, 0))
        self._sock.sendall(PREFACE + _frame(SETTINGS, 0, 0, b""))
        self._next_stream = 1

    def begin(self, name, count=1, message=None):
        """Begins `count` calls of the RPC `name`: without a message and without an end, or with `message` and the end
        of the request.
        """
        sent = b""
        for _ in range(count):
            sent += _frame(HEADERS, END_HEADERS, self._next_stream, _headers(SERVICE + name))
            if message is not None:
                data = b"\0" + struct.pack(">I", len(message)) + message
                sent += _frame(DATA, END_STREAM, self._next_stream, data)
            self._next_stream += 2
        self._sock.sendall(sent)

    def close(self):
        self._sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()


def _frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(path):
    fields = [(b":path", path.encode()), (b":authority", b"raw"), (b"content-type", b"application/grpc")]
    fields += [(b"te", b"trailers")]
    literals = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)
    return b"\x83\x86" + literals  # POST and http, from the static table


def _text(text):
    assert len(text) < 127
    return bytes([len(text)]) + text
