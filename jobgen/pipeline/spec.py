"""Pipeline files: YAML to a Pipeline in which every name, type and reference has been checked.

An error says where (file, line, key), what was found and what is valid; all errors of a file are reported together.
"""

import fnmatch
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobgen.pipeline import level, pools, source
from jobgen.pipeline.fragment import Fragment
from jobgen.pipeline.pipeline import (
    CONTAINER,
    KEY_LENGTH,
    LONGEST_JOB,
    NAME,
    Conductor,
    Input,
    Pipeline,
    Reference,
    Stage,
    Workspace,
)
from jobgen.pipeline.pools import Pool
from jobgen.pipeline.source import Document
from minima import flags, options
from minima.errors import UsageError, did_you_mean
from minima.models.shape import Shape
from minima.options import VERBS, Options, split_digest
from minima.workspace.inputs import WORKSPACE

SHIPPED = Path(__file__).parents[1] / "pipelines"
RESERVED = "output_dir"
PLACE = f"{WORKSPACE}/… or an absolute path"
KEYS = ("name", "image", "conductor", "workspace", "inputs", "pools", "stages")
TAKEN = {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "src", "sys", "tmp", "usr", "var"}
"""Folders of the image's root, and those that jobgen mounts there."""
REFERENCE = re.compile(r"\$\{([^{}]*)\}(?:/(.*))?", re.DOTALL)
_SHAPE = ("layer", "hidden", "head", "kv_head", "intermediate", "vocab_size")


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
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except IsADirectoryError:
        raise UsageError(f"{name}: a folder; name a pipeline file in it") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        folder = Path(name.replace("\0", "")).parent
        beside = [str(file) for file in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
        known = did_you_mean(name, [*shipped(), *beside])
        raise UsageError(f"{name}: no such file or shipped pipeline; {known}") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from None


def parse(text: str, name: str) -> Pipeline:
    """The pipeline that `text` describes.

    Args:
        text: YAML.
        name: what errors call it.

    Raises:
        UsageError: it is wrong; one line for each error.
    """
    return _Reader(source.parse(text, name), name, text).pipeline()


class _Reader:
    """One pass over a document that gathers errors."""

    def __init__(self, document: Document, name: str, text: str) -> None:
        self.document = document
        self.place = document.place
        self.name = name
        self.text_of_file = text
        self.errors: list[str] = []
        self.own_pools: set[str] = set()

    def error(self, message: str, *path: str) -> None:
        self.errors.append(f"{self.place(*path)}: {message}")

    def mapping(self, value: Any, *path: str, valid: tuple[str, ...] | None = None) -> dict[str, Any]:
        """`value` as a mapping, without the keys that are not `valid`."""
        if not isinstance(value, dict):
            self.error(f"found {source.told(value)}; a mapping is valid", *path)
            return {}
        for key in value:
            if valid is not None and key not in valid:
                self.error(f"unknown; {did_you_mean(key, valid)}", *path, key)
        return {key: item for key, item in value.items() if valid is None or key in valid}

    def text(self, value: Any, *path: str, pattern: re.Pattern[str] | None = None, what: str = "a string") -> str:
        if isinstance(value, str) and value and (pattern is None or pattern.fullmatch(value)):
            return value
        self.error(f"found {source.told(value)}; {what} is valid", *path)
        return ""

    def outside(self, value: Any, *path: str) -> str:
        """`value` as the path of what no stage makes, with or without a digest."""
        text = self.text(value, *path, what=PLACE)
        try:
            bare, _ = split_digest(text)
        except UsageError as error:
            self.error(str(error), *path)
            return ""
        if "${" in bare.removeprefix(WORKSPACE):
            self.error(f"found {text!r}; only {WORKSPACE} at the start of a path is replaced", *path)
        elif text and (problem := _path_problem(bare)):
            self.error(f"found {text!r}; {problem}", *path)
        return text

    def pipeline(self) -> Pipeline:
        root = self.mapping(self.document.value, valid=(*KEYS, *level.KEYS, level.SCHEDULING))
        for key in ("name", "image", "workspace", "stages"):
            if key not in root:
                self.error("missing", key)
        name = self.dns(root.get("name", "x"), "name")
        image = self.image(root.get("image", "x"), "image")
        conductor = self.conductor(root["conductor"]) if "conductor" in root else None
        fragment = self.level(root)
        workspace = self.workspace(root.get("workspace", {"claim": "x", "path": "/x"}))
        inputs = {k: self.input(k, v) for k, v in self.mapping(root.get("inputs", {}), "inputs").items()}
        known = self.pools(root.get("pools", {}))
        given = self.mapping(root.get("stages", {"x": None}), "stages")
        if not given:
            self.error("found no stage; at least one is valid", "stages")
        stages = {}
        for key, value in given.items():
            if key == "workspace":
                self.error(f"{WORKSPACE} is the folder of all artifacts; choose another name", "stages", key)
            if key in inputs:
                self.error("an input has this name too; a reference would not say which", "stages", key)
            stage = self.stage(key, value, name, image, known, {*inputs, *given}) if "stages" in root else None
            if stage:
                stages[key] = stage
        if not self.errors:
            self.references(stages, inputs)
            self.cycle(stages)
        if self.errors:
            raise UsageError("\n".join(self.errors))
        return Pipeline(
            name=name,
            conductor=conductor,
            fragment=fragment,
            workspace=workspace,
            inputs=inputs,
            stages=stages,
            source=self.name,
            text=self.text_of_file,
            place=self.place,
        )

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
        made, problems = level.read(found, path, container=container)
        for where, what in problems:
            self.error(what, *where)
        return made

    def conductor(self, value: Any) -> Conductor:
        path = ("conductor",)
        if not isinstance(value, dict):
            return Conductor(image=self.image(value, *path), fragment=Fragment(), account="")
        found = self.mapping(value, *path, valid=("image", *level.KEYS))
        if "image" not in found:
            self.error("image is missing; that of the root Dockerfile, such as minima:jobgen, is valid", *path)
        image = self.image(found.get("image", "x"), *path, "image")
        fragment = self.level(found, *path, container="conductor")
        return Conductor(image=image, fragment=fragment, account=str(found.get("service_account") or ""))

    def workspace(self, value: Any) -> Workspace:
        found = self.mapping(value, "workspace", valid=("claim", "path"))
        for key in {"claim", "path"} - found.keys():
            self.error(f"found no {key}; the name of the claim and where pods mount it are valid", "workspace")
        name = "a claim's name, of a-z, 0-9, - and ., beginning and ending with a letter or a digit,"
        claim = self.text(found.get("claim", "x"), "workspace", "claim", pattern=level.OBJECT_NAME, what=name)
        path = self.text(found.get("path", "/x"), "workspace", "path", what="an absolute path")
        if path and not path.startswith("/"):
            self.error(f"found {path!r}; an absolute path is valid", "workspace", "path")
        elif path and (problem := _path_problem(path)):
            self.error(f"found {path!r}; {problem}", "workspace", "path")
        elif path == "/" or "@" in path or ":" in path or path.lstrip("/").partition("/")[0] in TAKEN:
            taken = ", ".join(sorted(f"/{name}" for name in TAKEN))
            self.error(f"found {path!r}; a folder such as /workspace is valid, outside of {taken}", "workspace", "path")
        return Workspace(claim=claim, path=path)

    def input(self, name: str, value: Any) -> Input:
        path = ("inputs", name)
        self.dns(name, *path)
        if name == "workspace":
            self.error(f"{WORKSPACE} is the folder of all artifacts; choose another name", *path)
        line = self.document.line(*path)
        if not isinstance(value, dict):
            return Input(path=self.outside(value, *path), shape=None, line=line)
        found = self.mapping(value, *path, valid=("path", *_SHAPE))
        if "path" not in found:
            self.error(f"found no path; {PLACE} is valid", *path)
        sizes = {key: found[key] for key in _SHAPE if key in found}
        missing = [key for key in _SHAPE if key not in sizes]
        if sizes and missing:
            self.error(f"a model's shape needs {', '.join(missing)} too", *path)
        for key, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10**7:
                self.error(f"found {source.told(size)}; a whole number above 0 is valid", *path, key)
        shape = None
        if sizes and not missing and not self.errors:
            for smaller, larger in (("head", "hidden"), ("kv_head", "head")):
                if sizes[larger] % sizes[smaller]:
                    self.error(f"{sizes[smaller]} does not divide {larger} {sizes[larger]}", *path, smaller)
            shape = Shape(**sizes, head_dim=max(1, sizes["hidden"] // sizes["head"]))
        return Input(path=self.outside(found.get("path", "/x"), *path, "path"), shape=shape, line=line)

    def pools(self, value: Any) -> dict[str, Pool]:
        known = {name: self.pool(name, {}) for name in pools.BUILT_IN}
        for name, changes in self.mapping(value, "pools").items():
            self.dns(name, "pools", name)
            self.own_pools.add(name)
            given = self.mapping(changes, "pools", name)
            own = (*level.KEYS, level.SCHEDULING)
            made = self.pool(name, {key: item for key, item in given.items() if key not in own})
            fragment = self.level(given, "pools", name)
            known[name] = replace(made, fragment=fragment) if made else None
        return {name: pool for name, pool in known.items() if pool}

    def pool(self, name: str, changes: dict[str, Any]) -> Pool | None:
        try:
            return pools.build(name, changes, lambda key: self.place("pools", name, *([key] if key else [])))
        except UsageError as error:
            self.errors.append(str(error))
            return None

    def stage(
        self, name: str, value: Any, pipeline: str, image: str, known: dict[str, Pool], referable: set[str]
    ) -> Stage | None:
        path = ("stages", name)
        before = len(self.errors)
        self.dns(name, *path)
        if (excess := len(pipeline) + len(name) + KEY_LENGTH + 2 - LONGEST_JOB) > 0:
            job = f"{pipeline}-{name}-{'x' * KEY_LENGTH}"
            self.error(f"the job's name {job} is {excess} characters too long; at most {LONGEST_JOB} are valid", *path)
        found = self.mapping(value, *path, valid=("verb", "pool", "image", "options", *level.KEYS, level.SCHEDULING))
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
        given = self.mapping(found.get("options", {}), *path, "options")
        fragment = self.level(found, *path)
        if verb not in VERBS:
            return None
        references = self.stage_references(VERBS[verb], given, name, referable)
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
            image=own or pool.image or image,
            options=built,
            references=references,
            stated=frozenset(given),
            fragment=fragment,
        )

    def stage_references(self, verb: type[Options], given: dict[str, Any], stage: str, valid: set[str]) -> dict[str, Reference]:
        """The references in a stage's options; whatever else an input names must be an absolute path, or in the workspace."""
        references = {}
        known = {f.name: f for f in options.fields(verb)}
        reads = options.inputs(verb)
        for option, value in given.items():
            path = ("stages", stage, "options", option)
            if not isinstance(value, str) or option not in known:
                continue
            match = REFERENCE.fullmatch(value)
            if match and match[1] == "workspace" and (option in reads or known[option].metadata["absolute"]):
                self.outside(value, *path)
            elif option not in reads:
                if match:
                    able = ", ".join(reads) or "none"
                    self.error(f"found the reference {value!r}; only options that read something take one: {able}", *path)
                elif value and known[option].metadata["absolute"] and (problem := _path_problem(value)):
                    self.error(f"found {value!r}; {problem}", *path)
            elif match:
                name, inside = match[1], match[2] or ""
                if name not in valid:
                    self.error(f"found {value!r}: no stage and no input is called {name!r}; {did_you_mean(name, valid)}", *path)
                elif match[2] is not None and (problem := _path_problem("/" + inside)):
                    self.error(f"found {value!r}; after the reference {problem}", *path)
                elif "@sha256:" in inside:
                    self.error(f"found {value!r}; a digest stands at the input itself, in `inputs`", *path)
                else:
                    references[option] = Reference(name=name, inside=inside)
            elif "${" in value:
                self.error(f"found {value!r}; a reference is ${{name}} or ${{name}}/inside, and the whole value", *path)
            elif value and not value.startswith("/"):
                near = f"; did you mean ${{{value.split('/')[0]}}}?" if value.split("/")[0] in valid else ""
                self.error(f"found {value!r}; a reference such as ${{stage}}/inside, {PLACE} is valid{near}", *path)
        return references

    def references(self, stages: dict[str, Stage], inputs: dict[str, Input]) -> None:
        """Check what every reference leads to."""
        for stage in stages.values():
            for option, reference in stage.references.items():
                path = ("stages", stage.name, "options", option)
                outside = inputs.get(reference.name)
                if outside and reference.inside and split_digest(outside.path)[1]:
                    text = f"the digest of {reference.name} is of all of it; declare {reference.inside} as an input of its own"
                    self.error(text, *path)
                if not outside:
                    wanted = options.inputs(type(stage.options))[option]
                    self.made(reference, stages[reference.name], wanted, stages, *path)

    def made(self, reference: Reference, stage: Stage, wanted: str, stages: dict[str, Stage], *path: str) -> None:
        """Check that `stage` makes what is `wanted` at the path of a reference to it."""
        makes = type(stage.options).makes
        if any(wanted in kinds and fnmatch.fnmatchcase(reference.inside, inside) for inside, kinds in makes.items()):
            return
        able = [
            f"${{{one.name}}}{'/' * bool(inside)}{inside}"
            for one in stages.values()
            for inside, kinds in type(one.options).makes.items()
            if wanted in kinds and (wanted != "records" or inside.startswith("dev-") == path[-1].startswith("dev_"))
        ]
        found = f"${{{reference.name}}}{'/' * bool(reference.inside)}{reference.inside}"
        self.error(f"found {found}, which is no {wanted}; {did_you_mean(found, able) if able else 'no stage makes one'}", *path)

    def cycle(self, stages: dict[str, Stage]) -> None:
        """Report a cycle of references, if there is one, by its stages."""
        rest = {name: [r.name for r in stage.references.values() if r.name in stages] for name, stage in stages.items()}
        while free := [name for name, needs in rest.items() if not any(need in rest for need in needs)]:
            for name in free:
                del rest[name]
        if not rest:
            return
        way = [next(iter(rest))]
        while way[-1] not in way[:-1]:
            way.append(next(need for need in rest[way[-1]] if need in rest))
        way = way[way.index(way[-1]) :]
        told = ", ".join(f"{one} reads {other}" for one, other in pairwise(way))
        self.error(f"a cycle: {told}; none of them can be the first", "stages", way[0])


def _path_problem(path: str) -> str:
    """What is wrong with a path from the root or from the workspace, or nothing; it must be in its one normal form, for it
    enters keys."""
    inside = path.removeprefix(WORKSPACE)
    parts = inside.split("/")[1:]
    if not inside.startswith("/"):
        return f"{PLACE} is valid"
    if path != "/" and any(part in {"", ".", ".."} for part in parts):
        return "a path without empty parts, '.', '..' and '/' at its end is valid"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "a path without control characters is valid"
    return ""
