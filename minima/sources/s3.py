"""A prefix or an object of S3, or of what speaks its protocol, by pyarrow's file system.

Who asks is said by AWS's own variables, files and services: AWS_*, a web identity, the machine's account. Another server of
the protocol is named by AWS_ENDPOINT_URL.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pyarrow import ArrowException, fs

from minima.addresses import Address
from minima.errors import NotReadyError
from minima.sources.source import File, TransientError

CHUNK = 8 << 20
"""Bytes of one request."""
NO_RIGHT = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "SIGNATURE",
    "EXPIRED_TOKEN",
    "TOKEN_ID",
    "UNRECOGNIZED_CLIENT",
    "CREDENTIAL",
)
NOTHING = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "does not exist")


class S3:
    """The objects below a prefix, or one object."""

    one = False

    def __init__(self, address: Address) -> None:
        self.address = address
        with self._faults():
            self.system = _system()

    def files(self) -> list[File]:
        prefix = self.address.rest
        with self._faults():
            found = self.system.get_file_info(prefix) if "/" in prefix else None
            if found is not None and found.type == fs.FileType.File:
                self.one = True
                return [_file(found, found.base_name)]
            selector = fs.FileSelector(prefix, recursive=True, allow_not_found=True)
            entries = [entry for entry in self.system.get_file_info(selector) if entry.type == fs.FileType.File]
        return [_file(entry, entry.path.removeprefix(f"{prefix}/")) for entry in entries]

    def close(self) -> None:
        """Nothing is open."""

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        with self._faults(), self.system.open_input_file(file.handle) as opened:
            opened.seek(start)
            while chunk := opened.read(CHUNK if stop is None else min(CHUNK, stop - opened.tell())):
                yield chunk

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what pyarrow raises into what may be gone soon and what will not.

        Raises:
            TransientError, NotReadyError: in place of its errors.
        """
        try:
            yield
        except (OSError, ArrowException) as error:
            told = str(error)
            if any(word in told for word in NO_RIGHT):
                raise NotReadyError(
                    f"{self.address}: who asks has no right to it ({told}); give it AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY from a Secret, or the pod a service account that has it"
                ) from None
            if any(word in told for word in NOTHING):
                raise NotReadyError(f"{self.address}: there is nothing ({told}); correct the address") from None
            if "curlCode: 60" in told or "certificate" in told:
                raise NotReadyError(
                    f"{self.address}: a certificate that this machine does not trust ({told}); of a private CA, name the file "
                    "of certificates in SSL_CERT_FILE"
                ) from None
            if "HTTP status 301" in told:
                raise NotReadyError(f"{self.address}: lies in another region ({told}); name it in AWS_REGION") from None
            raise TransientError(f"{self.address}: {told}") from None


def _file(info: fs.FileInfo, name: str) -> File:
    return File(name=name, size=info.size, version=str(info.mtime_ns), handle=info.path)


def _system() -> fs.FileSystem:
    end = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    host = end.hostname or "amazonaws.com"
    # Of the variables that the other libraries read themselves this one reads none.
    proxy = None if proxy_bypass(host) else getproxies().get(end.scheme or "https")
    if bundle := os.environ.get("SSL_CERT_FILE"):
        # With AWS_ENDPOINT_URL in the environment, `tls_ca_file_path` alone has no effect, and neither has this alone.
        os.environ.setdefault("AWS_CA_BUNDLE", bundle)
    return fs.S3FileSystem(
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
        endpoint_override=end.netloc or None,
        scheme=end.scheme or None,
        proxy_options=proxy,
        request_timeout=60,
        connect_timeout=30,
    )
