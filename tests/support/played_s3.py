"""An S3 service of a few objects that answers as a test says, on loopback."""

from __future__ import annotations

import http.server
import re
from contextlib import contextmanager

from support.s3_models import share_models
from support.threaded_servers import running

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class PlayedS3:
    """One bucket. `objects` has the content by key.

    `answer_get`, `answer_head` and `answer_delete` get the request's handler and the key, the first two the content
    too, and the first one the wanted range; a test sets them to answer in another way. `more_headers` come with each
    range.
    """

    def __init__(self, bucket, objects):
        self.bucket, self.objects, self.endpoint = bucket, objects, ""
        self.requests = []
        self.more_headers = {}
        self.answer_get, self.answer_head, self.answer_delete = self.send_range, self.send_head, self.remove

    def send_range(self, request, _key, data, first, last):
        last = min(last, len(data) - 1)
        if first > last:
            request.say(416, b"<Error><Code>InvalidRange</Code></Error>")
        else:
            more = {"Content-Range": f"bytes {first}-{last}/{len(data)}", **self.more_headers}
            request.say(206, data[first : last + 1], more)

    def send_head(self, request, _key, data):
        request.say(200, b"", {"Content-Length": str(len(data)), "ETag": '"1"'})

    def remove(self, request, key):
        self.objects.pop(key, None)
        request.send_response(204)
        request.end_headers()

    def properties(self):
        """The properties of a tier in the bucket, as in the master's configuration."""
        said = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "bucket": self.bucket}
        return tuple(sorted({**said, "endpoint": self.endpoint, "force_path_style": "true"}.items()))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: PlayedS3

    def _found(self):
        key = self.path.partition("?")[0].removeprefix(f"/{self.service.bucket}/")
        self.service.requests.append((self.command, key, self.headers.get("Range")))
        data = self.service.objects.get(key)
        if data is None:
            self.say(404, b"" if self.command == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        return key, data

    def do_HEAD(self):
        key, data = self._found()
        if data is not None:
            self.service.answer_head(self, key, data)

    def do_GET(self):
        key, data = self._found()
        if data is not None:
            wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
            first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(data) - 1)
            self.service.answer_get(self, key, data, first, last)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.path.removeprefix(f"/{self.service.bucket}/")
        self.service.requests.append((self.command, key, None))
        self.service.objects[key] = body
        self.say(200, b"", {"ETag": '"1"'})

    def do_DELETE(self):
        key = self.path.removeprefix(f"/{self.service.bucket}/")
        self.service.requests.append((self.command, key, None))
        self.service.answer_delete(self, key)

    def say(self, status, body, more=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Says nothing: clients that go early are what tests want."""


@contextmanager
def played_s3(objects, bucket="played"):
    """A service that ends with the block."""
    share_models()

    class Handler(_Handler):
        service = PlayedS3(bucket, objects)

    server = _Server(("127.0.0.1", 0), Handler)
    with running(server):
        Handler.service.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield Handler.service
