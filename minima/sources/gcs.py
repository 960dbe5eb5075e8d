"""A prefix or an object of Google Cloud Storage, by its JSON API (https://cloud.google.com/storage/docs/json_api).

Who asks is said by GOOGLE_APPLICATION_CREDENTIALS or the machine's account, and nobody is needed where all may read. Another
server of the protocol is named by STORAGE_EMULATOR_HOST.
"""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import httpx2
import requests

from minima.addresses import Address
from minima.errors import NotReadyError
from minima.sources import web
from minima.sources.source import File, TransientError

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


class Gcs:
    """The objects below a prefix, or one object."""

    one = False

    def __init__(self, address: Address) -> None:
        self.address = address
        self.bucket, _, self.prefix = address.rest.partition("/")
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        self.url = f"{emulator or 'https://storage.googleapis.com'}/storage/v1/b/{quote(self.bucket)}/o"
        self.client = web.client(refused=self._refused)
        self.account: Any = None
        if not emulator:
            self._find_account()

    def _find_account(self) -> None:
        try:
            self.account, _ = google.auth.default(scopes=[SCOPE])
        except google.auth.exceptions.DefaultCredentialsError as error:
            if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
                raise NotReadyError(f"GOOGLE_APPLICATION_CREDENTIALS: {error}") from None

    def _headers(self) -> dict[str, str]:
        if self.account is None:
            return {}
        if not self.account.valid:
            with requests.Session() as session:
                session.verify = os.environ.get("SSL_CERT_FILE") or True
                try:
                    self.account.refresh(google.auth.transport.requests.Request(session))
                except google.auth.exceptions.TransportError as error:
                    raise TransientError(f"{self.address}: no token for its account ({error})") from None
                except google.auth.exceptions.GoogleAuthError as error:
                    raise NotReadyError(f"{self.address}: no token for its account ({error})") from None
        return {"Authorization": f"Bearer {self.account.token}"}

    def files(self) -> list[File]:
        if self.prefix and (found := self._asked(f"{self.url}/{quote(self.prefix, safe='')}", there=False)):
            self.one = True
            return [self._file(found, self.prefix.rpartition("/")[2])]
        below = f"{self.prefix}/" if self.prefix else ""
        files, page = [], ""
        while True:
            found = self._asked(f"{self.url}?{urlencode({'prefix': below, 'pageToken': page})}")
            items = [item for item in found.get("items", []) if not item["name"].endswith("/")]  # Those stand for folders.
            files += [self._file(item, item["name"].removeprefix(below)) for item in items]
            page = found.get("nextPageToken", "")
            if not page:
                return files

    def _file(self, item: dict[str, Any], name: str) -> File:
        at = f"{self.url}/{quote(item['name'], safe='')}?alt=media&generation={item['generation']}"
        return File(name=name, size=int(item["size"]), version=item["generation"], handle=at)

    def _asked(self, url: str, *, there: bool = True) -> dict[str, Any]:
        """What is said at `url`; nothing if there is nothing and it need not be `there`."""
        try:
            with web.request(self.client, url, self._headers()) as answer:
                answer.read()
                return dict(answer.json())
        except _NothingError:
            if there:
                raise
            return {}

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        yield from web.read(self.client, file, start, stop, self._headers())

    def close(self) -> None:
        self.client.close()

    def _refused(self, answer: httpx2.Response) -> None:
        if answer.status_code in (401, 403):
            who = (
                f"the account {getattr(self.account, 'service_account_email', '')}" if self.account else "nobody in particular"
            )
            raise NotReadyError(
                f"{self.address}: {who} may not read it; give the pod's service account, or the one of the file that "
                "GOOGLE_APPLICATION_CREDENTIALS names, from a Secret, the role of an object viewer"
            )
        if answer.status_code == 404:
            raise _NothingError(f"{self.address}: there is nothing; correct the address")


class _NothingError(NotReadyError):
    """There is nothing at an address."""
