"""A prefix or an object of S3, of what speaks its protocol, or of Google Cloud Storage, by pyarrow's file systems.

Who asks is said by the clouds' own variables, files and services: AWS_*, a web identity, GOOGLE_APPLICATION_CREDENTIALS, the
machine's account. Another server of the protocol is named by AWS_ENDPOINT_URL (STORAGE_EMULATOR_HOST for Google's).
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
NO_RIGHT_AT_GOOGLE = ("PERMISSION_DENIED", "UNAUTHENTICATED", "credentials", " 401", " 403")
NOTHING = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NOT_FOUND", "does not exist", " 404")


class Bucket:
    """The objects below a prefix, or one object."""

    one = False

    def __init__(self, address: Address) -> None:
        self.address = address
        with self._faults():
            self.system = _s3() if address.url.startswith("s3://") else _gcs()

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
            amazon = self.address.url.startswith("s3://")
            if any(word in told for word in (NO_RIGHT if amazon else NO_RIGHT_AT_GOOGLE)):
                who = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a Secret, or the pod's service account"
                if not amazon:
                    who = "GOOGLE_APPLICATION_CREDENTIALS with a file from a Secret, or the pod's service account"
                raise NotReadyError(f"{self.address}: who asks has no right to it ({told}); {who} must have it") from None
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


def _s3() -> fs.FileSystem:
    end = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    host = end.hostname or "amazonaws.com"
    # Of the variables that the other libraries read themselves this one reads none.
    proxy = None if proxy_bypass(host) else getproxies().get(end.scheme or "https")
    return fs.S3FileSystem(
        endpoint_override=end.netloc or None,
        scheme=end.scheme or None,
        proxy_options=proxy,
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE"),
        request_timeout=60,
        connect_timeout=30,
    )


def _gcs() -> fs.FileSystem:
    from datetime import timedelta

    end = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST", ""))
    patience = timedelta(seconds=30)
    if end.netloc:
        return fs.GcsFileSystem(anonymous=True, endpoint_override=end.netloc, scheme=end.scheme, retry_time_limit=patience)
    return fs.GcsFileSystem(retry_time_limit=patience)
