"""A repository of the Hugging Face hub, or of a mirror that HF_ENDPOINT names, at one commit.

The library says where the hub is and whose token is meant. Its own ways to read wait and try again by rules of their own and
keep what they have in folders of their own, so the questions are asked here (https://huggingface.co/docs/hub/api).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import constants, get_token

from minima.addresses import Address
from minima.errors import NotReadyError, UsageError
from minima.sources import web
from minima.sources.source import File, TransientError

_NEXT = re.compile(r'<([^>]+)>; rel="next"')


class Hub:
    """The files of one commit. The token is HF_TOKEN's."""

    one = False

    def __init__(self, address: Address) -> None:
        if constants.HF_HUB_OFFLINE:
            raise UsageError(f"HF_HUB_OFFLINE is set, and {address} is on the hub; unset it")
        self.address = address
        kind, _, rest = address.rest.partition("/")
        self.repository = f"{kind}/{rest}" if kind in ("datasets", "spaces") else f"models/{address.rest}"
        self.token = get_token()
        if self.token and not re.fullmatch(r"[!-~]+", self.token):
            raise UsageError("HF_TOKEN: holds what is no token, such as a blank or a letter beyond ASCII; hf_… is valid")
        self.client = web.client(refused=self._refused)

    def commit(self) -> str:
        """The commit that the address's branch, or else the default one, is at now."""
        at = f"/revision/{quote(self.address.commit, safe='')}" if self.address.commit else ""
        url = self._api(at)
        found = self._asked(url)[0]
        with self._understood(url):
            return str(found["sha"])

    def files(self) -> list[File]:
        found: list[File] = []
        url: str | None = self._api(f"/tree/{self.address.commit}?recursive=true")
        while url:
            entries, headers = self._asked(url)
            with self._understood(url):
                found += [self._file(entry) for entry in entries if entry["type"] == "file"]
            more = _NEXT.search(headers.get("Link", ""))
            # A mirror may hand on the hub's own address, which nobody here can reach.
            url = f"{url.partition('?')[0]}?{urlsplit(more[1]).query}" if more else None
        return found

    def _api(self, path: str) -> str:
        return f"{constants.ENDPOINT}/api/{self.repository}{path}"

    def _asked(self, url: str) -> tuple[Any, Mapping[str, str]]:
        with web.request(self.client, url, self._headers()) as answer:
            answer.read()
            with self._understood(url):
                return answer.json(), answer.headers

    @contextmanager
    def _understood(self, url: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, TypeError):
            raise NotReadyError(f"{url.partition('?')[0]}: answers what is no hub's; correct HF_ENDPOINT") from None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _file(self, entry: Mapping[str, Any]) -> File:
        name, large = entry["path"], entry.get("lfs")
        where = f"{constants.ENDPOINT}/{self.address.rest}/resolve/{self.address.commit}/{quote(name)}"
        return File(
            name=name,
            size=entry["size"],
            version=entry["oid"],
            sha256=large["oid"] if large else "",
            blob="" if large else entry["oid"],
            handle=where,
        )

    def close(self) -> None:
        self.client.close()

    def read(self, file: File, start: int, stop: int | None) -> Iterator[bytes]:
        yield from web.read(self.client, file, start, stop, self._headers())

    def _refused(self, answer: httpx2.Response) -> None:
        """Raise what a refusal means; the hub says more than its status."""
        code, status = answer.headers.get("X-Error-Code", ""), answer.status_code
        if status in (401, 403) and not code and not str(answer.url).startswith(f"{constants.ENDPOINT}/"):
            # It sends on to storage by links that hold for a while; asked again it gives another one.
            raise TransientError(f"{answer.url.host}, to which the hub sends on, answers {status}", web.wait_of(answer.headers))
        who = "the account of HF_TOKEN" if self.token else "one without a token"
        if code == "RevisionNotFound":
            raise NotReadyError(
                f"{self.address.url} has no commit {self.address.commit}; `minima digest {self.address.url}` prints the newest"
            )
        if code == "RepoNotFound" or (status == 401 and code != "GatedRepo"):  # Whoever may not see one is told neither.
            raise NotReadyError(
                f"{self.address.url}: not at {constants.ENDPOINT}, or not for {who} to see; correct the name, or give a token "
                "from a Secret: "
                "`env: {HF_TOKEN: {secret: NAME, key: KEY}}`"
            )
        if status in (401, 403):
            raise NotReadyError(
                f"{self.address.url}: {who} may not read it; if it is gated, accept its terms on "
                f"{constants.ENDPOINT}/{self.address.rest}, and give that account's token from a Secret: "
                "`env: {HF_TOKEN: {secret: NAME, key: KEY}}`"
            )
