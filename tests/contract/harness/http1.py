"""HTTP/1.1 by hand over a socket: sends exactly the bytes that a test names and reads one answer after another."""

import json
import socket
from dataclasses import dataclass

from support.waiting import LIMIT_S


@dataclass(frozen=True)
class Reply:
    """One answer. `headers` in wire order with the sender's case."""

    status: int
    reason: str
    headers: tuple
    body: bytes
    version: str = "HTTP/1.1"

    def get(self, name, default=None):
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def get_all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self):
        return json.loads(self.body)


class Disconnected(Exception):
    """The server closed the connection where an answer was expected."""


def connect_tls(plain, address, tls, server_name):
    """Connects the socket `plain` to `address`, and speaks TLS over it.

    A socket that is connected before it is wrapped stays open where the other end has reset it: `wrap_socket` raises,
    and nobody has the object then.
    """
    wrapped = tls.wrap_socket(plain, server_hostname=server_name)
    try:
        wrapped.connect(address)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


class Connection:
    """A TCP connection to `address` (host, port), a context manager.

    Args:
        source: the loopback address to come from.
        tls: an ssl.SSLContext, to speak TLS.
    """

    def __init__(self, address, limit_s=LIMIT_S, source=None, tls=None):
        if tls is None:
            connected = socket.create_connection(address, timeout=limit_s, source_address=source and (source, 0))
        else:
            plain = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
            plain.settimeout(limit_s)
            if source:
                plain.bind((source, 0))
            connected = connect_tls(plain, address, tls, address[0])
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.use(connected)

    @classmethod
    def over(cls, connected_socket):
        """A `Connection` over a socket that the test has connected."""
        made = cls.__new__(cls)
        made.use(connected_socket)
        return made

    def use(self, connected_socket):
        """Speaks over this socket from now on. No byte was received yet."""
        self.socket = connected_socket
        self._buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def end_sending(self):
        self.socket.shutdown(socket.SHUT_WR)

    def request(self, method, target, headers=(), body=None):
        """Sends a well-formed request and reads its answer."""
        self.send(request_bytes(method, target, headers, body))
        return self.read_reply(method)

    def read_reply(self, method="GET"):
        """Raises Disconnected when the server closes first."""
        status_line, headers = self.read_head()
        version, status, reason = (*status_line.split(" ", 2), "")[:3]
        head = Reply(int(status), reason, headers, b"", version)
        if method == "HEAD" or head.status in {204, 304} or head.status < 200:
            return head
        return Reply(head.status, reason, headers, self._read_body(head), version)

    def read_head(self):
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return lines[0], tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))

    def read_exactly(self, count):
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def take_received(self):
        """The received bytes that were not read. They are not read again."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def read_to_end(self):
        """All bytes until the server closes; a reset counts as a close."""
        try:
            while True:
                self._fill()
        except (Disconnected, ConnectionResetError):
            return self.take_received()

    def is_closed_by_server(self):
        """Whether the server closes the connection. Waits for the close; False when bytes come instead."""
        return self.read_to_end() == b""

    def _read_body(self, head):
        if (head.get("Transfer-Encoding") or "").lower() == "chunked":
            return b"".join(iter(self._read_chunk, b""))
        length = head.get("Content-Length")
        return self.read_to_end() if length is None else self.read_exactly(int(length))

    def _read_chunk(self):
        size = int(self._until(b"\r\n").split(b";")[0], 16)
        data = self.read_exactly(size)
        if size == 0:
            while self._until(b"\r\n"):
                pass
        else:
            self.read_exactly(2)
        return data

    def _until(self, end):
        while (at := self._buffer.find(end)) < 0:
            self._fill()
        data = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return data

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise Disconnected(f"the server closed the connection after {bytes(self._buffer[:200])!r}")
        self._buffer += data


def request_bytes(method, target, headers=(), body=None, host="test"):
    """The wire form. A Content-Length is added for a body."""
    pairs = [("Host", host), *headers]
    if body is not None:
        pairs.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def fetch(address, method, target, headers=(), body=None, **options):
    """One request on its own connection. `options` are the connection's."""
    with Connection(address, **options) as connection:
        return connection.request(method, target, headers, body)


def multipart(data, *, file_name="f.bin", content_type=None, part_headers=()):
    """A form upload with one file: (headers, body)."""
    boundary = "contract-boundary-7d1"
    part = [f'Content-Disposition: form-data; name="file"; filename="{file_name}"']
    if content_type:
        part.append(f"Content-Type: {content_type}")
    part += [f"{name}: {value}" for name, value in part_headers]
    head = f"--{boundary}\r\n" + "\r\n".join(part) + "\r\n\r\n"
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return [("Content-Type", f"multipart/form-data; boundary={boundary}")], body
