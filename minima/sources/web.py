"""One file by HTTP, from any byte on where the server can (RFC 9110, sections 13 and 14).

Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, certificates those of SSL_CERT_FILE, or else the system's; who
asks is said by the file that NETRC names.
"""

import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import unquote, urlsplit

import httpx2

from minima.addresses import Address
from minima.errors import NotReadyError, UsageError
from minima.sources.source import File, TransientError

SECONDS = 60.0
"""Without a byte, after which a server counts as silent."""
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NEXT_WINDOW = re.compile(r"\br=0\s*;\s*t=(\d+)")


class Web:
    """A file behind an address."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.one = True
        self.client = client(netrc=os.environ.get("NETRC"))

    def files(self) -> list[File]:
        name = unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2])
        if not name or "/" in name or name.startswith((".", "_")):
            raise UsageError(f"{self.url} ends in no file's name; the address of one file is valid")
        with faults(self.url), self.client.stream("GET", self.url, headers={"Range": "bytes=0-0"}) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == "bytes */0":
                return [File(name=name, size=0, ranges=False, handle=self.url)]
            check(answer.status_code, answer.headers, self.url)
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind == "text/html" and not name.lower().endswith((".html", ".htm")):
                raise NotReadyError(
                    f"{self.url}: answers a web page, not {name}; take the address of the file itself (on GitHub /raw/ in "
                    "place of /blob/), and `minima digest` prints its pin"
                )
            size = -1 if answer.status_code == 206 else int(answer.headers.get("Content-Length", -1))
            if ranges := _RANGE.fullmatch(answer.headers.get("Content-Range", "")):
                size = int(ranges[3])
            encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
            strong = answer.headers.get("ETag", "")
            version = strong if not strong.startswith("W/") else answer.headers.get("Last-Modified", "")
        known = None if size < 0 or encoded else size
        return [File(name=name, size=known, version=version, ranges=bool(ranges), handle=self.url)]

    def close(self) -> None:
        self.client.close()

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        yield from read(self.client, file, start, stop, {})


def client(netrc: str | None = None, refused: Callable[[httpx2.Response], None] | None = None) -> httpx2.Client:
    """What speaks HTTP.

    Args:
        netrc: a file of logins.
        refused: raises what an answer means that is an error; the others are `check`'s.

    Raises:
        UsageError: its certificates, its proxy or the file of logins cannot be used.
    """
    try:
        auth = httpx2.NetRCAuth(netrc) if netrc else None
        # Compressed bytes could not be read from any byte on.
        return httpx2.Client(
            follow_redirects=True,
            timeout=httpx2.Timeout(SECONDS, connect=SECONDS / 2),
            headers={"Accept-Encoding": "identity", "User-Agent": "minima"},
            auth=auth,
            event_hooks={"response": [partial(_if_error, refused)] if refused else []},
        )
    except ssl.SSLError as error:
        raise UsageError(f"SSL_CERT_FILE {os.environ.get('SSL_CERT_FILE')}: {error}; a file of certificates is valid") from None
    except OSError as error:
        raise UsageError(f"{error.filename or 'SSL_CERT_FILE, NETRC'}: {error.strerror or error}; name a file") from None
    except ValueError as error:  # also of a proxy's address
        raise UsageError(f"HTTPS_PROXY, HTTP_PROXY: {error}; an address such as http://proxy:3128 is valid") from None


def _if_error(refused: Callable[[httpx2.Response], None], answer: httpx2.Response) -> None:
    if answer.status_code >= 400:
        refused(answer)


@contextmanager
def request(http: httpx2.Client, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
    """An answer whose body was not read yet.

    Raises:
        TransientError, NotReadyError: there is none, or one that says no.
    """
    with faults(url), http.stream("GET", url, headers=headers) as answer:
        check(answer.status_code, answer.headers, url)
        yield answer


@contextmanager
def faults(url: str) -> Iterator[None]:
    """Turn what the client raises into what may be gone soon and what will not.

    Raises:
        TransientError, NotReadyError: in place of its errors.
    """
    try:
        yield
    except httpx2.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise NotReadyError(
                f"{_host(url)}: its certificate is not one that this machine trusts ({error}); of a private CA, name the "
                "file of certificates in SSL_CERT_FILE"
            ) from None
        raise TransientError(f"{_host(url)} cannot be reached ({error}){_way(url)}") from None
    except httpx2.ProxyError as error:
        if "407" in str(error) or "403" in str(error):
            raise NotReadyError(f"the proxy does not let {_host(url)} through ({error}){_way(url)}") from None
        raise TransientError(f"the proxy has no way to {_host(url)} ({error}){_way(url)}") from None
    except httpx2.UnsupportedProtocol as error:
        raise NotReadyError(f"{_host(url)}: leads to an address that is not HTTP ({error})") from None
    except httpx2.TooManyRedirects:
        raise NotReadyError(f"{_host(url)}: leads from one address to another without end") from None
    except httpx2.TransportError as error:
        raise TransientError(f"{_host(url)}: {type(error).__name__} {error}".rstrip()) from None


def read(http: httpx2.Client, file: File, start: int, stop: int | None, headers: Mapping[str, str]) -> Iterator[bytes]:
    """The bytes of a file from `start` to before `stop`.

    Raises:
        TransientError, NotReadyError: as `request` does, or the file is another one now.
    """
    if stop is not None and stop <= start:
        return
    asked = dict(headers)
    if file.ranges and (start or stop is not None):
        asked["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if file.version.startswith('"'):
            asked["If-Range"] = file.version
    with request(http, file.handle, asked) as answer:
        part = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if part and (int(part[1]) != start or (file.size is not None and int(part[3]) != file.size)):
            raise TransientError(f"{_host(file.handle)}: asked for bytes from {start}, sent {part[0]}")
        skip = 0 if part else start  # Some servers that know a file's size begin at its beginning whatever they are asked.
        if not part and "If-Range" in asked and (start or stop != file.size):
            raise NotReadyError(f"{_host(file.handle)}: {file.name} changed while it was read; run again")
        left = None if stop is None or (stop == file.size and not skip) else stop - start
        for chunk in answer.iter_raw():
            wanted = chunk[skip:]
            skip -= len(chunk) - len(wanted)
            if left is not None:
                wanted = wanted[:left]
                left -= len(wanted)
            if wanted:
                yield wanted
            if left == 0:
                return


def check(status: int, headers: Mapping[str, str], url: str) -> None:
    """Raise what an answer's status means, if it is not the content."""
    where = url.partition("?")[0]
    if status in TRANSIENT:
        raise TransientError(f"{_host(url)} answers {status}", wait_of(headers))
    if status in (401, 403):
        raise NotReadyError(
            f"{where}: answers {status}, who asks has no right to it; the file that NETRC names, from a Secret, says a login"
        )
    if status in (404, 410):
        raise NotReadyError(f"{where}: answers {status}, there is nothing; correct the address")
    if status not in (200, 206):
        raise NotReadyError(f"{where}: answers {status}, which is no content")


def wait_of(headers: Mapping[str, str]) -> float:
    """Seconds until a server wants to be asked again, 0 if it does not say: by Retry-After (RFC 9110, section 10.2.3) in
    seconds or as a date, or by RateLimit, as the hub does (draft-ietf-httpapi-ratelimit-headers)."""
    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # None is said, or one without a zone.
        window = _NEXT_WINDOW.search(headers.get("RateLimit", ""))
        return float(window[1]) if window else 0.0


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _way(url: str) -> str:
    """What stands between this machine and the server, as far as it is said."""
    names = [name for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY") if os.environ.get(name) or os.environ.get(name.lower())]
    return f"; {', '.join(names)} are set" if names else "; no proxy is set; a network policy or a firewall may forbid it"
