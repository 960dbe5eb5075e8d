"""Servers of HTTP and of the hub's interface, in this process, with the faults that real ones have."""

import contextlib
import datetime
import hashlib
import json
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ONE_DAY = datetime.timedelta(days=1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Site:
    """What a server offers, and what it was asked.

    Attributes:
        files: content by path.
        faults: what happens to the next requests for content, each once: a status; ("cut", n) breaks off after n bytes;
            ("flip", n) sends byte n wrong; a dict of headers goes with a status as (status, headers).
        ranges: whether it can begin in the middle.
        login: what `Authorization` must be, if anything.
        pace: seconds before each 64 KiB.
        lengths: whether it says how long a file is.
        headers: more of every answer, or others.
        asked: path and Range of every request for content.
        logins: `Authorization` of every request for content.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: deque[object] = field(default_factory=deque)
    ranges: bool = True
    login: str = ""
    pace: float = 0.0
    lengths: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    url: str = ""

    def content(self, path: str) -> bytes | None:
        """What lies there, if anything."""
        return self.files.get(path)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        asked = handler.headers.get("Range", "")
        self.asked.append((path, asked))
        self.logins.append(handler.headers.get("Authorization"))
        if self.login and handler.headers.get("Authorization") != self.login:
            return _send(handler, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        content = self.content(path)
        if content is None:
            return _send(handler, 404, b"no such file")
        if self.ranges and asked and not content:
            return _send(handler, 416, b"", {"Content-Range": "bytes */0"})
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes"} if self.ranges else {}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        probe = asked == "bytes=0-0"
        fault = self.faults.popleft() if self.faults and not probe else None
        if isinstance(fault, int):
            return _send(handler, fault, b"fault")
        if isinstance(fault, tuple) and isinstance(fault[1], dict):
            return _send(handler, fault[0], b"fault", fault[1])
        status, body = 200, content
        if self.ranges and span and handler.headers.get("If-Range", etag) == etag:
            start, stop = int(span[1]), min(int(span[2] or len(content) - 1), len(content) - 1) + 1
            status, body = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        length = len(body)
        if isinstance(fault, tuple) and fault[0] == "flip":
            body = body[: fault[1]] + bytes([body[fault[1]] ^ 1]) + body[fault[1] + 1 :]
        if isinstance(fault, tuple) and fault[0] == "cut":
            body = body[: fault[1]]
        handler.send_response(status)
        for name, value in {**headers, **self.headers}.items():
            handler.send_header(name, value)
        if self.lengths:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # A client that was killed, or had enough.
            for start in range(0, len(body), 1 << 16):
                time.sleep(self.pace)
                handler.wfile.write(body[start : start + (1 << 16)])
        handler.close_connection = True
        return None


@dataclass
class HubSite(Site):
    """A double of the hub: one repository, `org/name`, of models, of datasets and of spaces, at one commit.

    Attributes:
        repository: its files.
        others: the files of other repositories, by `ORG/NAME@COMMIT`, with `datasets/` or `spaces/` before it.
        refuses: status, X-Error-Code and body of every answer of its interface, if it refuses.
        lies: says of each large file this SHA-256.
        storage: where it sends on who asks for a file, as to Xet's; None for nowhere.
        mirrored: what its links to the next page begin with, as those of a mirror that hands on the hub's.
    """

    repository: dict[str, bytes] = field(default_factory=dict)
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refuses: tuple[int, str] | None = None
    lies: str = ""
    large: int = 1000
    storage: Site | None = None
    mirrored: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        if self.refuses:
            return _send(handler, self.refuses[0], b"{}", {"X-Error-Code": self.refuses[1]} if self.refuses[1] else {})
        if self.login and handler.headers.get("Authorization") != self.login:
            return _send(handler, 401, b"{}", {"X-Error-Code": "GatedRepo"})
        if match := re.fullmatch(r"/api/(models/|datasets/|spaces/)(\w[\w.-]*/[\w.-]+)/tree/(\w+)", parts.path):
            found = self._repository(match[1].removeprefix("models/") + match[2], match[3])
            if found is None:
                return _send(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            # Two pages, as of large repositories.
            entries = [_entry(name, found[name], self.large, self.lies) for name in sorted(found)]
            page = int(parse_qs(parts.query).get("page", ["0"])[0])
            half = (len(entries) + 1) // 2
            more = f"{self.mirrored or self.url}{parts.path}?page=1&recursive=true"
            link = {"Link": f'<{more}>; rel="next"'} if page == 0 else {}
            return _send(handler, 200, json.dumps(entries[page * half : (page + 1) * half]).encode(), link)
        if re.fullmatch(r"/api/(?:models|datasets|spaces)/org/name(?:/revision/(?:main|v1))?", parts.path):
            return _send(handler, 200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": []}).encode())
        if "/resolve/" in parts.path:
            content = self.content(unquote(parts.path))
            if self.storage and content is not None:
                key = f"/{hashlib.sha256(content).hexdigest()}"
                self.storage.files[key] = content
                return _send(handler, 302, b"", {"Location": f"{self.storage.url}{key}?Signature=x"})
            return super().answer(handler)
        return _send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def content(self, path: str) -> bytes | None:
        match = re.fullmatch(r"/((?:datasets/|spaces/)?\w[\w.-]*/[\w.-]+)/resolve/(\w+)/(.+)", path)
        return (self._repository(match[1], match[2]) or {}).get(match[3]) if match else None

    def _repository(self, name: str, commit: str) -> dict[str, bytes] | None:
        if commit == COMMIT and name.removeprefix("datasets/").removeprefix("spaces/") == "org/name":
            return self.repository
        return self.others.get(f"{name}@{commit}")


def _entry(name: str, content: bytes, large: int, lies: str) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if len(content) > large:
        digest = lies or hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


@dataclass
class GcsSite(Site):
    """A double of Google Cloud Storage: `files` are the objects of the bucket `bucket`.

    Attributes:
        refuses: status of every answer, if it refuses.
    """

    refuses: int = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query)
        root = "/storage/v1/b/bucket/o"
        if self.refuses:
            return _send(handler, self.refuses, b"{}")
        name = unquote(parts.path.removeprefix(f"{root}/"))
        if "alt" in query and name in self.files:
            handler.path = quote(name)
            return super().answer(handler)
        if parts.path == root:
            # An object on each page.
            found = [each for each in sorted(self.files) if each.startswith(query.get("prefix", [""])[0])]
            at = int(query.get("pageToken", ["0"])[0])
            more = {"nextPageToken": str(at + 1)} if at + 1 < len(found) else {}
            items = [_object(each, self.files[each]) for each in found[at : at + 1]]
            return _send(handler, 200, json.dumps({"items": items, **more}).encode())
        if name in self.files:
            return _send(handler, 200, json.dumps(_object(name, self.files[name])).encode())
        return _send(handler, 404, b"{}")


def _object(name: str, content: bytes) -> dict[str, str]:
    return {"name": name, "size": str(len(content)), "generation": "7"}


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@dataclass
class Proxy:
    """An HTTP proxy, and which hosts it was asked for.

    Attributes:
        login: what `Proxy-Authorization` must be, if anything.
    """

    login: str = ""
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{handler.command} {handler.path}")
        if self.login and handler.headers.get("Proxy-Authorization") != self.login:
            return _send(handler, 407, b"")
        host, port = handler.path.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as there:
            handler.send_response(200)
            handler.end_headers()
            ends = [handler.connection, there]
            with contextlib.suppress(OSError):
                while ready := select.select(ends, [], [], 10)[0]:
                    for end in ready:
                        chunk = end.recv(1 << 16)
                        if not chunk:
                            handler.close_connection = True
                            return None
                        ends[1 - ends.index(end)].sendall(chunk)
        handler.close_connection = True
        return None


@contextlib.contextmanager
def proxying(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy at `proxy.url`, until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            proxy.handle(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def private_ca(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The certificate of a CA that no machine knows, in `folder`, and what a server of the name `localhost` needs under it."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey) -> bytes:
        ca = name == issuer
        subject, authority = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
        made = (
            x509.CertificateBuilder(authority, subject, key.public_key(), x509.random_serial_number(), now, now + ONE_DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if not ca:
            names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            made = made.add_extension(names, critical=False)
        return made.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    bundle = folder / "ca.pem"
    bundle.write_bytes(certificate("a private CA", root, "a private CA", root))
    chain = folder / "server.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = own.private_bytes(encoding, form, serialization.NoEncryption())
    chain.write_bytes(certificate("localhost", own, "a private CA", root) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return bundle, context


@contextlib.contextmanager
def serving(site: Site, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """The site at `site.url`, until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.answer(self)

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # A client that has enough.
                super().handle()

        do_HEAD = do_GET  # noqa: N815 the library's name

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
