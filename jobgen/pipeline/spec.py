"""Pipeline files: YAML to a Pipeline in which every name, type and reference has been checked.

An error says where (file, line, key), what was found and what is valid; all errors of a file are reported together.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobgen.pipeline import credentials, pools, profile, references, source, words
from jobgen.pipeline.fragment import Fragment
from jobgen.pipeline.pipeline import KEY_LENGTH, LONGEST_JOB, Input, Pipeline, Profile, Stage
from jobgen.pipeline.pools import Pool
from jobgen.pipeline.reader import Reader
from jobgen.pipeline.references import PLACE
from jobgen.pipeline.source import Document
from minima import flags
from minima.errors import UsageError, did_you_mean, told
from minima.models.shape import Shape
from minima.options import VERBS
from minima.workspace.inputs import WORKSPACE

SHIPPED = Path(__file__).parents[1] / "pipelines"
RESERVED = "output_dir"
_EXAMPLES = {
    "name": "`name: my-run`",
    "image": "`image: registry.example.com/minima:train`, of the stages' pods,",
    "workspace": "`workspace: {claim: minima-workspace, path: /workspace}`, the volume of all artifacts,",
    "stages": "a mapping of stages, as `jobgen init NAME` writes one,",
}


def shipped() -> list[str]:
    """The names of the pipelines that ship with jobgen."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def load(name: str) -> Pipeline:
    """The pipeline in the file `name`, or the shipped one of that name.

    Raises:
        UsageError: there is none, or it is wrong.
    """
    return parse(read(name), name)


def read(name: str) -> str:
    """The text of a pipeline, as `load` finds it."""
    if name in shipped():
        return (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    return source.read(Path(name), name, "pipeline", shipped())


def parse(text: str, name: str) -> Pipeline:
    """The pipeline that `text` describes.

    Args:
        text: YAML.
        name: what errors call it.

    Raises:
        UsageError: it is wrong; one line for each error.
    """
    first, *more = source.parse(text, name)
    if what := words.foreign(first.value, "file"):
        raise UsageError(f"{first.place()}: {what}")
    return _Reader(first, name, text).pipeline(_profile(first, more, name))


def _profile(document: Document, more: list[Document], name: str) -> Profile:
    """The profile of a pipeline's cluster.

    Raises:
        UsageError: there is none, or it is wrong.
    """
    if "cluster" not in document.value:
        if more:
            raise UsageError(f"{more[0].place()}: a second document; without `cluster: ./FILE.yaml` a pipeline is one")
        return profile.load(profile.DEFAULT, "", Path())
    asked = document.value["cluster"]
    if not isinstance(asked, str) or not asked.isprintable():
        valid = ", ".join(profile.shipped())
        raise UsageError(f"{document.place('cluster')}: found {told(asked)}; {valid}, or a file such as ./site.yaml, is valid")
    return profile.load(asked, document.place("cluster"), Path(name).parent, more)


class _Reader(Reader):
    def __init__(self, document: Document, name: str, text: str) -> None:
        super().__init__(document)
        self.name = name
        self.text_of_file = text

    def pipeline(self, below: Profile) -> Pipeline:
        root = self.mapping(self.document.value, place="file")
        complete = bool(below.workspace.claim and below.workspace.path)
        images = any(pool.image for pool in below.pools.values())
        for key in ("name", *([] if images else ["image"]), *([] if complete else ["workspace"]), "stages"):
            if key not in root:
                self.error(f"missing; {_EXAMPLES[key]} is valid", key)
        name = self.dns(root.get("name", "x"), "name")
        image = "" if images and "image" not in root else self.image(root.get("image", "x"), "image") or "x"
        conductor = self.conductor(root["conductor"], below.conductor) if "conductor" in root else None
        if conductor is None and below.conductor.image:
            conductor = replace(below.conductor, fragment=Fragment())
        fragment = self.level(root)
        workspace = self.workspace(root["workspace"], below.workspace) if "workspace" in root else below.workspace
        inputs = {k: self.input(k, v) for k, v in self.mapping(root.get("inputs", {}), "inputs").items()}
        # The profile's images lie below the pipeline's `image`, and its fragments below the pipeline's own.
        unsaid = {key: replace(pool, fragment=Fragment(), image="") for key, pool in below.pools.items()}
        known = {
            key: replace(pools.settled(pool), image=pool.image or image or (below.pools[pool.like].image if pool.like else ""))
            for key, pool in self.pools(root.get("pools", {}), unsaid).items()
        }
        given = self.mapping(root.get("stages", {"x": None}), "stages")
        if root.get("stages") == {}:
            self.error("found no stage; at least one is valid", "stages")
        stages = {}
        for key, value in given.items():
            if key == "workspace":
                self.error(f"{WORKSPACE} is the folder of all artifacts; choose another name", "stages", key)
            if key in inputs:
                self.error("an input has this name too; a reference would not say which", "stages", key)
            stage = self.stage(key, value, name, known, {*inputs, *given}) if "stages" in root else None
            if stage:
                stages[key] = stage
        if not self.errors:
            for where, what in references.leads(stages, inputs):
                self.error(what, *where)
        if self.errors:
            raise UsageError("\n".join(self.errors))
        return Pipeline(
            name=name,
            profile=below,
            image=image,
            conductor=conductor,
            fragment=fragment,
            workspace=workspace,
            inputs=inputs,
            stages=stages,
            source=self.name,
            text=source.joined(self.text_of_file, below.text) if below.text else self.text_of_file,
            place=self.place,
        )

    def outside(self, value: Any, *path: str) -> str:
        """`value` as the path of what no stage makes, with or without a digest."""
        text = self.text(value, *path, what=PLACE)
        if text and (problem := references.outside_problem(text)):
            self.error(problem, *path)
        return text

    def input(self, name: str, value: Any) -> Input:
        path = ("inputs", name)
        self.dns(name, *path)
        if name == "workspace":
            self.error(f"{WORKSPACE} is the folder of all artifacts; choose another name", *path)
        line = self.document.line(*path)
        if not isinstance(value, dict):
            return Input(path=self.outside(value, *path), shape=None, line=line)
        found = self.mapping(value, *path, place="input")
        if "path" not in found:
            self.error(f"found no path; {PLACE} is valid", *path)
        sizes = {key: found[key] for key in words.SHAPE if key in found}
        missing = [key for key in words.SHAPE if key not in sizes]
        if sizes and missing:
            self.error(f"a model's shape needs {', '.join(missing)} too", *path)
        for key, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10**7:
                self.error(f"found {told(size)}; a whole number above 0 is valid", *path, key)
        shape = None
        if sizes and not missing and not self.errors:
            for smaller, larger in (("head", "hidden"), ("kv_head", "head")):
                if sizes[larger] % sizes[smaller]:
                    self.error(f"{sizes[smaller]} does not divide {larger} {sizes[larger]}", *path, smaller)
            shape = Shape(**sizes, head_dim=max(1, sizes["hidden"] // sizes["head"]))
        return Input(path=self.outside(found.get("path", "/x"), *path, "path"), shape=shape, line=line)

    def stage(self, name: str, value: Any, pipeline: str, known: dict[str, Pool], referable: set[str]) -> Stage | None:
        path = ("stages", name)
        before = len(self.errors)
        self.dns(name, *path)
        if (excess := len(pipeline) + len(name) + KEY_LENGTH + 2 - LONGEST_JOB) > 0:
            job = f"{pipeline}-{name}-{'x' * KEY_LENGTH}"
            self.error(f"the job's name {job} is {excess} characters too long; at most {LONGEST_JOB} are valid", *path)
        found = self.mapping(value, *path, place="stage")
        if not isinstance(value, dict):
            return None
        verb_path = (*path, "verb") if "verb" in found else path
        verb = self.text(found.get("verb", name), *verb_path)
        if verb and verb not in VERBS:
            hint = "" if "verb" in found else ", and `verb:` is missing"
            self.error(
                f"no such verb {verb!r}{hint}; {did_you_mean(verb, VERBS)}", *path, *(["verb"] if "verb" in found else [])
            )
        pool = None
        if "pool" not in found:
            self.error(f"pool is missing; valid: {', '.join(sorted(known))}", *path)
        elif asked := self.text(found["pool"], *path, "pool", what="a pool's name"):
            try:
                pool = pools.find(asked, known)
            except UsageError as error:
                if asked not in self.own_pools:  # A wrong one was reported where it is defined.
                    self.error(f"{asked}: {error}", *path, "pool")
        own = self.image(found["image"], *path, "image") if "image" in found else ""
        if pool and not own and not pool.image:
            self.error(f"image is missing; one here, of the pool {pool.name} or of the whole pipeline is valid", *path)
        options = found.get("options", {})
        given = self.mapping(options, *path, "options")
        fragment = self.level(found, *path)
        if verb not in VERBS or not isinstance(options, dict):
            return None
        for key in [*given]:
            if what := words.option(key, verb):
                self.error(what, *path, "options", key)
                del given[key]
        found_references, problems = references.of_stage(VERBS[verb], given, name, referable)
        for where, what in problems:
            self.error(what, *where)
        for where in credentials.inside(given, (*path, "options")):
            self.error("a literal credential stands in Git for ever; `env: {NAME: {secret: NAME, key: KEY}}` takes it", *where)
        if RESERVED in given:
            self.error("jobgen names the artifact's folder; remove it", *path, "options", RESERVED)
        try:
            built = flags.build(VERBS[verb], {**given, RESERVED: ""}, lambda option: self.place(*path, "options", option))
        except UsageError as error:
            self.errors.append(str(error))
        if len(self.errors) > before or pool is None:
            return None
        return Stage(
            name=name,
            verb=verb,
            pool=pool,
            image=own or pool.image,
            options=built,
            references=found_references,
            stated=frozenset(given),
            fragment=fragment,
        )
