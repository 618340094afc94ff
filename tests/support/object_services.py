"""Small doubles of Google Cloud Storage and of Azure's blob service, on loopback.

Each answers reads of ranges as its service does, and only requests that prove the right key: the tokens of the one are
given for assertions that a service account signed, and the other compares the signature of each request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import http.server
import json
import re
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.threaded_servers import running

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
TOKEN_AUDIENCE = "https://oauth2.googleapis.com/token"
"""What Google's client asks for a token of, wherever it asks."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: ObjectService

    def do_GET(self):
        self.service.requests.append((self.path, dict(self.headers)))
        refusal = self.service.refusal_of(self)
        if refusal:
            self.say(403, refusal.encode())
            return
        data = self.service.objects.get(self.service.key_of(self.path))
        if data is None:
            self.say(404, b"there is no such object", {"x-ms-error-code": "BlobNotFound"})
            return
        wanted = _RANGE.fullmatch(self.headers.get("x-ms-range") or self.headers.get("Range") or "")
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(data) - 1)
        if first >= len(data):
            self.say(416, b"the range is behind the end", {"x-ms-error-code": "InvalidRange"})
            return
        part = data[first : last + 1][: self.service.cuts_at_bytes]
        more = {
            "Content-Range": f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}",
            "Content-Type": "application/octet-stream",
            "ETag": '"1"',
            "x-ms-blob-type": "BlockBlob",
        }
        if part.startswith(b"\x1f\x8b") or data.startswith(b"\x1f\x8b"):
            more["Content-Encoding"] = "gzip"
        self.say(206 if wanted else 200, part + self.service.excess, more)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.service.requests.append((self.path, dict(self.headers)))
        if self.service.packed_token:
            self.say(200, self.service.packed_token, {"Content-Encoding": "gzip"})
            return
        status, answer = self.service.token_for(self.path, body)
        self.say(status, json.dumps(answer).encode() + self.service.token_excess, {"Content-Type": "application/json"})

    def say(self, status, body, more=None):
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"} if self.service.sends_chunks else {"Content-Length": str(len(body))}
        for name, value in {**length, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):  # the client wants no more
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if self.service.sends_chunks else body)

    def log_message(self, *_args):
        pass


SHORT_KEY_WARNING = "ignore:The RSA key is 1024 bits long"


class ObjectService:
    """What both doubles have: `objects` by their names, and the `requests` that came."""

    def __init__(self, objects):
        self.objects = {name: gzip.compress(data) if name.endswith(".gz") else data for name, data in objects.items()}
        self.requests = []
        self.excess = self.token_excess = b""
        """What follows each range, and each token."""
        self.packed_token = b""
        """What is answered for a token, as gzip."""
        self.sends_chunks = False
        self.cuts_at_bytes = None
        """How much of a range is sent at most, whatever the head of the answer says."""

    def token_for(self, _path, _body):
        return 404, {"error": "there are no tokens here"}


def make_key():
    """The key of a service account. It is half as long as Google's: each client checks it once more, which takes long.

    Tests that use it ignore `SHORT_KEY_WARNING`.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


class GcsDouble(ObjectService):
    def __init__(self, objects, key):
        super().__init__(objects)
        self._key = key
        self.address = ""

    def credentials(self, **changes):
        """The text of a service account's key."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        document = {
            "type": "service_account",
            "client_email": "reader@project.iam.example",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "project_id": "project",
            "token_uri": f"{self.address}/token",
        }
        return json.dumps({**document, **changes})

    def token_for(self, path, body):
        assertion = parse_qs(body.decode()).get("assertion", [""])[0]
        try:
            jwt.decode(assertion, self._key.public_key(), algorithms=["RS256"], audience=TOKEN_AUDIENCE)
        except jwt.PyJWTError as error:
            return 400, {"error": "invalid_grant", "error_description": str(error)}
        return 200, {"access_token": "the-token", "expires_in": 3600, "token_type": "Bearer"}

    def refusal_of(self, request):
        has_token = request.headers.get("Authorization") == "Bearer the-token"
        return "" if has_token else "no token"

    def key_of(self, path):
        parts = urlsplit(path)
        found = re.fullmatch(r"/download/storage/v1/b/([^/]+)/o/([^/]+)", parts.path)
        is_media = parse_qs(parts.query).get("alt") == ["media"]
        return f"{found[1]}/{unquote(found[2])}" if found and is_media else ""


class AzureDouble(ObjectService):
    account = "account1"
    key = base64.b64encode(bytes(range(64))).decode()

    def refusal_of(self, request):
        """Source: the service's documentation, "Authorize with Shared Key"."""
        of = request.headers
        names = ("Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date")
        names += ("If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range")
        canonical = sorted((name.lower(), value.strip()) for name, value in of.items() if name.lower()[:5] == "x-ms-")
        parts = urlsplit(request.path)
        queries = sorted((name.lower(), ",".join(sorted(values))) for name, values in parse_qs(parts.query).items())
        lines = [request.command, *(of.get(name, "") for name in names)]
        lines += [f"{name}:{value}" for name, value in canonical]
        lines += [f"/{self.account}{parts.path}", *(f"{name}:{value}" for name, value in queries)]
        digest = hmac.new(base64.b64decode(self.key), "\n".join(lines).encode(), hashlib.sha256).digest()
        wanted = f"SharedKey {self.account}:{base64.b64encode(digest).decode()}"
        return "" if of.get("Authorization") == wanted else "the signature differs"

    def key_of(self, path):
        return unquote(urlsplit(path).path.removeprefix("/"))


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Says nothing: clients that go early are what tests want."""


@contextmanager
def serving(service, context=None):
    """Gives the address of `service`, with TLS where there is a context for it."""

    class Handler(_Handler):
        pass

    Handler.service = service
    server = _Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
