"""The program jobgen: commands, files, exit codes; and that it needs nothing heavy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import jobgen
from jobgen import cli
from jobgen.commands import arguments
from jobgen.manifests import document, render
from jobgen.pipeline import plan, spec
from jobgen.pipeline.pipeline import Pipeline
from minima.errors import USAGE
from tests.unit.jobgen.volume import on_the_volume

ROOT = Path(jobgen.__file__).parents[1]
HEAVY = ("torch", "transformers", "deepspeed", "peft", "kubernetes", "kubeflow", "numpy", "lm_eval", "datasets")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, check=False)


def test_init_writes_a_pipeline_that_validates(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init", "mine"]) == 0
    assert spec.load("mine.yaml").name == "mine"
    assert (here / "mine.yaml").read_text(encoding="utf-8") == spec.read("minima-3b").replace(
        "name: minima-3b", "name: mine", 1
    )
    assert cli.run(["validate", "mine.yaml"]) == 0
    assert cli.run(["init", "tiny", "--from", "smoke"]) == 0
    assert list(spec.load("tiny.yaml").stages) == list(spec.load("smoke").stages)


@pytest.mark.parametrize(
    ("kubeconfig", "code", "expected"),
    [
        ("", 64, "no cluster is configured"),
        ("clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]", 134, "look at namespace a: no cluster answers"),
    ],
)
def test_without_a_cluster(here: Path, kubeconfig: str, code: int, expected: str) -> None:
    if kubeconfig:
        rest = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
        (here / "config").write_text(rest + "users: [{name: u, user: {}}]\n" + kubeconfig, encoding="utf-8")
    # In a process of its own: the client reads the variable when it is imported.
    done = python("-m", "jobgen", "status", "smoke", "--namespace", "a", KUBECONFIG=str(here / "config"))
    assert (done.returncode, expected in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["init", "there"], "there.yaml: there already"),
        (["init", "Mine"], "NAME: found 'Mine'"),
        (["init", "../mine"], "NAME: found '../mine'"),
        (["init", "m" * 40], "characters too long"),
        (["init", "mine", "--from", "smok"], "--from: no shipped pipeline 'smok'; did you mean 'smoke'?"),
        (["validate", "smok"], "smok: no such file or shipped pipeline; did you mean 'smoke'?"),
        (["render", "smoke"], "--output; `jobgen render --help` shows what is valid"),
        (["render", "smoke", "--output", "there.yaml"], "--output: there.yaml is, or lies under, a file"),
        (["render", "smoke", "--output", "there.yaml/x"], "--output: there.yaml/x is, or lies under, a file"),
        (["render", "smoke", "--output", "-", "--namespace", "A"], "--namespace: found 'A'"),
        (["rendr"], "found 'rendr'; did you mean 'render'?"),
        (["render", "smoke", "--output", "-", "--format", "file"], "--format: found 'file'; did you mean 'files'?"),
        (["--versoin"], "--versoin: no such option; did you mean '--version'?"),
        (["run", "smoke", "--lokal"], "--lokal: no such option; did you mean '--local'?"),
        (["run", "smoke", "--lokal=x"], "; `jobgen run --help` shows what is valid"),
        (["validate", "smoke", "smoke"], "'smoke': one word too many; `jobgen validate --help` shows what is valid"),
        (["logs", "smoke"], "STAGE; `jobgen logs --help` shows what is valid"),
        (["run", "smoke", "--local", "-n", "a"], "--namespace: is of a cluster, --local of this machine; give one of them"),
        (["run", "smoke", "--local", "--context", "a"], "--context: is of a cluster, --local of this machine"),
        *(
            (["run", "smoke", "--local", "--workspace", folder], f"--workspace: found {folder!r}; a folder's path without")
            for folder in ("", "wo*rk", "work?", "[work]")
        ),
        (["gc", "smoke", "--local", "--workspace", "w*"], "--workspace: found 'w*'"),
        (["gc", "smoke", "--workspace", "w"], "--workspace: goes with --local"),
        (["stop", "Smoke", "-n", "a"], "Smoke: no such file or shipped pipeline; did you mean 'smoke'?"),
        (["validate", "smoke", "--workspace", "w"], "--workspace: goes with --local"),
        (["run", "smoke", "--namespace", "A"], "--namespace: found 'A'"),
        (["run", "smoke", "--namespace", "a", "--workspace", "w"], "--workspace: goes with --local"),
        (["logs", "smoke", "adapt", "--since", "10"], "--since: found '10'; a duration such as 45s, 10m, 1h30m or 2d"),
        (["logs", "smoke", "adapt", "--since", "m"], "--since: found 'm'; a duration"),
        (["logs", "smoke", "adapt", "--tail", "-1"], "--tail: found '-1'; a whole number >= 0 is valid; `jobgen logs --help`"),
        (["status", "smoke", "-n", "A"], "--namespace: found 'A'"),
        (["render", "smoke", "--output", "-", "--format", "conductor", "--namespace", "A"], "--namespace: found 'A'"),
        (["run", "smoke", "--local", "--until", "adapd"], "--until adapd: no such stage; did you mean 'adapt'?"),
        (["run", "smoke", "--local", "--only", "adapt", "--until", "adapt"], "--until takes a stage and what it needs"),
        (["run", "smoke", "--local", "--dry-run", "--from", "adapd"], "--from adapd: no such stage"),
        (["run", "smoke", "--local", "--from", "adapd"], "--from adapd: no such stage; did you mean 'adapt'?"),
    ],
)
def test_wrong_commands(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    (here / "there.yaml").write_text("mine", encoding="utf-8")
    assert cli.run(words) == 64
    said = capsys.readouterr()
    assert expected in said.err
    assert all(line.startswith("jobgen: ") for line in said.err.splitlines())
    assert said.out == ""
    assert [p.name for p in here.iterdir() if p.name != "work"] == ["there.yaml"]
    assert (here / "there.yaml").read_text(encoding="utf-8") == "mine"


def test_validate_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "minima-3b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["distill"][1:4] == ["distill", "a100-16", "2×8"]
    assert rows["distill"][5:] == ["1", "51.4", "of", "85.9"]
    assert max(map(len, lines)) <= 100
    assert lines[-3:-1] == ["cluster none: " + spec.load("minima-3b").profile.about, "every stage fits its GPUs, A100 of 80 GB"]


def test_validate_says_what_must_be_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["validate", "minima-3b"]) == 0
    objects = [
        "wants the Secret hub with the key token, for llama",
        "wants the PersistentVolumeClaim minima-workspace, for all pods",
    ]
    assert wanted(capsys.readouterr().out) == objects
    (tmp_path / "mine.yaml").write_text(on_the_volume(), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    assert wanted(capsys.readouterr().out) == [
        "wants /workspace/inputs/chinese_sp.model (sentencepiece), for expand-vocab",
        "wants /workspace/inputs/wudao (text), for build-data",
        "wants /workspace/inputs/benchmarks (benchmarks), for evaluate",
        *objects,
    ]
    (tmp_path / "work/inputs/wudao").mkdir(parents=True)
    assert cli.run(["validate", "mine.yaml", "--local"]) == 0
    said = [line.endswith("; nothing is there") for line in wanted(capsys.readouterr().out)]
    assert said == [True, False, True]
    assert cli.run(["validate", "mine.yaml", "--local", "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [not each["there"] for each in told["inputs"]] == said
    assert (told["conductor"], told["wants"], told["warnings"]) == (None, [], [])
    assert cli.run(["run", "mine.yaml", "--local"]) == 75
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert f"inputs.chinese-sp: nothing at {tmp_path}/work/inputs/chinese_sp.model, where expand-vocab wants" in errors[0]
    assert "or let a stage fetch it" in errors[1]


NAMED = """
image_pull_secrets: [registry]
service_account: trainer
priority_class: batch
pod:
  spec:
    runtimeClassName: nvidia
    nodeSelector: {secret: not-one}
    initContainers:
    - name: look
      image: busybox
      envFrom: [{secretRef: {name: first}}, {configMapRef: {name: site}}, {secretRef: {name: maybe, optional: true}}]
    containers:
    - name: pytorch
      env: [{name: PROXY, valueFrom: {configMapKeyRef: {name: site, key: proxy}}}]
    volumes:
    - {name: netrc, secret: {secretName: logins, items: [{key: netrc, path: netrc}]}}
    - {name: ca, configMap: {name: ca}}
    - {name: data, persistentVolumeClaim: {claimName: data}}
    - {name: all, projected: {sources: [{secret: {name: first}}, {configMap: {name: ca, optional: true}}]}}
    - {name: bucket, csi: {driver: x, nodePublishSecretRef: {name: bucket}}}
    - {name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: fast,
        resources: {requests: {storage: 1Gi}}}}}}
"""


def test_validate_says_every_object_that_pods_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(spec.read("smoke"))
    names = ["init-model", "expand-vocab"]
    document["stages"] = {name: document["stages"][name] for name in names}
    document["stages"]["init-model"] |= yaml.safe_load(NAMED)
    document["stages"]["expand-vocab"] |= {"image_pull_secrets": ["registry"], "env": {"A": {"secret": "logins", "key": "a"}}}
    document["conductor"] = {
        "image": "minima:jobgen",
        "image_pull_secrets": ["registry"],
        "priority_class": "system-node-critical",
    }
    document["pools"] = {"small": {"queue": "team", "labels": {"kueue.x-k8s.io/priority-class": "urgent"}}}
    (here / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wants the")]
    assert cli.run(["validate", "mine.yaml", "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    first, both = ["init-model"], [*names, "conductor"]
    expected: dict[str, dict[str, tuple[list[str], list[str]]]] = {
        "Secret": {
            "registry": ([], both),
            "logins": (["netrc", "a"], names),
            "first": ([], first),
            "bucket": ([], first),
        },
        "ConfigMap": {"site": (["proxy"], first), "ca": ([], first)},
        "PersistentVolumeClaim": {"minima-workspace": ([], both), "data": ([], first)},
        "ServiceAccount": {"trainer": ([], first)},
        "PriorityClass": {"batch": ([], first), "system-node-critical": ([], ["conductor"])},
        "RuntimeClass": {"nvidia": ([], first)},
        "StorageClass": {"fast": ([], first)},
        "LocalQueue": {"team": ([], names)},
        "WorkloadPriorityClass": {"urgent": ([], names)},
    }
    found: dict[str, dict[str, tuple[list[str], list[str]]]] = {}
    for each in told["wants"]:
        assert each["name"] not in found.setdefault(each["kind"], {})
        found[each["kind"]][each["name"]] = (each["keys"], each["for"])
    assert found == expected
    for line, (kind, objects) in zip(shown, found.items(), strict=True):  # One for each kind.
        assert line.startswith(f"wants the {kind}")
        assert all(name in line for name in objects)
    assert "wants the ServiceAccount trainer, for init-model" in shown
    assert "wants the PriorityClasses batch, for init-model; system-node-critical, for conductor" in shown


def test_help_lists_the_keys_of_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.yaml").write_text(on_the_volume(), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml", "--output", "json"]) == 0
    found = set()
    for key, value in json.loads(capsys.readouterr().out).items():
        found.add(key)
        for one in value if isinstance(value, list) else [value]:
            found |= {f"{key}{'[]' * isinstance(value, list)}.{inner}" for inner in one} if isinstance(one, dict) else set()
    assert found == set(arguments.VALIDATE_KEYS)


@pytest.mark.parametrize("words", [[], ["--local"], ["--output", "json"], ["--local", "--output", "json"]])
def test_validate_says_all_that_render_would(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(spec.read("smoke"))
    lacking = {"spec": {"volumes": [{"name": "site", "persistentVolumeClaim": {}}]}}
    document["stages"]["adapt"]["pod"] = lacking
    document["conductor"] = {"image": "minima:jobgen", "pod": lacking}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml", *words]) == USAGE
    told = capsys.readouterr()
    assert told.out == ""
    found = re.findall(r"mine\.yaml:\d+: (\S+): claimName is missing", told.err)
    assert found == [f"{at}.pod.spec.volumes.0.persistentVolumeClaim" for at in ("stages.adapt", "conductor")]


def wanted(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("wants ")]


def test_init_for_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` says which A100s these are."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["init", "mine", "--cluster", "eks-p4d"]) == 0
    assert cli.run(["validate", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "cluster eks-p4d: EKS, p4d.24xlarge, 8 × A100 40 GB a node" in shown
    assert "every stage fits its GPUs, A100 of 40 GB" in shown
    (tmp_path / "big.yaml").write_text("about: ours\npools: {a100-32: {gpu_memory: 141Gi}}\n")
    assert cli.run(["init", "large", "--cluster", "./big.yaml"]) == 0
    assert cli.run(["validate", "large.yaml"]) == 0
    assert "every stage fits its GPUs, A100 of 80 GB, GPUs of 141 GB" in capsys.readouterr().out
    assert cli.run(["init", "none", "--cluster", "kind"]) == 0
    capsys.readouterr()
    assert cli.run(["validate", "none.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "cluster kind has no GPUs, which a100-32, a100-1, a100-16, a100-8 ask for: adapt, prune, distill, " in shown
    assert "fits its GPUs" not in shown
    assert cli.run(["validate", "none.yaml", "--local"]) == 0
    assert "has no GPUs" not in capsys.readouterr().out
    (tmp_path / "site.yaml").write_text("about: ours\npools: {a100-32: {gpu_memory: 24Gi}}\n")
    assert cli.run(["init", "small", "--cluster", "./site.yaml"]) == 0
    assert cli.run(["validate", "small.yaml"]) == USAGE
    assert "pool a100-32 has 23.2 GB to use of 24Gi" in capsys.readouterr().err
    assert cli.run(["init", "none-such", "--cluster", "eks"]) == USAGE
    assert "no profile of a cluster" in capsys.readouterr().err
    assert not (tmp_path / "none-such.yaml").exists()
    assert cli.run(["validate", "minima-3b", "--output", "json"]) == 0
    stages = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["stages"]}
    distill = stages["distill"]
    assert (distill["pods"], distill["processes"], distill["zero_stage"], distill["gpu_memory"]) == (2, 8, 1, 80 * 2**30)
    assert distill["memory"]["teacher"] == pytest.approx(13.76e9, rel=1e-3)
    assert sum(distill["memory"].values()) == pytest.approx(2 * distill["memory"]["total"])
    assert distill["needs"] == ["build-data", "adapt", "convert"]
    assert (distill["pod_security"], distill["hindered_by"]) == ("restricted", [])


WORKSPACE = {"claim": "minima-workspace", "path": "/workspace"}
SITE: dict[str, Any] = {
    "workspace": {"claim": "site", "path": "/site"},
    "conductor": {"image": "reg.example.com/jobgen:1"},
    "pools": {name: {"image": "reg.example.com/efa:1"} for name in ("small", "small-pair")},
}


@pytest.mark.parametrize(
    ("profile", "left"),
    [
        (SITE, {}),
        ({"about": "ours"}, {"image": "minima:cpu", "conductor": "minima:jobgen", "workspace": WORKSPACE}),
        (
            {"workspace": {"claim": "site"}},
            {"image": "minima:cpu", "conductor": "minima:jobgen", "workspace": {"path": "/workspace"}},
        ),
        (
            {"workspace": {"path": "/site"}, "conductor": SITE["conductor"]},
            {"image": "minima:cpu", "workspace": {"claim": "minima-workspace"}},
        ),
        (
            {"pools": {"small": SITE["pools"]["small"]}},
            {"pools": {"small-pair": {"image": "minima:cpu"}}, "conductor": "minima:jobgen", "workspace": WORKSPACE},
        ),
    ],
)
def test_init_leaves_to_a_profile_what_it_says(
    here: Path, capsys: pytest.CaptureFixture[str], profile: dict[str, Any], left: dict[str, Any]
) -> None:
    (here / "site.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    assert cli.run(["init", "mine", "--from", "smoke", "--cluster", "./site.yaml"]) == 0
    written = yaml.safe_load((here / "mine.yaml").read_text(encoding="utf-8"))
    assert written["cluster"] == "./site.yaml"
    assert {key: written[key] for key in ("image", "conductor", "workspace", "pools") if key in written} == left
    pipeline = spec.load("mine.yaml")
    assert pipeline.workspace.claim == profile.get("workspace", {}).get("claim", "minima-workspace")
    assert pipeline.conductor
    assert pipeline.conductor.image == (profile["conductor"]["image"] if "conductor" in profile else "minima:jobgen")
    capsys.readouterr()
    assert cli.run(["validate", "mine.yaml"]) == 0
    assert "not used" not in capsys.readouterr().out


def test_validate_says_which_image_of_a_profile_is_not_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "site.yaml").write_text(yaml.safe_dump(SITE), encoding="utf-8")
    document = yaml.safe_load(spec.read("smoke")) | {"cluster": "./site.yaml"}
    document["stages"]["prune"]["image"] = "reg.example.com/mine:1"  # Who says it there means it.
    said = {}
    for image in ("minima:cpu", "reg.example.com/efa:1", None):
        document["image"] = image
        text = yaml.safe_dump({key: value for key, value in document.items() if value}, sort_keys=False)
        (here / "mine.yaml").write_text(text, encoding="utf-8")
        assert cli.run(["validate", "mine.yaml"]) == 0
        said[image] = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    first, second = said.pop("minima:cpu")
    assert first.startswith(
        "mine.yaml:2: image: the profile's image reg.example.com/efa:1 of pool small is not used (for init-model, "
    )
    assert second.endswith("of pool small-pair is not used (for adapt, distill, finetune, finetune-lora)")
    assert "prune" not in first
    assert list(said.values()) == [[], []]


def test_validate_says_what_hinders_restricted_for_each_pool(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(spec.read("smoke"))
    locked = {"securityContext": {"capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]}}}
    document["pools"] = {"small-pair": {"pod": {"spec": {"containers": [{"name": "pytorch", **locked}]}}}}
    document["conductor"] = {"image": "minima:jobgen", "pod": {"spec": {"hostNetwork": True}}}
    (here / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    shown = capsys.readouterr().out.splitlines()[-2:]
    assert shown == [
        "pool small-pair (adapt, distill, finetune, finetune-lora): not in a namespace with Pod Security `restricted`, only "
        "with `privileged`: containers.pytorch: capability IPC_LOCK",
        "the conductor: not in a namespace with Pod Security `restricted`, only with `privileged`: hostNetwork: true",
    ]
    assert cli.run(["validate", "mine.yaml", "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["warnings"] == shown
    assert told["conductor"] == {"pod_security": "privileged", "hindered_by": ["hostNetwork: true"]}
    stages = {row["stage"]: row for row in told["stages"]}
    assert (stages["adapt"]["pod_security"], stages["prune"]["pod_security"]) == ("privileged", "restricted")
    assert stages["adapt"]["hindered_by"] == ["containers.pytorch: capability IPC_LOCK"]


def test_validate_says_which_pools_a_profile_does_not_reach(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(spec.read("smoke"))
    document["pools"] = {"mine": {"cpu": 1, "memory": "4Gi"}, "unused": {"cpu": 1, "memory": "4Gi"}}
    document["stages"]["prune"]["pool"] = document["stages"]["adapt"]["pool"] = "mine"
    said = {}
    for cluster in ("none", "eks-p4d"):
        (here / "mine.yaml").write_text(yaml.safe_dump({**document, "cluster": cluster}, sort_keys=False), encoding="utf-8")
        assert cli.run(["validate", "mine.yaml"]) == 0
        said[cluster] = [line for line in capsys.readouterr().out.splitlines() if "your own" in line]
    assert said["none"] == []
    (line,) = said["eks-p4d"]
    assert line == (
        "pool mine is your own: of what cluster eks-p4d says of its pools it has nothing; begin with `like: cpu` in pools."
        "mine, or say selectors, taints and devices there"
    )
    text = (here / "mine.yaml").read_text(encoding="utf-8")  # That very edit.
    (here / "mine.yaml").write_text(text.replace("  mine:", "  mine:\n    like: cpu"), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    assert "your own" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cluster", "pools", "said"),
    [
        ("bare-metal-ib", {}, ()),
        ("gke-a2-ultra", {"a100-8": {"pods": 2}}, ()),  # No pool of that cluster has a fabric.
        ("bare-metal-ib", {"a100-8": {"pods": 2, "resources": {"rdma/rdma_shared_device_a": 1}}}, ()),
        (
            "aks-nd96-a100",
            {"a100-8": {"pods": 2}},
            (
                "pool a100-8 (finetune, finetune-lora) has several pods without rdma/ib, by which cluster aks-nd96-a100 "
                "links its a100-16: they may speak TCP; say these in its `resources`, or begin it with `like: a100-16`",
            ),
        ),
        (
            "eks-p4d",
            {"a100-16": {"resources": {"vpc.amazonaws.com/efa": 4}}},
            (
                "pool a100-16 (distill) has several pods without hugepages-2Mi, by which cluster eks-p4d links its a100-16: "
                "they may speak TCP; say these in its `resources`, or begin it with `like: a100-16`",
            ),
        ),
        (
            "bare-metal-ib",
            {"a100-16": {"pod": {"spec": {"hostNetwork": True}}}},
            (
                "pool a100-16 (distill): NCCL_SOCKET_IFNAME is eth0, as a pod's own interface is called, and hostNetwork: true "
                "gives it those of its node; say that one's name in `env`, such as NCCL_SOCKET_IFNAME: bond0",
            ),
        ),
        (
            "bare-metal-ib",
            {"a100-16": {"pod": {"spec": {"hostNetwork": True}}, "env": {"NCCL_SOCKET_IFNAME": "bond0"}}},
            (),
        ),
    ],
)
def test_validate_says_what_leaves_pods_without_their_network(
    cluster: str, pools: dict[str, Any], said: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {**yaml.safe_load(spec.read("minima-3b")), "cluster": cluster, "pools": pools}
    (here / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "speak TCP" in line or "IFNAME" in line]
    assert sorted(shown) == sorted(said)


def test_validate_says_which_images_nodes_look_for_on_docker_hub(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = spec.read("smoke").replace("\nimage: ", "\ncluster: CLUSTER\nimage: ")
    hub = "names no registry: a node that has not loaded it asks Docker Hub"
    theirs = text.replace(": minima:", ": r.example.com/minima:")
    for cluster, file, images in (
        ("none", text, []),
        ("kind", text, []),
        ("openshift", text, ["minima:cpu", "minima:jobgen"]),
        ("openshift", theirs.replace("r.example.com/minima:jobgen", "minima:jobgen"), ["minima:jobgen"]),
        ("openshift", theirs, []),
    ):
        (here / "mine.yaml").write_text(file.replace("CLUSTER", cluster), encoding="utf-8")
        assert cli.run(["validate", "mine.yaml"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if hub in line]
        assert [line.split()[1] for line in lines] == images
        assert all(f"registry.example.com/{image} (for " in line for image, line in zip(images, lines, strict=True))


def test_validate_says_what_of_a_list_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(spec.read("smoke"))
    conducting: dict[str, Any] = {"image": "minima:jobgen"}
    document["conductor"] = conducting
    document["pod"] = {"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}
    for level in (document["stages"]["adapt"], document["stages"]["prune"], conducting):
        level["pod"] = {"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}}
    (here / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 0
    said = re.findall(r"mine.yaml:(\d+): (.*)", capsys.readouterr().out)
    what = 'pod.spec.tolerations: without {"key": "a", "operator": "Exists"}, which is said below it: Kubernetes merges'
    what += " no such list"
    assert [words for _, words in said] == [
        *(f"stages.{name}.{what} (for {name})" for name in ("adapt", "prune")),
        f"conductor.{what} (for conductor)",
    ]
    lines = (here / "mine.yaml").read_text(encoding="utf-8").splitlines()
    assert {lines[int(number) - 1].strip() for number, _ in said} == {"tolerations:"}


def test_validate_for_this_machine_takes_any_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = on_the_volume().replace("${workspace}/inputs/wudao", "/data/wudao")
    (here / "mine.yaml").write_text(text, encoding="utf-8")
    assert cli.run(["validate", "mine.yaml"]) == 64
    assert "mine.yaml:12: inputs.wudao: found /data/wudao, which no pod sees" in capsys.readouterr().err
    assert cli.run(["validate", "mine.yaml", "--local", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["output_dir"].startswith(f"{here}/work/minima-3b/llama-")


def test_render_writes_one_numbered_file_for_each_stage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["render", "smoke", "--output", "out/jobs"]) == 0
    files = render.files(spec.load("smoke"))
    assert {p.name: p.read_text(encoding="utf-8") for p in (here / "out/jobs").iterdir()} == files
    assert sorted(files) == list(files)
    assert [name[3:-5] for name in files] == list(spec.load("smoke").stages)
    assert cli.run(["render", "smoke", "--output", "-"]) == 0


def test_render_replaces_its_own_stale_files_and_nothing_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init", "mine", "--from", "smoke"]) == 0
    assert cli.run(["render", "mine.yaml", "--output", "jobs"]) == 0
    kept = {"kustomization.yaml": "resources: []", "05-other.yaml": "kind: Other", "05-theirs.yaml": "# Made by jobgen from …"}
    for name, text in kept.items():
        (here / "jobs" / name).write_text(text, encoding="utf-8")
    text = (here / "mine.yaml").read_text(encoding="utf-8")
    (here / "mine.yaml").write_text(text[: text.index("  evaluate:")], encoding="utf-8")
    capsys.readouterr()
    assert cli.run(["render", "mine.yaml", "--output", "jobs"]) == 0
    assert "removed jobs/10-evaluate.yaml" in capsys.readouterr().err
    names = {p.name for p in (here / "jobs").iterdir()}
    assert "10-evaluate.yaml" not in names
    assert {name: (here / "jobs" / name).read_text(encoding="utf-8") for name in kept} == kept


def test_render_leaves_other_renderings_of_the_pipeline(here: Path) -> None:
    forms = [
        ["--output", "o/jobs"],
        ["--output", "o/prod", "--namespace", "prod"],
        ["--output", "o"],
        ["--output", "o", "--format", "conductor"],
    ]

    def there() -> dict[str, bytes]:
        return {str(place): place.read_bytes() for place in (here / "o").rglob("*") if place.is_file()}

    assert cli.run(["init", "mine", "--from", "smoke"]) == 0
    for form in forms:
        before = there() if (here / "o").exists() else {}
        assert cli.run(["render", "mine.yaml", *form]) == 0
        assert before.items() <= there().items()
    # What is stale goes, in whatever form, and from there alone.
    text = (here / "mine.yaml").read_text(encoding="utf-8")
    (here / "mine.yaml").write_text(text[: text.index("  evaluate:")], encoding="utf-8")
    for form in forms[2:]:
        assert cli.run(["render", "mine.yaml", *form]) == 0
    left = {str(Path(place).relative_to(here)) for place in there() if "evaluate" in place}
    assert left == {"o/jobs/10-evaluate.yaml", "o/prod/10-evaluate.yaml"}
    # Another namespace is the same form.
    assert cli.run(["render", "mine.yaml", "--output", "o/jobs", "--namespace", "other"]) == 0
    assert not (here / "o/jobs/10-evaluate.yaml").exists()


@pytest.mark.parametrize("wrong", ["stages", "conductor"])
@pytest.mark.parametrize("form", [[], ["--format", "conductor"], ["--format", "network", "--api-server", "10.0.0.1:443"]])
def test_render_checks_also_what_its_form_leaves_out(
    here: Path, capsys: pytest.CaptureFixture[str], form: list[str], wrong: str
) -> None:
    document = yaml.safe_load(spec.read("smoke"))
    pod = {"pod": {"spec": {"volumes": [{"name": "site", "persistentVolumeClaim": {}}]}}}
    if wrong == "stages":
        document["stages"]["adapt"].update(pod)
    else:
        document["conductor"] = {"image": "minima:jobgen", **pod}
    (here / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert cli.run(["render", "mine.yaml", "--output", "o", *form]) == USAGE
    place = "stages.adapt" if wrong == "stages" else "conductor"
    assert f": {place}.pod.spec.volumes.0.persistentVolumeClaim: claimName is missing" in capsys.readouterr().err
    assert not (here / "o").exists()


def test_stop_takes_a_folder_for_no_pipeline_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobgen.cluster import pipelines
    from jobgen.commands import clusters

    stopped: list[str] = []
    monkeypatch.setattr(clusters, "cluster_of", lambda given: SimpleNamespace(namespace="a"))

    def stop(name: str, cluster: object, *, again: str) -> int:
        stopped.append(name)
        return 0

    monkeypatch.setattr(pipelines, "stop", stop)
    (here / "myrun").mkdir()
    assert cli.run(["stop", "myrun", "-n", "a"]) == 0
    assert stopped == ["myrun"]


def test_render_does_not_touch_files_of_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "jobs").mkdir()
    (here / "jobs" / "03-adapt.yaml").write_text("by hand", encoding="utf-8")
    assert cli.run(["render", "smoke", "--output", "jobs"]) == 64
    assert "jobs/03-adapt.yaml not made from smoke" in capsys.readouterr().err
    assert [p.name for p in (here / "jobs").iterdir()] == ["03-adapt.yaml"]


def test_run_is_handed_to_the_local_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobgen import local

    called: list[Any] = []

    def run_local(pipeline: Pipeline, **rest: Any) -> int:
        called.append((pipeline.name, rest))
        return 75

    monkeypatch.setattr(local, "run_local", run_local)
    assert cli.run(["run", "smoke", "--local", "--from", "distill", "--workspace", "w"]) == 75
    assert called == [("smoke", {"workspace": "w", "from_stage": "distill", "part": plan.ALL, "verbose": False})]


@pytest.mark.parametrize(
    "words", [[], ["--help"], *([command, "--help"] for command in arguments.parser().commands), ["--version"]]
)
def test_help_everywhere(words: list[str]) -> None:
    done = python("-m", "jobgen", *words)
    assert done.returncode == 0
    assert done.stderr == ""
    if "--version" not in words:
        assert "usage: jobgen" in done.stdout
        assert "example:\n  " in done.stdout


def test_only_what_a_command_needs_is_imported() -> None:
    """So that `--help` answers at once."""
    script = "import sys, jobgen.cli; print('yaml' in sys.modules, 'minima.options' in sys.modules)"
    assert python("-c", script).stdout == "False False\n"


BLOCKED = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name + " is not installed here", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_everything_works_without_torch(here: Path) -> None:
    script = BLOCKED + (
        "import minima.options, minima.workspace.artifact, minima.flags, jobgen.local\n"
        "from jobgen import cli\n"
        "codes = [cli.run(words.split()) for words in ('init mine', 'validate mine.yaml', 'render mine.yaml --output jobs')]\n"
        "try:\n    import torch\nexcept ModuleNotFoundError:\n    sys.exit(codes != [0, 0, 0])\n"
    )
    done = python("-c", script)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert len(list((here / "jobs").iterdir())) == 15


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, jobgen.cli, minima.options, jobgen.pipeline.plan, jobgen.manifests.render, jobgen.local\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or '') or 0)"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_fresh_environment_needs_nothing_heavy(here: Path) -> None:
    copy = here / "source"
    copy.mkdir()
    for name in ("jobgen", "minima", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(here / "venv")], check=True)
    subprocess.run([str(here / "venv/bin/pip"), "install", "--quiet", str(copy)], check=True)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    listed = subprocess.run([str(here / "venv/bin/pip"), "list"], env=env, capture_output=True, text=True, check=True).stdout
    assert not [name for name in HEAVY if f"\n{name} " in listed]
    command = [str(here / "venv/bin/jobgen"), "render", "minima-3b", "--output", str(here / "jobs")]
    subprocess.run(command, env=env, cwd=here, check=True)
    files = {p.name: p.read_text(encoding="utf-8") for p in (here / "jobs").iterdir()}
    assert files == render.files(spec.load("minima-3b"))


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m jobgen render minima-3b --output - | head -n 1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == document.heading("minima-3b")
    assert done.stdout.splitlines()[1] in {"0", "141"}


def test_a_full_disk_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m jobgen render smoke --output - > /dev/full"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 74
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
