"""Profiles of clusters: below the pipeline, in its own words, and with it wherever it goes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.commands.arguments import CLUSTERS
from jobgen.manifests import conductor, render
from jobgen.pipeline import plan, profile, spec
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.pools import DISK, amount
from minima.errors import UsageError
from tests.cluster.machines import NODES

MINIMA = spec.read("minima-3b")
SITE = """about: ours
labels: {team: site, kept: below}
env: {NCCL_DEBUG: WARN, HTTP_PROXY: "http://proxy:3128"}
workspace: {claim: shared}
conductor: {image: registry/minima:jobgen, service_account: ours, pod: {spec: {nodeSelector: {role: cpu}}}}
pools:
  a100-32: {node_selector: {gpu: a100}, memory: 500Gi, env: {NCCL_DEBUG: INFO, NCCL_IB_HCA: mlx5}}
  large: {cpu: 4, memory: 8Gi}
"""


def on(cluster: str, text: str = MINIMA, name: str = "p.yaml", **changes: Any) -> Pipeline:
    """A pipeline that names a cluster, with other keys of its root."""
    document = yaml.safe_load(text)
    return spec.parse(yaml.safe_dump({**document, "cluster": cluster, **changes}, sort_keys=False), name)


def job(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    return render.job(pipeline, plan.named(pipeline, stage))


def pod(made: dict[str, Any]) -> dict[str, Any]:
    (replica,) = made["spec"]["pytorchReplicaSpecs"].values()
    found: dict[str, Any] = replica["template"]["spec"]
    return found


def env(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in found["containers"][0]["env"]}


def site(folder: Path, text: str = SITE) -> Path:
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    return folder / "p.yaml"


def test_the_command_line_knows_what_ships() -> None:
    assert sorted(CLUSTERS) == profile.shipped()


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_published_run_fits_every_cluster_that_ships(name: str) -> None:
    made = on(name)
    assert made.profile.about
    steps = plan.plan(made)
    assert render.files(made)
    size = "40Gi" if name in {"eks-p4d", "gke-a2-high", "aks-nd96-a100-40"} else "80Gi"
    assert {step.pool.gpu_memory for step in steps if step.pool.gpus} == {size}
    assert [step.key for step in steps] == [step.key for step in plan.plan(spec.load("minima-3b"))]


def test_none_is_as_without() -> None:
    named, unnamed = on("none"), spec.load("minima-3b")
    assert [render.job(named, step) for step in plan.plan(named)] == [render.job(unnamed, step) for step in plan.plan(unnamed)]


def test_a_profile_says_what_its_nodes_want() -> None:
    pipeline = on("eks-p4de")
    made = pod(job(pipeline, "adapt"))
    assert made["nodeSelector"] == {"node.kubernetes.io/instance-type": "p4de.24xlarge"}
    limits = made["containers"][0]["resources"]["limits"]
    assert limits["vpc.amazonaws.com/efa"] == "4"
    assert limits["hugepages-2Mi"] == "5120Mi"
    assert env(made)["FI_PROVIDER"] == "efa"
    assert "affinity" in pod(job(pipeline, "build-data"))
    assert "affinity" in conductor.objects(pipeline)[-1]["spec"]["template"]["spec"]


def test_what_keeps_away_from_the_gpus_stays_with_a_pipelines_own_affinity() -> None:
    """Said for all pods, for a pool or for the conductor."""
    zone = {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]}}
    fragment = {"pod": {"spec": {"affinity": {"nodeAffinity": required}}}}
    tolerating = {"pod": {"spec": {"tolerations": [{"key": "cpu", "operator": "Exists"}]}}}
    both = [["node.kubernetes.io/instance-type", "topology.kubernetes.io/zone"]]
    alone = [["node.kubernetes.io/instance-type"]]
    image = "minima:jobgen"
    for changes, stages, conducting in (
        (fragment, both, both),
        ({"pools": {"cpu-8": fragment}}, both, alone),
        ({"conductor": {"image": image, **fragment}, **tolerating}, alone, both),
    ):
        made = on("eks-p4d", **changes)
        for found, terms in (
            (pod(job(made, "build-data")), stages),
            (conductor.objects(made)[-1]["spec"]["template"]["spec"], conducting),
        ):
            (kept,) = found["affinity"]["nodeAffinity"].values()
            assert [[one["key"] for one in each["matchExpressions"]] for each in kept["nodeSelectorTerms"]] == terms


def test_the_conductor_keeps_the_tolerations_of_a_profile(tmp_path: Path) -> None:
    taint = {"key": "site", "operator": "Exists"}
    text = SITE.replace("nodeSelector: {role: cpu}", f"nodeSelector: {{role: cpu}}, tolerations: [{taint}]")
    more = {"pod": {"spec": {"tolerations": [{"key": "cpu", "operator": "Exists"}]}}}
    for changes in (more, {"conductor": {"image": "minima:jobgen", **more}}):
        made = on("./site.yaml", name=str(site(tmp_path, text)), **changes)
        found = conductor.objects(made)[-1]["spec"]["template"]["spec"]
        assert [each["key"] for each in found["tolerations"]] == ["site", "cpu"]


def test_openshift_leaves_users_to_the_platform() -> None:
    pipeline = on("openshift")
    pods = [pod(render.job(pipeline, step)) for step in plan.plan(pipeline)]
    pods.append(conductor.objects(pipeline)[-1]["spec"]["template"]["spec"])
    for made in pods:
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & made["securityContext"].keys()
        assert made["securityContext"]["runAsNonRoot"] is True


def test_the_pipeline_wins(tmp_path: Path) -> None:
    document = yaml.safe_load(MINIMA)
    made = on(
        "./site.yaml",
        name=str(site(tmp_path)),
        labels={"team": "ours"},
        env={"NCCL_DEBUG": "TRACE"},
        workspace={"path": "/data"},
        pools={"a100-32": {"memory": "600Gi"}},
        stages={**document["stages"], "expand-vocab": {**document["stages"]["expand-vocab"], "pool": "large"}},
    )
    found = job(made, "adapt")
    assert (found["metadata"]["labels"]["team"], found["metadata"]["labels"]["kept"]) == ("ours", "below")
    # All of the profile lies below all of the pipeline: also what it says of a pool.
    assert env(pod(found)).items() >= {"NCCL_DEBUG": "TRACE", "NCCL_IB_HCA": "mlx5", "HTTP_PROXY": "http://proxy:3128"}.items()
    assert pod(found)["nodeSelector"] == {"gpu": "a100"}
    assert pod(found)["containers"][0]["resources"]["limits"]["memory"] == "600Gi"
    assert (made.workspace.claim, made.workspace.path) == ("shared", "/data")
    assert plan.named(made, "expand-vocab").pool.memory == "8Gi"
    carrying = conductor.objects(made)[-1]["spec"]["template"]["spec"]
    assert carrying["nodeSelector"] == {"role": "cpu"}
    assert carrying["serviceAccountName"] == "ours"
    assert carrying["containers"][0]["image"] == "minima:jobgen"


def test_a_pool_of_ones_own_begins_as_a_profiles(tmp_path: Path) -> None:
    """With all that the profile says of that one, at the profile's own level."""
    stages = yaml.safe_load(MINIMA)["stages"]
    mine = {**stages, "finetune": {**stages["finetune"], "pool": "mine"}}
    for cluster in ("eks-p4d", "openshift", "none"):
        as_it_is = job(on(cluster), "finetune")
        alike = job(on(cluster, pools={"mine": {"like": "a100-8"}}, stages=mine), "finetune")
        assert alike == as_it_is
    made = on("aks-nd96-a100", pools={"mine": {"like": "a100-16", "pods": 1, "node_selector": {"rack": "a"}}}, stages=mine)
    found = pod(job(made, "finetune"))
    assert found["nodeSelector"] == {"node.kubernetes.io/instance-type": "Standard_ND96amsr_A100_v4", "rack": "a"}
    assert found["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert len(found["tolerations"]) == 2
    # One of a site's profile likewise, which may begin as a built-in one.
    text = SITE.replace("large: {cpu: 4, memory: 8Gi}", "large: {like: a100-8, memory: 8Gi, shm: 1Gi, env: {A: b}}")
    own = on("./site.yaml", name=str(site(tmp_path, text)), pools={"mine": {"like": "large", "cpu": 3}}, stages=mine)
    found = pod(job(own, "finetune"))
    assert env(found)["A"] == "b"
    limits = found["containers"][0]["resources"]["limits"]
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("3", "8Gi", "8")


@pytest.mark.parametrize("like", ["mine", "other", "a100-4", 8, None, [], {}])
def test_a_pool_begins_as_one_that_is_there_without_the_file(like: Any) -> None:
    with pytest.raises(UsageError, match=r"pools\.mine\.like: found .*valid: a100-1, a100-16, .*"):
        on("none", pools={"mine": {"like": like, "cpu": 1, "memory": "2Gi"}, "other": {"cpu": 1, "memory": "2Gi"}})


def test_a_conductor_and_a_workspace_may_be_of_the_profile_alone(tmp_path: Path) -> None:
    document = yaml.safe_load(MINIMA)
    text = yaml.safe_dump({key: value for key, value in document.items() if key not in {"conductor", "workspace"}})
    place = site(tmp_path, SITE.replace("{claim: shared}", "{claim: shared, path: /data}"))
    made = on("site.yaml", text, str(place))
    assert made.workspace.path == "/data"
    assert conductor.objects(made)[-1]["spec"]["template"]["spec"]["nodeSelector"] == {"role": "cpu"}
    site(tmp_path)
    with pytest.raises(UsageError, match="workspace: missing"):
        on("site.yaml", text, str(place))


def test_a_sites_profile_travels_with_the_pipeline(tmp_path: Path) -> None:
    """The conductor has one file, and no folder beside it."""
    for text in (SITE, f"# Ours.\n---\n{SITE}"):
        here = on("./site.yaml", name=str(site(tmp_path, text)))
        objects = conductor.objects(here)
        (held,) = [each["data"][conductor.FILE] for each in objects if "data" in each]
        there = spec.parse(held, "/etc/minima/pipeline.yaml")
        assert there.text == here.text == held
        assert [render.job(there, step) for step in plan.plan(there)] == [render.job(here, step) for step in plan.plan(here)]
        assert conductor.objects(there) == objects
    other = on("./site.yaml", name=str(site(tmp_path, SITE.replace("500Gi", "501Gi"))))
    assert conductor.version(other.text) != conductor.version(here.text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SITE.replace("memory: 500Gi", "memry: 500Gi"),
            "site.yaml:7: pools.a100-32.memry: unknown; did you mean",
        ),
        (SITE.replace("labels:", "lables:"), "site.yaml:2: lables: unknown; "),
        (SITE.replace("claim: shared", "claim: Shared"), "site.yaml:4: workspace.claim: found 'Shared'"),
        (SITE.replace("nodeSelector", "nodeSelecter"), "site.yaml:5: conductor.pod.spec.nodeSelecter: unknown"),
        (SITE.replace("cpu: 4,", ""), "site.yaml:8: pools.large: cpu is missing"),
        (f"{SITE}stages: {{}}\n", "site.yaml:1: found a pipeline; a cluster's profile with keys"),
        (f"{SITE}---\nabout: another\n", "site.yaml:10: a second document"),
        ("[", "site.yaml:1: not YAML"),
    ],
)
def test_errors_have_the_profiles_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        on("./site.yaml", name=str(site(tmp_path, text)))
    assert str(error.value).startswith(str(tmp_path / expected))


def test_of_a_folder_the_nearest_files_are_told(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"site-{number:02}.yaml").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=r"did you mean '.*site-07\.yaml'") as error:
        on("./site-07.yml", name=str(tmp_path / "p.yaml"))
    assert str(error.value).count("/site-") == 1 + 1 + 8


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("eks-p4", "found 'eks-p4', which is no profile of a cluster; "),
        ("./site.yml", "no such file or shipped profile"),
        (7, "found 7; aks-nd96-a100, "),
        (None, "found null; "),
    ],
)
def test_a_cluster_that_is_none(tmp_path: Path, cluster: Any, expected: str) -> None:
    with pytest.raises(UsageError, match="cluster: ") as error:
        on(cluster, name=str(tmp_path / "p.yaml"))
    assert expected in str(error.value)


def test_a_second_document_has_one_meaning(tmp_path: Path) -> None:
    named = MINIMA.replace("image: minima:train", "image: minima:train\ncluster: eks-p4d")
    with pytest.raises(UsageError, match="without one `cluster: eks-p4d`"):
        spec.parse(f"{named}---\n{SITE}", "p.yaml")
    both = named.replace("eks-p4d", "./site.yaml")
    assert spec.parse(f"{both}---\n{SITE}", "p.yaml").profile.about == "ours"
    with pytest.raises(UsageError, match="a third document"):
        spec.parse(f"{both}---\n{SITE}---\n{SITE}", "p.yaml")


@pytest.mark.parametrize("name", [name for name in NODES if name != "kind"])
def test_pods_fit_the_machine(name: str) -> None:
    """As the scheduler sees it, which tests/cluster/test_profiles.py asks: whole nodes, and eight pods of one GPU each."""
    machine, other = (each.allocatable for each in NODES[name])
    pools = profile.load(name, "", Path()).pools.values()
    tolerated = {(each.get("key"), each.get("value")) for pool in pools for each in pool.tolerations}
    for taint in NODES[name][0].taints:
        assert {(taint["key"], None), (taint["key"], taint["value"])} & tolerated
    for pool in pools:
        node, times = (machine, 8 // pool.gpus) if pool.gpus else (other, 1)
        wanted = {"cpu": pool.cpu, "memory": pool.memory, **pool.resources}
        for resource, size in wanted.items():
            assert times * amount(size) <= amount(node[resource]), f"{name}: {pool.name}: {resource}"
        assert amount(pool.disk_request or pool.disk) <= amount(node[DISK])
        if pool.gpus:
            assert pool.node_selector.items() <= NODES[name][0].labels.items()
