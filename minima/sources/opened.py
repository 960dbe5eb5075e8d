"""From an address to what speaks there. Each library is imported only where an address asks for it."""

import os

from minima.addresses import ENDPOINTS, Address
from minima.errors import UsageError
from minima.options import web_port
from minima.sources.source import Source


def opened(address: Address) -> Source:
    """The source at an address.

    Raises:
        StageError: what speaks there cannot be set up.
    """
    scheme = address.url.partition("://")[0]
    for name, of in ENDPOINTS.items():
        if of == scheme and os.environ.get(name) and not web_port(os.environ[name]):  # Else the cloud itself would be asked.
            raise UsageError(
                f"{name}: names no server; an address such as https://mirror.example.com, without a login, is valid"
            )
    match address.kind:
        case "folder":
            from minima.sources.folder import Folder

            return Folder(address)
        case "web":
            from minima.sources.web import Web

            return Web(address)
        case "hub":
            from minima.sources.hub import Hub

            return Hub(address)
        case "bucket" if address.url.startswith("gs:"):
            from minima.sources.gcs import Gcs

            return Gcs(address)
        case "bucket":
            from minima.sources.s3 import S3

            return S3(address)
