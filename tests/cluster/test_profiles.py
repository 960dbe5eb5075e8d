"""Whole pipelines on the machines of every profile: nodes that KWOK simulates, the real scheduler and operator, and the
conductor's own loop, with stages that make their artifacts in no time."""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jobgen.cluster import conduct
from jobgen.cluster.objects import state
from jobgen.manifests import render
from jobgen.pipeline import plan, profile, spec
from jobgen.pipeline.pipeline import Pipeline, Workspace
from jobgen.pipeline.plan import Step
from jobgen.pipeline.pools import GPU
from tests.cluster.conftest import conditions, short, wait
from tests.cluster.machines import NODES, Machine
from tests.cluster.test_faults import find, pods
from tests.unit import held

pytestmark = [pytest.mark.cluster]
MINE = f"simulated-{uuid.uuid4().hex[:6]}"
"""Label and taint of the nodes of this run: no real pod may come here, and none of ours anywhere else."""
FAKE = "kwok.x-k8s.io/node"
FILES = (
    *("train-0.tfrecord", "dev-0.tfrecord", "model/a", "text/a.jsonl", "data/a.jsonl", "conversations/a.jsonl"),
    *("chinese_sp.model", "vocab/chinese_llama/merge_tokenizer/chinese_sp.model"),
)
SITE = """about: ours
labels: {team: site}
conductor: {annotations: {site: conductor}}
pools:
  small: {env: {SITE: here}}
"""
STOPPED = -1
TABLE: list[str] = []


def add_node(cluster: Any, name: str, machine: Machine) -> None:
    node = {
        "metadata": {"name": name, "labels": {MINE: "yes", **machine.labels}, "annotations": {FAKE: "fake"}},
        "spec": {"taints": [{"key": MINE, "effect": "NoSchedule"}, *machine.taints]},
        "status": {"capacity": machine.allocatable, "allocatable": machine.allocatable},
    }
    cluster.core.create_node(node)


def ready(cluster: Any, name: str) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in cluster.core.read_node(name).status.conditions or [])


@pytest.fixture
def nodes(cluster: Any, simulator: None) -> Iterator[Callable[[str, int, int], list[str]]]:
    """Makes so many nodes with and without GPUs of a profile, and gives their names."""

    def make(name: str, gpus: int, others: int) -> list[str]:
        made = [f"{MINE}-{kind}-{number}" for kind, count in (("gpu", gpus), ("cpu", others)) for number in range(count)]
        for each in made:
            add_node(cluster, each, NODES[name][0 if "-gpu-" in each else 1])
        wait("the simulated nodes are ready", lambda: all(ready(cluster, each) for each in made), 60)
        return made

    try:
        yield make
    finally:
        for node in cluster.core.list_node(label_selector=MINE).items:
            cluster.core.delete_node(node.metadata.name)


@pytest.fixture
def silent(cluster: Any, nodes: Any) -> Iterator[Callable[[str], None]]:
    """Lets no heartbeat of a node through, which KWOK goes on sending."""
    from kubernetes.client import AdmissionregistrationV1Api

    admission = AdmissionregistrationV1Api(cluster.core.api_client)
    leases = {"apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["leases"]}

    def make(node: str) -> None:
        policy = {
            "matchConstraints": {"resourceRules": [leases]},
            "matchConditions": [{"name": "of-the-node", "expression": f"object.metadata.name == '{node}'"}],
            "validations": [{"expression": "false"}],
        }
        binding = {"policyName": MINE, "validationActions": ["Deny"]}
        admission.create_validating_admission_policy({"metadata": {"name": MINE}, "spec": policy})
        admission.create_validating_admission_policy_binding({"metadata": {"name": MINE}, "spec": binding})

    yield make
    admission.delete_validating_admission_policy_binding(MINE)
    admission.delete_validating_admission_policy(MINE)


def pipeline(name: str, folder: Path, start: str = "minima-3b", adapt: str = "1s") -> Pipeline:
    """A shipped pipeline for a profile's cluster, on our nodes, with its workspace here; pods of `adapt` run so long."""
    document = yaml.safe_load(spec.read(start))
    document |= {"cluster": name, "annotations": {"simulator/runs-for": "1s"}, "name": f"{start}-{uuid.uuid4().hex[:4]}"}
    # The operator ends a group with its first pod, and takes the others away: long enough for us to see where they are.
    for stage, time_ in (("adapt", adapt), ("distill", "5s")):
        document["stages"][stage]["annotations"] = {"simulator/runs-for": time_}
    below = profile.load(name, "", folder).pools
    own = document.setdefault("pools", {})
    for pool in {stage["pool"] for stage in document["stages"].values()}:
        own[pool] = {
            **own.get(pool, {}),
            "node_selector": {**below[pool].node_selector, MINE: "yes"},
            "tolerations": [*map(dict, below[pool].tolerations), {"key": MINE, "operator": "Exists"}],
        }
    made = spec.parse(yaml.safe_dump(document, sort_keys=False), "simulated.yaml")
    return replace(made, workspace=Workspace(claim=made.workspace.claim, path=str(folder)))


@pytest.fixture
def conduct_here(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Pipeline], "Run"]]:
    """Begins to conduct a pipeline, and ends that with the test."""
    made: list[Run] = []

    def begin(one: Pipeline) -> Run:
        made.append(Run(cluster, one, monkeypatch))
        return made[-1]

    yield begin
    for each in made:
        each.end()


class Run:
    """A conductor at work in this process, and stages whose pods end, and leave an artifact, without computing anything."""

    def __init__(self, cluster: Any, made: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        for pause, seconds in (("POLL", 0.2), ("SLOW", 1.0), ("IDLE", 1.0)):
            monkeypatch.setattr(conduct, pause, seconds)
        self.cluster, self.pipeline = cluster, made
        self.steps = {step.name: step for step in plan.plan(made)}
        self.conductor = conduct._Conductor(made, cluster, "")
        nobody = SimpleNamespace(start=lambda *_: None, finish=lambda *_: None)
        monkeypatch.setattr(self.conductor, "followers", nobody)  # These pods write no log.
        self.began: list[str] = []
        self.placed: dict[str, set[str]] = {}
        """Nodes by stage."""
        self.codes: list[int] = []
        self.over = False
        look = self.conductor.look
        monkeypatch.setattr(self.conductor, "look", lambda: STOPPED if self.over else look())
        self.thread = threading.Thread(target=lambda: self.codes.append(self.conductor.run(None, "")), daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Stop the conductor, wherever it is."""
        self.over = True
        self.thread.join(30)
        for job in self.cluster.jobs(f"minima/pipeline={self.pipeline.name}"):
            self.cluster.delete(job["metadata"]["name"], wait=False)

    def look(self) -> bool:
        """Note what began and where, and finish what succeeded; whether all is over."""
        for job in sorted(self.cluster.jobs(f"minima/pipeline={self.pipeline.name}"), key=lambda j: j["metadata"]["name"]):
            step = self.steps[job["metadata"]["labels"]["minima/stage"]]
            if step.name not in self.began:
                assert all(Path(self.steps[need].output_dir).is_dir() for need in step.needs), f"{step.name} began too early"
                self.began.append(step.name)
            found = {pod.spec.node_name for pod in pods(self.cluster, job["metadata"]["name"]) if pod.spec.node_name}
            self.placed.setdefault(step.name, set()).update(found)
            if state(job) == "Succeeded" and not Path(step.output_dir).exists():
                self.check(step)
                held.commit(step.options, dict.fromkeys(FILES, "{}"), {"dev_perplexity": 1.0, "dev_perplexity_start": 2.0})
        return not self.thread.is_alive()

    def check(self, step: Step) -> None:
        """A stage's pods were where they belong: of whole nodes each on one of its own, of no GPU on none with GPUs."""
        used = self.placed[step.name]
        kind = "-gpu-" if step.pool.gpus else "-cpu-"
        assert used
        assert all(kind in node for node in used), f"{step.name} on {used}"
        assert step.pool.gpus < 8 or len(used) == step.pool.pods

    def words(self, stage: str) -> str:
        self.look()
        found = self.conductor.kept.state.stage(stage)
        return found.waits_for if found else ""

    def row(self, name: str, machines: int, seconds: float, words: str) -> str:
        sizes = NODES[name]
        each = f"{sizes[0].cpu:.1f} CPUs, {sizes[0].memory:,.0f} GiB; {sizes[1].cpu:.1f}, {sizes[1].memory:,.0f}"
        stages = " → ".join(self.began)
        return f"{name} | {machines} nodes ({each}) | {stages} | {seconds:.0f} | {words}"


def whole(cluster: Any, nodes: Any, folder: Path, conduct_here: Any, name: str) -> None:
    """Too few nodes at first: the conductor says so; with one more everything goes on, to the end, in its order."""
    locks = "IPC_LOCK" in (profile.SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    level = "privileged" if locks else "restricted"  # As the namespace of its overlay has it.
    cluster.core.patch_namespace(cluster.namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}})
    kind = name == "kind"  # One machine without GPUs, for the pipeline that needs none.
    names = nodes(name, 0 if kind else 3, 0 if kind else 8)
    if kind:
        add_node(cluster, f"{MINE}-cpu-small", replace(NODES[name][1], cpu=0.05))
    # The operator calls a group done when one of its pods is, even if another one never began.
    run = conduct_here(pipeline(name, folder, "smoke") if kind else pipeline(name, folder, adapt="25s"))
    stuck, lacks = ("init-model", "Insufficient cpu") if kind else ("adapt", f"Insufficient {GPU}")
    since = time.monotonic()
    words = wait("it says what is too small", lambda: (w := run.words(stuck)) and "no node takes it" in w and w, 150, 0.2)
    assert lacks in words, words
    waited = time.monotonic() - since
    add_node(cluster, f"{MINE}-{'cpu' if kind else 'gpu'}-more", NODES[name][kind])
    wait("the pipeline is finished", run.look, 300, 0.2)
    assert run.codes == [0]
    assert run.began == sorted(run.began, key=lambda stage: _depth(run.steps, stage))
    assert set(run.began) == set(run.steps)
    TABLE.append(run.row(name, 1 if kind else len(names) + 1, time.monotonic() - since, f"after {waited:.0f} s: {words}"))
    print(TABLE[-1])


def _depth(steps: dict[str, Step], stage: str) -> int:
    return 1 + max((_depth(steps, need) for need in steps[stage].needs), default=-1)


def test_the_published_run_finds_its_pools(cluster: Any, nodes: Any, tmp_path: Path, conduct_here: Any) -> None:
    """EKS: nodes without taints, EFA devices and huge pages, 40 GB."""
    whole(cluster, nodes, tmp_path, conduct_here, "eks-p4d")


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NODES if name != "eks-p4d"])
def test_every_profile(cluster: Any, nodes: Any, tmp_path: Path, conduct_here: Any, name: str) -> None:
    whole(cluster, nodes, tmp_path, conduct_here, name)


def test_a_sites_profile_is_rendered_in_the_cluster(cluster: Any, jobgen: Any, tmp_path: Path) -> None:
    """The conductor's pod has it from the pipeline that travelled: there is no file beside it."""
    (tmp_path / "ours.yaml").write_text(SITE, encoding="utf-8")
    place = short(tmp_path, "site")
    document = yaml.safe_load(place.read_text(encoding="utf-8"))
    document |= {"cluster": "./ours.yaml", "stages": {"init-model": document["stages"]["init-model"]}}
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-m", "jobgen", "run", str(place), "--namespace", cluster.namespace]) as watching:
        (job,) = wait("the conductor makes the job", lambda: cluster.jobs("minima/pipeline=site"), 120)
        watching.terminate()
    here = spec.load(str(place))
    assert job["metadata"]["name"] == render.job(here, plan.plan(here)[0], cluster.namespace)["metadata"]["name"]
    assert job["metadata"]["labels"]["team"] == "site"
    (pod,) = wait("its pod is there", lambda: pods(cluster, job["metadata"]["name"]), 60)
    assert {each.name: each.value for each in pod.spec.containers[0].env}["SITE"] == "here"
    (conductor,) = cluster.conductors("site")
    assert conductor.metadata.annotations["site"] == "conductor"
    jobgen("stop", "site")


def test_the_pod_of_a_lost_node_is_placed_on_another(cluster: Any, nodes: Any, tmp_path: Path) -> None:
    """Scheduler and operator; that its peers, which lose it, are made again too is in test_faults: nothing runs here."""
    nodes("none", 4, 0)
    made = pipeline("none", tmp_path, adapt="600s")
    (step,) = [step for step in plan.plan(made) if step.name == "adapt"]
    job = render.job(made, step, cluster.namespace)
    name = job["metadata"]["name"]
    cluster.create(job)
    placed = {}

    def look() -> dict[str, str]:
        nonlocal placed
        placed = {pod.metadata.name: pod.spec.node_name for pod in pods(cluster, name) if pod.spec.node_name}
        return placed

    wait("32 GPUs run", lambda: len(look()) == 4 and "Running" in conditions(find(cluster, name)))
    before = {pod.metadata.name: pod.metadata.uid for pod in pods(cluster, name)}
    victim = f"{name}-worker-2"
    gone = placed[victim]
    add_node(cluster, f"{MINE}-spare", NODES["none"][0])
    cluster.core.delete_node(gone)
    wait("its pod runs on the spare node", lambda: look().get(victim) == f"{MINE}-spare", 120)
    now = {pod.metadata.name: pod.metadata.uid for pod in pods(cluster, name)}
    assert {pod for pod in before if now[pod] != before[pod]} == {victim}
    assert not conditions(find(cluster, name)) & {"Failed", "Succeeded"}
    cluster.delete(name)


@pytest.mark.long
def test_a_node_that_is_gone_while_its_object_stays(
    cluster: Any, nodes: Any, silent: Any, tmp_path: Path, conduct_here: Any
) -> None:
    """Its heartbeats end: the conductor says which node it is and what to do, and when that is done the stage goes on."""
    nodes("eks-p4de", 4, 8)
    run = conduct_here(pipeline("eks-p4de", tmp_path, adapt="600s"))
    wait("its pods run", lambda: run.look() or len(run.placed.get("adapt", ())) == 4, 150, 0.2)
    gone = min(run.placed["adapt"])
    silent(gone)
    since = time.monotonic()
    words = wait("it says so", lambda: (w := run.words("adapt")) and "does not answer" in w and w, 200, 0.5)
    TABLE.append(f"a node that is gone while its object stays: after {time.monotonic() - since:.0f} s: {words}")
    assert f"its node {gone} does not answer" in words
    assert f"`kubectl delete node {gone}`" in words
    add_node(cluster, f"{MINE}-gpu-spare", NODES["eks-p4de"][0])
    cluster.core.delete_node(gone)
    wait("its pod runs on the spare node", lambda: run.look() or f"{MINE}-gpu-spare" in run.placed["adapt"], 120)
    wait("nothing is waited for", lambda: not run.words("adapt"), 60)
    print(TABLE[-1])
