"""Profiles of clusters: files in a pipeline's own words that lie below every pipeline that names one as its `cluster`.

Those that ship with jobgen are in `clusters/`, each with its sources. A site's own is a file beside the pipeline; its text
travels with it into the cluster, as another document of the pipeline's.
"""

from collections.abc import Sequence
from pathlib import Path

from jobgen.pipeline import pools, source, words
from jobgen.pipeline.pipeline import Profile
from jobgen.pipeline.reader import Reader
from jobgen.pipeline.source import Document
from minima.errors import UsageError, did_you_mean, told

SHIPPED = Path(__file__).parents[1] / "clusters"
DEFAULT = "none"


def shipped() -> list[str]:
    """The names of the profiles that ship with jobgen."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def load(name: str, place: str, folder: Path, beside: Sequence[Document] = ()) -> Profile:
    """The profile that a pipeline's `cluster` names.

    Args:
        name: of one that ships with jobgen, or the path of a file.
        place: where it does.
        folder: from which a path goes.
        beside: the documents after the pipeline's own in its file: the profile itself, where it travelled with it.

    Raises:
        UsageError: there is none, or it is wrong; one line for each error.
    """
    if name in shipped():
        if beside:
            raise UsageError(f"{beside[0].place()}: a second document; without one `cluster: {name}`, which ships, is valid")
        content = source.read(SHIPPED / f"{name}.yaml", name, "profile")
        return _Reader(_only(content, f"clusters/{name}.yaml")).profile(name, "")
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        known = did_you_mean(name, shipped())
        raise UsageError(f"{place}: found {name!r}, which is no profile of a cluster; {known}, or a file such as ./site.yaml")
    if beside:
        if len(beside) > 1:
            raise UsageError(f"{beside[1].place()}: a third document; a pipeline, and its cluster's profile, are valid")
        return _Reader(beside[0]).profile(name, "")
    file = folder / name
    try:
        content = source.read(file, str(file), "profile", shipped())
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
    return _Reader(_only(content, str(file))).profile(name, content)


def _only(text: str, file: str) -> Document:
    first, *more = source.parse(text, file, "keys such as `pools: …` are valid")
    if more:
        raise UsageError(f"{more[0].place()}: a second document; a profile is one")
    return first


class _Reader(Reader):
    of_profile = True

    def profile(self, name: str, text: str) -> Profile:
        if what := words.foreign(self.document.value, "profile"):
            raise UsageError(f"{self.place()}: {what}")
        root = self.mapping(self.document.value, place="profile")
        about = self.text(root.get("about", "x"), "about", what="the machines that it is for, in a line,")
        gpus = root.get("gpus", True)
        if not isinstance(gpus, bool):
            self.error(f"found {told(gpus)}; true, or false for a cluster without any, is valid", "gpus")
        made = Profile(
            name=name,
            about=about if "about" in root else "",
            gpus=gpus,
            fragment=self.level(root),
            pools=self.pools(root.get("pools", {}), pools.BUILT_IN),
            conductor=self.conductor(root.get("conductor", {})),
            workspace=self.workspace(root.get("workspace", {})),
            text=text,
        )
        if self.errors:
            raise UsageError("\n".join(self.errors))
        return made
