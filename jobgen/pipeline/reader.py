"""What the files of people are made of: names, images, pools, a workspace, a conductor, and what a level adds to its objects.

An error says where (file, line, key), what was found and what is valid; all errors of a file are reported together.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobgen.pipeline import level, pools, words
from jobgen.pipeline.fragment import Fragment, Layer
from jobgen.pipeline.pipeline import CONTAINER, NAME, Conductor, Workspace
from jobgen.pipeline.pools import Pool
from jobgen.pipeline.references import path_problem
from jobgen.pipeline.source import Document
from jobgen.pod import forms
from minima.errors import UsageError, did_you_mean, told


class Reader:
    """One pass over a document that gathers errors; what reads a whole file of a kind is made of it."""

    of_profile = False
    """Whether the file is a cluster's profile."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.place = document.place
        self.errors: list[str] = []
        self.own_pools: set[str] = set()

    def error(self, message: str, *path: str) -> None:
        self.errors.append(f"{self.place(*path)}: {message}")

    def mapping(self, value: Any, *path: str, place: str = "") -> dict[str, Any]:
        """`value` as a mapping, without the keys that are not valid at a place of `words.KEYS`, if it is one of them."""
        if not isinstance(value, dict):
            hint = ", `KEY: …` without dashes," if isinstance(value, list) else ""
            self.error(f"found {told(value)}; a mapping{hint} is valid", *path)
            return {}
        valid = words.valid(place) if place else value.keys()
        for key in (key for key in value if key not in valid):
            self.error(words.unknown(key, place), *path, key)
        return {key: item for key, item in value.items() if key in valid}

    def text(self, value: Any, *path: str, pattern: re.Pattern[str] | None = None, what: str = "a string") -> str:
        if isinstance(value, str) and value and (pattern is None or pattern.fullmatch(value)):
            return value
        self.error(f"found {told(value)}; {what} is valid", *path)
        return ""

    def dns(self, value: Any, *path: str) -> str:
        what = "a name of a-z, 0-9 and -, starting with a letter, of at most 63 characters (DNS-1035),"
        return self.text(value, *path, pattern=NAME, what=what)

    def image(self, value: Any, *path: str) -> str:
        try:
            return pools.image(value)
        except UsageError as error:
            self.error(str(error), *path)
            return ""

    def level(self, found: dict[str, Any], *path: str, container: str = CONTAINER) -> Fragment:
        """What one level adds to its objects."""
        made, problems = level.read(found, path, self.place, container=container)
        for where, what in problems:
            self.error(what, *where)
        return replace(made, layers=tuple(replace(layer, of_profile=self.of_profile) for layer in made.layers))

    def conductor(self, value: Any, below: Conductor | None = None) -> Conductor:
        """What the file says of the conductor; its image must be said, here or in the profile `below`."""
        path = ("conductor",)
        if not isinstance(value, dict | str):
            self.error(f"found {told(value)}; an image such as minima:jobgen, or a mapping with `image`, is valid", *path)
            value = "x"
        if isinstance(value, str):
            account = below.account if below else ""
            return Conductor(image=self.image(value, *path), fragment=Fragment(), account=account)
        found = self.mapping(value, *path, place="conductor")
        if "image" not in found and below and not below.image:
            self.error("image is missing; that of the root Dockerfile, such as minima:jobgen, is valid", *path)
        image = self.image(found["image"], *path, "image") if "image" in found else below.image if below else ""
        fragment = self.level(found, *path, container="conductor")
        account = found.get("service_account", below.account if below else "")
        return Conductor(image=image, fragment=fragment, account=str(account or ""))

    def workspace(self, value: Any, below: Workspace | None = None) -> Workspace:
        """What the file says of the workspace; all of it must be said, here or in the profile `below`."""
        found = self.mapping(value, "workspace", place="workspace")
        for key in ("claim", "path") if isinstance(value, dict) else ():
            if key not in found and below and not getattr(below, key):
                self.error(f"found no {key}; the name of the claim and where pods mount it are valid", "workspace")
        claim, path = (below.claim, below.path) if below else ("", "")
        if "claim" in found:
            claim = self.text(found["claim"], "workspace", "claim", what="the name of a claim")
            if claim and (valid := forms.subdomain(claim)):
                self.error(f"found {told(claim)}; {valid}", "workspace", "claim")
        if "path" in found:
            path = self.text(found["path"], "workspace", "path", what="an absolute path")
            if path and (problem := _mount_problem(path)):
                self.error(f"found {path!r}; {problem}", "workspace", "path")
        return Workspace(claim=claim, path=path)

    def pools(self, value: Any, below: Mapping[str, Pool]) -> dict[str, Pool]:
        """The pools of `below` with what the file says of them, and its own."""
        below = {name: replace(pool, like=name) for name, pool in below.items()}
        known: dict[str, Pool | None] = dict(below)
        for name, changes in self.mapping(value, "pools").items():
            self.own_pools.add(name)
            if not self.dns(name, "pools", name):
                continue
            given = self.mapping(changes, "pools", name, place="pool")
            fields = {key: item for key, item in given.items() if key in pools.KEYS}
            like = fields.pop("like", name)
            start = below.get(like) if isinstance(like, str) else None
            if start is None and "like" in given:
                self.error(f"found {told(like)}; {did_you_mean(str(like), below)}", "pools", name, "like")
            made = self.pool(replace(start or Pool(name=name), name=name), fields)
            fragment = self.level(given, "pools", name)
            if made and "node_selector" in fields:  # At this level: below it are the profile and the pipeline, as a whole.
                selector = Layer(
                    template={"spec": {"nodeSelector": dict(fields["node_selector"])}},
                    place=self.place,
                    words={(): ("pools", name), ("spec", "nodeSelector"): ("pools", name, "node_selector")},
                    of_profile=self.of_profile,
                )
                fragment = replace(fragment, layers=(selector, *fragment.layers))
            known[name] = replace(made, fragment=fragment) if made else None
        return {name: pool for name, pool in known.items() if pool}

    def pool(self, below: Pool, changes: dict[str, Any]) -> Pool | None:
        try:
            return pools.build(below, changes, lambda *keys: self.place("pools", below.name, *keys))
        except UsageError as error:
            self.errors.append(str(error))
            return None


def _mount_problem(path: str) -> str:
    """What is wrong with a path at which to mount the workspace, or nothing."""
    if not path.startswith("/"):
        return "an absolute path is valid"
    if problem := path_problem(path):
        return problem
    if path == "/" or "@" in path or ":" in path or path.lstrip("/").partition("/")[0] in level.TAKEN:
        taken = ", ".join(sorted(f"/{name}" for name in level.TAKEN))
        return f"a folder such as /workspace is valid, outside of {taken}"
    return ""
