"""What `validate` says of a pipeline that is valid and yet may be meant otherwise, or hinders; a line for each."""

from collections.abc import Iterator, Mapping
from typing import Any

from jobgen.manifests import conductor, render, security
from jobgen.pipeline.pipeline import CONTAINER, Pipeline
from jobgen.pipeline.plan import Step
from jobgen.pipeline.pools import BUILT_IN

LOADED = ("kind", "none")
"""Profiles whose nodes may have an image that no registry has."""
OF_A_POD = "eth0"
"""What networks of Kubernetes call a pod's own interface."""


def of(pipeline: Pipeline, steps: list[Step], templates: Mapping[str, Any]) -> Iterator[str]:
    """The lines, of all templates by their stages; none of it is of a run on this machine, which has no templates."""
    if not templates:
        return
    yield from _own_pools(pipeline)
    yield from _unlinked(pipeline, steps, templates)
    yield from _interfaces(steps, templates)
    yield from _unused_images(pipeline)
    yield from _bare_images(pipeline, templates)
    yield from _replaced(pipeline, steps)
    wanting = [step for step in steps if step.pool.gpus]
    if wanting and not pipeline.profile.gpus:
        yield _no_gpus(pipeline.profile.name, wanting)
    yield from _security(templates, {step.name: step.pool.name for step in steps})


def _own_pools(pipeline: Pipeline) -> Iterator[str]:
    """A line for each pool that stages use, of which the cluster's profile says nothing."""
    cluster = pipeline.profile
    if cluster.pools == BUILT_IN:
        return
    for pool in {stage.pool.name: stage.pool for stage in pipeline.stages.values()}.values():
        if not pool.like:
            nearest = min(cluster.pools.values(), key=lambda each: (each.gpus != pool.gpus, each.pods != pool.pods, each.name))
            yield (
                f"pool {pool.name} is your own: of what cluster {cluster.name} says of its pools it has nothing; begin with "
                f"`like: {nearest.name}` in pools.{pool.name}, or say selectors, taints and devices there"
            )


def _unlinked(pipeline: Pipeline, steps: list[Step], templates: Mapping[str, Any]) -> Iterator[str]:
    """A line for each pool whose pods of GPUs train together without the devices by which the profile links such pods."""
    fabrics = [pool for pool in pipeline.profile.pools.values() if pool.gpus and pool.pods > 1 and pool.resources]
    found: dict[tuple[str, str, str], list[str]] = {}
    for step in steps:
        if fabrics and step.pool.gpus and step.pods > 1 and step.options.elastic:
            limits = _container(templates[step.name])["resources"]["limits"]
            wanted = {pool.name: ", ".join(sorted(pool.resources.keys() - limits.keys())) for pool in fabrics}
            if all(wanted.values()):
                nearest = min(fabrics, key=lambda each: (each.pods != step.pods, each.name)).name
                found.setdefault((step.pool.name, nearest, wanted[nearest]), []).append(step.name)
    for (pool, nearest, lacking), names in found.items():
        yield (
            f"pool {pool} ({', '.join(names)}) has several pods without {lacking}, by which cluster {pipeline.profile.name} "
            f"links its {nearest}: they may speak TCP; say these in its `resources`, or begin it with `like: {nearest}`"
        )


def _interfaces(steps: list[Step], templates: Mapping[str, Any]) -> Iterator[str]:
    """A line for each pool whose pods are in their node's network, and look there for an interface of a pod's."""
    found: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        if templates[step.name]["spec"].get("hostNetwork"):
            for each in _container(templates[step.name])["env"]:
                if each["name"] in {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"} and each.get("value") == OF_A_POD:
                    found.setdefault((step.pool.name, each["name"]), []).append(step.name)
    for (pool, variable), names in found.items():
        yield (
            f"pool {pool} ({', '.join(names)}): {variable} is {OF_A_POD}, as a pod's own interface is called, and "
            f"hostNetwork: true gives it those of its node; say that one's name in `env`, such as {variable}: bond0"
        )


def _unused_images(pipeline: Pipeline) -> Iterator[str]:
    """A line for each image of a pool of the cluster's profile that the pipeline's `image` takes the place of."""
    found: dict[tuple[str, str], list[str]] = {}
    for stage in pipeline.stages.values():
        below = pipeline.profile.pools.get(stage.pool.like)
        if below and below.image and stage.image == pipeline.image != below.image:
            found.setdefault((below.image, below.name), []).append(stage.name)
    for (image, pool), names in found.items():
        yield f"{pipeline.place('image')}: the profile's image {image} of pool {pool} is not used (for {', '.join(names)})"


def _bare_images(pipeline: Pipeline, templates: Mapping[str, Any]) -> Iterator[str]:
    """A line for each image without a registry, which nodes of a real cluster have not."""
    found: dict[str, list[str]] = {}
    for name, template in templates.items():
        image = _container(template)["image"]
        if pipeline.profile.name not in LOADED and "/" not in image:
            found.setdefault(image, []).append(name)
    stages = [name for name in templates if name != render.CONDUCTOR]
    for image, names in found.items():
        yield (
            f"image {image} names no registry: a node that has not loaded it asks Docker Hub; put yours before it, such as "
            f"registry.example.com/{image} (for {'all stages' if names == stages else ', '.join(names)})"
        )


def _container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one that jobgen makes, of a stage or of the conductor."""
    found: Mapping[str, Any]
    (found,) = (each for each in template["spec"]["containers"] if each["name"] in {CONTAINER, render.CONDUCTOR})
    return found


def _replaced(pipeline: Pipeline, steps: list[Step]) -> Iterator[str]:
    """A line for what Kubernetes' rules of merging leave out of lists that several levels say."""
    names: dict[tuple[str, str], list[str]] = {}
    of_all = {step.name: render.replaced(pipeline, step) for step in steps} | {render.CONDUCTOR: conductor.replaced(pipeline)}
    for name, gone in of_all.items():
        for each in gone:
            names.setdefault(each, []).append(name)
    for (place, what), readers in names.items():
        yield f"{place}: {what} (for {', '.join(dict.fromkeys(readers))})"


def _no_gpus(cluster: str, steps: list[Step]) -> str:
    pools = ", ".join(dict.fromkeys(step.pool.name for step in steps))
    stages = ", ".join(step.name for step in steps)
    return f"cluster {cluster} has no GPUs, which {pools} ask for: {stages} would wait there for ever"


def _security(templates: Mapping[str, Any], pools: Mapping[str, str]) -> Iterator[str]:
    """A line for each pool whose pods may not live in a namespace with `restricted`."""
    levels = {name: security.level(template) for name, template in templates.items()}
    hindered: dict[tuple[str, str, str], list[str]] = {}
    for name, template in templates.items():
        if levels[name] != security.RESTRICTED:
            what = ", ".join(what for _, what in security.hindrances(template))
            hindered.setdefault((pools.get(name, ""), levels[name], what), []).append(name)
    for (pool, level, what), names in hindered.items():
        where = f"pool {pool} ({', '.join(names)})" if pool else "the conductor"
        yield f"{where}: not in a namespace with Pod Security `restricted`, only with `{level}`: {what}"
