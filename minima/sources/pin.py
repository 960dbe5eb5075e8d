"""What `minima digest` prints of an address: the same address with what pins its content."""

import hashlib
import re
import sys
from collections.abc import Sequence
from contextlib import closing

from minima import addresses
from minima.errors import NotReadyError
from minima.sources import transfer
from minima.sources.opened import opened
from minima.sources.source import File, Source, folder_digest


def pinned(text: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    """The address `text` with the commit that its branch, or the default one, is at; of anything else with its digest.

    The content is read for its digest, and not kept.

    Args:
        text: an address, pinned or not.
        include: globs of the files that will be fetched; empty for all.
        exclude: globs of those that will not.

    Raises:
        UsageError: it is no address.
        NotReadyError, LostPeerError: nothing is there, or it does not answer.
    """
    address = addresses.parse(text, pinned=False)
    with closing(opened(address)) as source:
        if address.kind == "hub" and not re.fullmatch("[0-9a-f]{40}", address.commit):
            from minima.sources.hub import Hub

            assert isinstance(source, Hub)
            return f"{_into(address)}{address.url}@{transfer.patiently(source.commit)}"
        files = transfer.chosen(transfer.patiently(source.files), include, exclude, address.into)
        if not files:
            raise NotReadyError(f"{address}: no file there, or none that is asked for")
        digests = {file.name: _digest(source, file) for file in files}
    return f"{_into(address)}{address}@sha256:{folder_digest(digests, one=source.one)}"


def _into(address: addresses.Address) -> str:
    return f"{address.into}=" if address.into else ""


def _digest(source: Source, file: File) -> str:
    if file.sha256:
        return file.sha256
    print(f"reading {file.name}" + (f", {file.size / 1e6:,.1f} MB" if file.size else ""), file=sys.stderr, flush=True)
    out = _Hash()
    transfer.read(source, file, 0, file.size, out, lambda size: None)
    return out.made.hexdigest()


class _Hash:
    """What `transfer.read` writes to, if nothing is to be kept."""

    def __init__(self) -> None:
        self.seek(0)

    def seek(self, size: int) -> None:
        assert size == 0
        self.made = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self.made.update(chunk)
        self.size += len(chunk)

    def truncate(self) -> None:
        """Nothing follows."""

    def tell(self) -> int:
        return self.size
