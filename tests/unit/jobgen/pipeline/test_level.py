"""What a pipeline, a pool, a stage and the conductor can say of their objects, as seen in renders."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobgen.manifests import conductor, render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import plan
from jobgen.pod import quantities
from minima.errors import BUG, StageError, UsageError

SMALL = (Path(__file__).parents[3] / "cluster" / "short.yaml").read_text(encoding="utf-8")
OPTIONS = yaml.safe_load(SMALL)["stages"]["distill"]["options"]


def pipeline(**changes: Any) -> Any:
    """The short pipeline with keys of the root, of the pool `pods` of its training, and of its stage `distill`."""
    content = yaml.safe_load(SMALL)
    stage = content["stages"]["distill"]
    content["pools"] = {
        **content.get("pools", {}),
        "mine": {"pods": 2, "cpu": "100m", "memory": "2Gi", **changes.pop("pool", {})},
    }
    stage |= {"pool": "mine", **changes.pop("stage", {})}
    content |= changes
    return spec.parse(yaml.safe_dump(content, sort_keys=False), "p.yaml")


def job(made: Any, stage: str = "distill") -> dict[str, Any]:
    return next(render.job(made, step) for step in plan(made) if step.name == stage)


def template(made: Any, stage: str = "distill") -> Any:
    (replica,) = job(made, stage)["spec"]["pytorchReplicaSpecs"].values()
    return replica["template"]


def conducting(made: Any) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in conductor.objects(made, "ns")}


def test_levels_are_merged_in_their_order() -> None:
    made = pipeline(
        env={"A": "pipeline", "B": "pipeline", "C": "pipeline"},
        pool={"env": {"B": "pool", "C": "pool"}, "pod": {"spec": {"schedulerName": "pool", "runtimeClassName": "nvidia"}}},
        stage={"env": {"C": "stage"}, "pod": {"spec": {"schedulerName": "stage"}}},
    )
    pod = template(made)["spec"]
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert (env["A"], env["B"], env["C"]) == ("pipeline", "pool", "stage")
    assert (pod["schedulerName"], pod["runtimeClassName"]) == ("stage", "nvidia")
    other = template(made, "init-model")["spec"]
    assert "schedulerName" not in other
    assert {entry["name"]: entry.get("value") for entry in other["containers"][0]["env"]}["C"] == "pipeline"


def test_the_short_words() -> None:
    made = pipeline(
        labels={"team": "llm"},
        annotations={"sidecar.istio.io/inject": "false"},
        image_pull_secrets=["registry"],
        service_account="trainer",
        priority_class="high",
        env={
            "HF_TOKEN": {"secret": "hub", "key": "token"},
            "MODE": {"config_map": "site", "key": "mode"},
            "NODE": {"field": "spec.nodeName"},
            "PRICE": "5$",
        },
    )
    whole = job(made)
    assert whole["metadata"]["labels"]["team"] == "llm"
    assert whole["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert template(made)["metadata"]["labels"]["team"] == "llm"
    assert template(made)["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    pod = template(made)["spec"]
    assert (pod["imagePullSecrets"], pod["serviceAccountName"]) == ([{"name": "registry"}], "trainer")
    assert pod["priorityClassName"] == "high"
    env = {entry.pop("name"): entry for entry in pod["containers"][0]["env"]}
    assert env["HF_TOKEN"] == {"valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert env["MODE"] == {"valueFrom": {"configMapKeyRef": {"name": "site", "key": "mode"}}}
    assert env["NODE"] == {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    assert env["PRICE"] == {"value": "5$$"}
    of_conductor = conducting(made)
    for each in of_conductor.values():
        assert each["metadata"]["labels"]["team"] == "llm"
        assert each["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    inside = of_conductor["Job"]["spec"]["template"]
    assert inside["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert (inside["spec"]["imagePullSecrets"], inside["spec"]["priorityClassName"]) == ([{"name": "registry"}], "high")
    assert inside["spec"]["serviceAccountName"] == "short-conductor", "the account of the stages has none of its rights"


def test_the_conductor_as_an_object() -> None:
    made = pipeline(
        conductor={
            "image": "registry/jobgen@sha256:" + "0" * 64,
            "service_account": "given",
            "labels": {"kueue.x-k8s.io/queue-name": "small"},
            "env": {"HTTPS_PROXY": "http://proxy:3128"},
            "pod": {
                "spec": {
                    "nodeSelector": {"pool": "cpu"},
                    "tolerations": [{"key": "cpu", "operator": "Exists"}],
                    "containers": [{"name": "conductor", "resources": {"limits": {"cpu": "2"}}}],
                }
            },
        }
    )
    objects = conducting(made)
    assert "ServiceAccount" not in objects
    assert objects["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": "given", "namespace": "ns"}]
    assert objects["Job"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "small"
    assert "kueue.x-k8s.io/queue-name" not in objects["ConfigMap"]["metadata"]["labels"]
    pod = objects["Job"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "given"
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "cpu"}, [{"key": "cpu", "operator": "Exists"}])
    (container,) = pod["containers"]
    assert container["image"].startswith("registry/jobgen@")
    assert container["resources"]["requests"]["cpu"] == "100m"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "256Mi"}
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]
    assert container["command"] == ["jobgen", "conduct"]


def test_gang_scheduling_and_kueues_priority() -> None:
    made = pipeline(
        pool={
            "labels": {"kueue.x-k8s.io/priority-class": "prod"},
            "scheduling_policy": {"queue": "gang", "minAvailable": 2},
            "annotations": {"kueue.x-k8s.io/podset-required-topology": "rack"},
        }
    )
    whole = job(made)
    assert whole["spec"]["runPolicy"] == {"cleanPodPolicy": "Running", "schedulingPolicy": {"queue": "gang", "minAvailable": 2}}
    assert whole["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "prod"
    assert template(made)["metadata"]["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "rack"


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        *(
            (
                {"stage": {"scheduling_policy": {"minAvailable": pods}}},
                "stages.distill.scheduling_policy.minAvailable",
                "1 to 2",
            )
            for pods in (3, 0, -1)
        ),
        ({"pool": {"scheduling_policy": {"minAvailable": 5}}}, "pools.mine.scheduling_policy.minAvailable", "found 5; from 1"),
        ({"scheduling_policy": {"minAvailable": 2}}, "scheduling_policy.minAvailable", "found 2; from 1 to 1, as many"),
        (
            {"scheduling_policy": {"scheduleTimeoutSeconds": -5}},
            "scheduling_policy.scheduleTimeoutSeconds",
            "found -5; 0 or more",
        ),
    ],
)
def test_no_gang_is_larger_than_the_stages_pods(changes: dict[str, Any], place: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        conductor.check(pipeline(**changes))
    (line,) = str(caught.value).splitlines()
    assert place in line
    assert what in line


def test_null_takes_a_short_word_out() -> None:
    outer = {"priority_class": "a", "service_account": "b", "image_pull_secrets": ["c"], "env": {"A": "x", "B": "x"}}
    inner: dict[str, Any] = {"priority_class": None, "service_account": None, "image_pull_secrets": [], "env": {"A": None}}
    gone = template(pipeline(**outer, stage=inner))["spec"]
    assert not {"priorityClassName", "serviceAccountName", "imagePullSecrets"} & gone.keys()
    names = {each["name"] for each in gone["containers"][0]["env"]}
    assert ("A" in names, "B" in names) == (False, True)
    of_conductor = conducting(pipeline(**outer, conductor={"image": "x", **inner}))["Job"]["spec"]["template"]["spec"]
    assert not {"priorityClassName", "imagePullSecrets"} & of_conductor.keys()
    assert of_conductor["serviceAccountName"] == "short-conductor"


def test_what_is_a_stages_is_not_the_conductors() -> None:
    said = {"activeDeadlineSeconds": 60, "readinessGates": [{"conditionType": "a/b"}], "resources": {"limits": {"cpu": 9}}}
    made = pipeline(pod={"spec": said})
    assert said.keys() <= template(made)["spec"].keys()
    assert not said.keys() & conducting(made)["Job"]["spec"]["template"]["spec"].keys()


def test_null_takes_a_part_of_the_policy_out() -> None:
    made = pipeline(scheduling_policy={"queue": "a", "minAvailable": 1}, stage={"scheduling_policy": {"queue": None}})
    assert job(made)["spec"]["runPolicy"]["schedulingPolicy"] == {"minAvailable": 1}


def test_what_a_pod_says_is_in_the_name_of_its_job() -> None:
    assert (
        job(pipeline())["metadata"]["name"] != job(pipeline(stage={"pod": {"spec": {"hostNetwork": True}}}))["metadata"]["name"]
    )
    assert (
        job(pipeline())["metadata"]["labels"]["minima/key"] == job(pipeline(env={"A": "b"}))["metadata"]["labels"]["minima/key"]
    )


def test_names_that_kubernetes_allows() -> None:
    made = pipeline(workspace={"claim": "data.v1", "path": "/workspace"})
    assert render.job(made, plan(made)[0], "2026-team")["metadata"]["namespace"] == "2026-team"


def test_an_input_on_a_volume_of_its_own() -> None:
    """Only where a fragment mounts it."""
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "corpora", "readOnly": True}}
    mounted = {"name": "pytorch", "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]}
    pod = {"spec": {"volumes": [volume], "containers": [mounted]}}
    read = {"options": {**yaml.safe_load(SMALL)["stages"]["distill"]["options"], "record_path_or_regex": "/data/records"}}
    step = next(s for s in plan(pipeline(stage={**read, "pod": pod})) if s.name == "distill")
    assert "/data/records" in step.argv
    with pytest.raises(UsageError, match="found /data/records, which no pod sees: they mount /workspace; put it there"):
        plan(pipeline(stage=read))


def test_a_null_leaves_it_to_the_platform() -> None:
    """README's example, and others that must reach what jobgen, the pipeline or the pool say."""
    nothing = {"spec": {"securityContext": {"runAsUser": None, "fsGroup": None}}}
    security = template(pipeline(pod=nothing))["spec"]["securityContext"]
    assert not {"runAsUser", "fsGroup"} & security.keys()
    assert security["runAsNonRoot"] is True
    of_conductor = conducting(pipeline(pod=nothing))["Job"]["spec"]["template"]["spec"]["securityContext"]
    assert not {"runAsUser", "fsGroup"} & of_conductor.keys()
    less = {"spec": {"containers": [{"name": "pytorch", "env": [{"name": "HF_HUB_OFFLINE", "$patch": "delete"}]}]}}
    names = [each["name"] for each in template(pipeline(stage={"pod": less}))["spec"]["containers"][0]["env"]]
    assert "HF_HUB_OFFLINE" not in names
    assert "HOME" in names
    made = pipeline(pool={"pod": {"spec": {"schedulerName": "gang"}}}, stage={"pod": {"spec": {"schedulerName": None}}})
    assert "schedulerName" not in template(made)["spec"]


def test_a_variable_has_one_source() -> None:
    made = pipeline(
        env={"A": {"secret": "s", "key": "k"}, "B": "x"}, stage={"env": {"A": "y", "B": {"field": "spec.nodeName"}}}
    )
    env = {e["name"]: e for e in template(made)["spec"]["containers"][0]["env"]}
    assert env["A"] == {"name": "A", "value": "y"}
    assert env["B"] == {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}


def test_numbers_and_limits_alone_are_quantities() -> None:
    resources = {"limits": {"ephemeral-storage": "10Gi", "rdma/hca": 1}}
    pod = {"spec": {"containers": [{"name": "pytorch", "resources": resources}]}}
    limits = template(pipeline(stage={"pod": pod}))["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["ephemeral-storage"], limits["rdma/hca"]) == ("10Gi", "1")


def fragment_of(container: str = "pytorch", /, **fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": container, **fields}]}}


@pytest.mark.parametrize(
    ("pod", "what"),
    [
        ({"spec": {"$patch": "replace", "schedulerName": "x"}}, "containers"),
        ({"spec": {"containers": None}}, "containers"),
        ({"spec": {"volumes": None}}, "volumes"),
        ({"spec": {"volumes": [{"$patch": "replace"}]}}, "volumes"),
        (fragment_of(volumeMounts=None), "volumeMounts"),
        (fragment_of(volumeMounts=[{"mountPath": "/workspace", "$patch": "delete"}]), "volumeMounts"),
        (fragment_of(volumeMounts=[{"mountPath": "/workspace", "name": "d"}]), "volumeMounts"),
        (fragment_of(volumeMounts=[{"mountPath": "/workspace/", "name": "d"}]), "volumeMounts"),
        (fragment_of(volumeMounts=[{"mountPath": "/workspace", "name": "workspace", "readOnly": True}]), "volumeMounts"),
        (fragment_of(env=None), "env"),
        (fragment_of(env=[{"name": "HOME", "$patch": "delete"}]), "env"),
        (fragment_of(env=[{"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "$patch": "delete"}, {"$patch": "replace"}]), "env"),
        (fragment_of(resources=None), "resources"),
        (fragment_of(resources={"limits": None}), "resources"),
    ],
)
def test_no_directive_reaches_what_jobgen_decides(pod: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        job(pipeline(pool={"gpus": 1}, stage={"pod": pod}))
    assert what in str(caught.value)


def test_the_conductor_keeps_its_token() -> None:
    made = pipeline(pod={"spec": {"automountServiceAccountToken": False, "schedulerName": "mine"}})
    inside = conducting(made)["Job"]["spec"]["template"]["spec"]
    assert (inside.get("automountServiceAccountToken"), inside["schedulerName"]) == (None, "mine")
    assert template(made)["spec"]["automountServiceAccountToken"] is False


def test_nothing_is_nothing() -> None:
    assert job(pipeline(stage={"pod": None}))["spec"] == job(pipeline())["spec"]


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": None},
        {"metadata": {"labels": None}},
        {"spec": None},
        {"spec": {"containers": [None]}},
        {"spec": {"volumes": [None]}},
        {"spec": {"initContainers": [None]}},
        fragment_of(env=[None]),
        fragment_of(volumeMounts=[None]),
        {"spec": {"volumes": [{"$patch": "delete"}]}},
        {"spec": {"volumes": [{"$patch": "merge"}]}},
        fragment_of(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
    ],
)
def test_odd_places_are_said(pod: Any) -> None:
    with pytest.raises(UsageError, match=r"stages\.distill\.pod"):
        job(pipeline(stage={"pod": pod}))


IN_CONTAINER = {"spec": {"containers": [{"name": "pytorch", "command": ["sh"]}]}}


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"pod": {"spec": {"nodeSelektor": {}}}}, "pod.spec.nodeSelektor", "did you mean 'nodeSelector'?"),
        ({"pool": {"pod": IN_CONTAINER}}, "pools.mine.pod.spec.containers.0.command", "jobgen writes the stage's command line"),
        ({"stage": {"pod": {"spec": {"restartPolicy": "Never"}}}}, "stages.distill.pod.spec.restartPolicy", "exit codes"),
        ({"pod": {"spec": {"hostname": "x"}}}, "pod.spec.hostname", "rendezvous"),
        ({"pod": {"spec": {"hostnameOverride": "x"}}}, "pod.spec.hostnameOverride", "rendezvous"),
        ({"pod": fragment_of(restartPolicy="Always")}, "pod.spec.containers.0.restartPolicy", "exit codes"),
        ({"pod": fragment_of(restartPolicyRules=[])}, "pod.spec.containers.0.restartPolicyRules", "exit codes"),
        ({"pod": fragment_of(volumeMounts=[{"name": "d", "mountPath": "/"}])}, "containers.0.volumeMounts.0", "below it"),
        *(
            (
                {"pod": fragment_of(volumeMounts=[{"name": "d", "mountPath": path}])},
                "containers.0.volumeMounts.0",
                f"programs are at {path}, which it would hide",
            )
            for path in (
                "//tmp/..",
                "/opt",
                "/opt/minima/",
                "/usr",
                "/usr/local",
                "/bin",
                "/lib",
                "/lib64",
                "/etc",
                "/etc/x/..",
            )
        ),
        (
            {"conductor": {"image": "x", "pod": fragment_of("conductor", volumeMounts=[{"name": "d", "mountPath": "/opt"}])}},
            "conductor.pod.spec.containers.0.volumeMounts.0",
            "programs are at /opt",
        ),
        (
            {"pod": {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}}},
            "pod.metadata.labels.kueue",
            "a pool's `queue`",
        ),
        ({"annotations": {"argocd.argoproj.io/hook": "Sync"}}, "annotations.argocd.argoproj.io/hook", "leave alone"),
        (
            {"pod": {"metadata": {"annotations": {"argocd.argoproj.io/hook": "Sync"}}}},
            "pod.metadata.annotations.argocd.argoproj.io/hook",
            "leave alone",
        ),
        (
            {"conductor": {"image": "x", "pod": {"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/ssa": "x"}}}}},
            "conductor.pod.metadata.annotations.kustomize",
            "leave alone",
        ),
        ({"annotations": {"kustomize.toolkit.fluxcd.io/substitute": "enabled"}}, "annotations.kustomize", "leave alone"),
        ({"scheduling_policy": {"minResources": {"cpu": [1]}}}, "scheduling_policy.minResources.cpu", "a quantity such as"),
        ({"stage": {"annotations": {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}}}, "annotations.kustomize", "leave alone"),
        (
            {"conductor": {"image": "x", "annotations": {"argocd.argoproj.io/hook": "Sync"}}},
            "conductor.annotations.argocd",
            "leave alone",
        ),
        (
            {"pod": {"spec": {"containers": [{"name": "proxy", "image": "x"}]}}},
            "pod.spec.containers.0",
            "a sidecar is one of `initContainers`",
        ),
        ({"pod": {"spec": {"volumes": [{"name": "workspace"}]}}}, "pod.spec.volumes.0", "the key `workspace` says it"),
        (
            {"pod": {"spec": {"containers": [{"name": "pytorch", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}},
            "pod.spec.containers.0.resources.limits.nvidia.com/gpu",
            "the pool's `gpus` says it",
        ),
        ({"pod": {"spec": {"terminationGracePeriodSeconds": 30}}}, "pod.spec.terminationGracePeriodSeconds", "at least 600"),
        ({"pod": {"metadata": {"labels": {"minima/key": "x"}}}}, "pod.metadata.labels.minima/key", "choose another name"),
        ({"labels": {"training.kubeflow.org/job-name": "x"}}, "labels.training.kubeflow.org/job-name", "choose another name"),
        ({"labels": {"a": 1}}, "labels.a", "found 1"),
        ({"labels": {"kueue.x-k8s.io/queue-name": "q"}}, "labels.kueue.x-k8s.io/queue-name", "a pool's `queue` says it"),
        ({"pod": {"metadata": {"labels": {"team": "a b"}}}}, "pod.metadata.labels.team", "a label's value, of"),
        ({"scheduling_policy": {"minAvailable": "x"}}, "scheduling_policy.minAvailable", "found 'x'"),
        ({"scheduling_policy": {"minAvailable": 2**31}}, "scheduling_policy.minAvailable", "from -2^31"),
        ({"scheduling_policy": {"minResources": {"cpu": "foo"}}}, "scheduling_policy.minResources.cpu", "a quantity such as"),
        ({"pool": {"scheduling_policy": {"queue": 5}}}, "pools.mine.scheduling_policy.queue", "a string is valid"),
        ({"labels": {"a..b/c": "d"}}, "labels.a..b/c", "such as team or example.com/team"),
        ({"labels": {"a": "-"}}, "labels.a", "a label's value, of"),
        ({"annotations": {"a b": "c"}}, "annotations.a b", "such as team"),
        (
            {"conductor": {"image": "x", "labels": {"kueue.x-k8s.io/queue-name": "Team.A"}}},
            "conductor.labels.kueue",
            "a LocalQueue",
        ),
        ({"labels": {"kueue.x-k8s.io/max-exec-time-seconds": "0"}}, "labels.kueue", "seconds above 0"),
        ({"env": {"A": {"secret": "Bad_Name", "key": "k"}}}, "env.A", "found 'Bad_Name'; a name of a-z"),
        ({"env": {"A": {"secret": "s", "key": "a b"}}}, "env.A", "a key of letters"),
        ({"env": {"A": {"config_map": "a..b", "key": "k"}}}, "env.A", "found 'a..b'; a name of a-z"),
        ({"env": {"A": {"field": "metadata.nonsense"}}}, "env.A", "valid: metadata.name"),
        ({"env": {"A": {"resource": "limits.gpu"}}}, "env.A", "valid: limits.cpu"),
        ({"image_pull_secrets": ["Bad_Name"]}, "image_pull_secrets", "a list of names of Secrets"),
        ({"priority_class": "a..b"}, "priority_class", "the name of a PriorityClass"),
        ({"workspace": {"claim": "data..v1", "path": "/workspace"}}, "workspace.claim", "found 'data..v1'; a name of a-z"),
        ({"annotations": {"example.com/token": "abc123"}}, "annotations.example.com/token", "a literal credential"),
        ({"pod": {"metadata": {"annotations": {"a": "hf_" + "a" * 34}}}}, "pod.metadata.annotations.a", "a literal credential"),
        (
            {"pod": {"spec": {"initContainers": [{"name": "i", "image": "x", "args": ["--password", "hunter2"]}]}}},
            "pod.spec.initContainers.0.args.1",
            "a literal credential",
        ),
        (
            {"pod": {"spec": {"initContainers": [{"name": "i", "image": "x", "command": ["sh", "-c", "API_KEY=abc run"]}]}}},
            "pod.spec.initContainers.0.command.2",
            "a literal credential",
        ),
        (
            {"pod": fragment_of(lifecycle={"postStart": {"exec": {"command": ["login", "--token=abc"]}}})},
            "lifecycle.postStart.exec.command.1",
            "a literal credential",
        ),
        (
            {"pod": {"spec": {"volumes": [{"name": "d", "csi": {"driver": "a.b", "volumeAttributes": {"password": "x"}}}]}}},
            "pod.spec.volumes.0.csi.volumeAttributes.password",
            "a literal credential",
        ),
        (
            {"stage": {"options": {**OPTIONS, "teacher_model_name_or_path": "/workspace/hf_" + "a" * 34}}},
            "stages.distill.options.teacher_model_name_or_path",
            "a literal credential",
        ),
        ({"labels": {"tok": "hf_" + "a" * 34}}, "labels.tok", "a literal credential"),
        ({"pod": {"metadata": {"labels": {"api-key": "abc"}}}}, "pod.metadata.labels.api-key", "a literal credential"),
        ({"pod": {"spec": {"serviceAccount": "foo"}}}, "pod.spec.serviceAccount", "the key `service_account` says it"),
        *(
            ({"conductor": {"image": "x", "pod": {"spec": {key: None}}}}, f"conductor.pod.spec.{key}", what)
            for key, what in {
                "serviceAccount": "the key `service_account` says it",
                "serviceAccountName": "the conductor's key `service_account` says it",
                "restartPolicy": "its Job starts another pod",
            }.items()
        ),
        ({"workspace": {"claim": "a", "path": "/w", "sub_path": "team"}}, "workspace.sub_path", "its `name`; take it out"),
        ({"pool": {"memory": 64}}, "pools.mine.memory", "64 bytes; did you mean 64Gi?"),
        ({"env": {"RANK": "1"}}, "env.RANK", "set by jobgen, the operator or torchrun"),
        ({"env": {"A-B": "1"}}, "env.A-B", "letters, digits and _"),
        ({"env": {"A": 1}}, "env.A", "found 1; a string, or one of"),
        ({"env": {"A": {"secret": "x"}}}, "env.A", "{secret: NAME, key: KEY}"),
        ({"env": {"HF_TOKEN": "hf_abc"}}, "env.HF_TOKEN", "a literal credential"),
        ({"env": {"WANDB_API_KEY": "x"}}, "env.WANDB_API_KEY", "a literal credential"),
        ({"env": {"URL": "hf_" + "a" * 34}}, "env.URL", "a literal credential"),
        (
            {"pod": {"spec": {"initContainers": [{"name": "i", "env": [{"name": "DB_PASS", "value": "x"}]}]}}},
            "pod.spec.initContainers.0.env.0",
            "DB_PASS: a literal credential",
        ),
        ({"env": {"HF_ENDPOINT": "hub.example.com"}}, "env.HF_ENDPOINT", "http:// or https:// and a host is valid"),
        ({"image_pull_secrets": "x"}, "image_pull_secrets", "a list of names of Secrets"),
        ({"service_account": "A b"}, "service_account", "the name of a ServiceAccount is valid"),
        ({"scheduling_policy": {"minAvailible": 1}}, "scheduling_policy.minAvailible", "did you mean 'minAvailable'?"),
        ({"conductor": {"labels": {}}}, "conductor", "image is missing"),
        (
            {"conductor": {"image": "x", "pod": {"spec": {"automountServiceAccountToken": False}}}},
            "conductor.pod.spec.automountServiceAccountToken",
            "asks the cluster's API by its token",
        ),
        ({"conductor": {"image": "x", "pod": {"spec": {"containers": [{"name": "pytorch"}]}}}}, "conductor.pod", "conductor"),
    ],
)
def test_what_is_refused_has_its_place_and_reason(changes: dict[str, Any], place: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline(**changes)
    (line,) = str(caught.value).splitlines()
    assert place in line
    assert what in line


def test_what_is_missing_after_merging_is_said_with_the_stage() -> None:
    made = pipeline(stage={"pod": {"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {}}]}}})
    with pytest.raises(
        UsageError,
        match=r"stages\.distill\.pod\.spec\.volumes\.0\.persistentVolumeClaim: claimName is missing",
    ):
        job(made)


def placed(pod: dict[str, Any], profile: str = "", folder: Path | None = None, /, **pool: Any) -> dict[str, Any]:
    """A pod of the pool `cpu`, with the pipeline's `pod` and a site's profile."""
    content = {**yaml.safe_load(SMALL), "pod": pod, "pools": {"cpu": pool}}
    content["stages"]["distill"]["pool"] = "cpu"
    if folder:
        (folder / "site.yaml").write_text(profile, encoding="utf-8")
        content["cluster"] = "./site.yaml"
    made = spec.parse(yaml.safe_dump(content, sort_keys=False), str((folder or Path()) / "p.yaml"))
    spec_: dict[str, Any] = template(made)["spec"]
    return spec_


def test_a_pools_short_selector_is_of_the_pools_level(tmp_path: Path) -> None:
    """Over the pipeline and over all of the profile, below the pool's own fragment, label by label."""
    of_all = {"spec": {"nodeSelector": {"disk": "pipeline", "rack": "a"}}}
    assert placed(of_all, node_selector={"disk": "pool"})["nodeSelector"] == {"disk": "pool", "rack": "a"}
    above = {"spec": {"nodeSelector": {"disk": "fragment"}}}
    made = placed(of_all, node_selector={"disk": "pool", "net": "b"}, pod=above)
    assert made["nodeSelector"] == {"disk": "fragment", "rack": "a", "net": "b"}
    site = "pod: {spec: {nodeSelector: {disk: site}}}\npools: {cpu: {node_selector: {rack: site, gone: site}}}\n"
    made = placed(of_all, site, tmp_path, node_selector={"disk": "pool"}, pod={"spec": {"nodeSelector": {"gone": None}}})
    assert made["nodeSelector"] == {"disk": "pool", "rack": "a"}
    assert "nodeSelector" not in placed({}, node_selector={"a": "b"}, pod={"spec": {"nodeSelector": None}})


GPUS = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
LOST = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
SKU = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}


def test_what_a_pool_tolerates_is_never_lost(tmp_path: Path) -> None:
    """Kubernetes' rules would replace the list."""
    lost = {"spec": {"tolerations": [LOST, SKU]}}
    assert placed(lost, tolerations=[GPUS])["tolerations"] == [GPUS, LOST, SKU]
    assert placed({}, tolerations=[GPUS], pod=lost)["tolerations"] == [GPUS, LOST, SKU]
    assert placed(lost)["tolerations"] == [LOST, SKU]
    assert placed(lost, tolerations=[SKU], pod={"spec": {"tolerations": None}})["tolerations"] == [SKU]
    assert placed(lost, "pools: {cpu: {tolerations: [{key: site, operator: Exists}]}}", tmp_path)["tolerations"] == [
        {"key": "site", "operator": "Exists"},
        LOST,
        SKU,
    ]


def test_the_tolerations_of_a_built_in_pool_are_kept() -> None:
    content = yaml.safe_load(spec.read("minima-3b"))
    content |= {"cluster": "aks-nd96-a100", "pod": {"spec": {"tolerations": [LOST]}}}
    assert template(spec.parse(yaml.safe_dump(content), "p.yaml"), "adapt")["spec"]["tolerations"] == [GPUS, SKU, LOST]
    content["pools"] = {"a100-32": {"tolerations": [{"key": "spot", "operator": "Exists"}]}}
    assert template(spec.parse(yaml.safe_dump(content), "p.yaml"), "adapt")["spec"]["tolerations"] == [
        GPUS,
        SKU,
        {"key": "spot", "operator": "Exists"},
        LOST,
    ]


def test_a_profiles_image_is_below_the_pipelines(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("pools: {small-pair: {image: site:1}}", encoding="utf-8")
    content = {**yaml.safe_load(SMALL), "cluster": "./site.yaml"}

    def image() -> str:
        made = spec.parse(yaml.safe_dump(content), str(tmp_path / "p.yaml"))
        return str(template(made)["spec"]["containers"][0]["image"])

    assert image() == "minima:cpu"
    content["pools"] = {"small-pair": {"image": "pool:1"}}
    assert image() == "pool:1"
    del content["pools"], content["image"]
    with pytest.raises(UsageError) as caught:
        image()
    assert [line.partition(": ")[2] for line in str(caught.value).splitlines()] == [
        f"stages.{name}: image is missing; one here, of the pool small or of the whole pipeline is valid"
        for name in ("build-data", "init-model")
    ]
    for name in ("build-data", "init-model"):
        content["stages"][name]["image"] = "stage:1"
    assert image() == "site:1"


def test_a_pod_in_its_nodes_network_knows_the_clusters_names() -> None:
    """The rendezvous is at the name of a service."""
    on_host = {"hostNetwork": True}
    assert template(pipeline(stage={"pod": {"spec": on_host}}))["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    said = template(pipeline(pool={"pod": {"spec": {**on_host, "dnsPolicy": "Default"}}}))["spec"]
    assert said["dnsPolicy"] == "Default"
    not_there = pipeline(pool={"pod": {"spec": on_host}}, stage={"pod": {"spec": {"hostNetwork": False}}})
    assert "dnsPolicy" not in template(not_there)["spec"]
    image = "minima:jobgen"  # What it asks for may be at the name of a service too.
    for made in (pipeline(pod={"spec": on_host}), pipeline(conductor={"image": image, "pod": {"spec": on_host}})):
        assert conducting(made)["Job"]["spec"]["template"]["spec"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    node = pipeline(conductor={"image": image, "pod": {"spec": {**on_host, "dnsPolicy": "Default"}}})
    assert conducting(node)["Job"]["spec"]["template"]["spec"]["dnsPolicy"] == "Default"
    assert "dnsPolicy" not in conducting(pipeline())["Job"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("pod", "what"),
    [
        (fragment_of(volumeMounts=[{"name": "ca", "mountPath": "/etc/site"}]), "no volume 'ca'"),
        (
            {"spec": {"initContainers": [{"name": "i", "volumeMounts": [{"name": "ca", "mountPath": "/etc/site"}]}]}},
            "initContainers.0.volumeMounts.0.name: no volume 'ca'",
        ),
        ({"spec": {"volumes": [{"name": "tmp", "$patch": "delete"}]}}, "volumes.0: tmp would not be what jobgen needs"),
        (
            fragment_of(resources={"limits": {"example.com/x": 2}, "requests": {"example.com/x": 1}}),
            "example.com/x: found '1', and '2' in `limits`; the same amount",
        ),
        (fragment_of(resources={"limits": {"hugepages-2Mi": "-1Mi"}}), "hugepages-2Mi: found '-1Mi'"),
    ],
)
@pytest.mark.parametrize("level", ["pipeline", "pool", "stage"])
def test_a_wrong_pod_of_fragments_is_no_bug_of_jobgen(level: str, pod: dict[str, Any], what: str) -> None:
    made = pipeline(**({"pod": pod} if level == "pipeline" else {level: {"pod": pod}}))
    with pytest.raises(UsageError) as caught:
        job(made)
    assert {"pipeline": ": pod.", "pool": ": pools.mine.pod.", "stage": ": stages.distill.pod."}[level] in str(caught.value)
    assert what in str(caught.value)


def test_a_wrong_pod_without_fragments_is_a_bug_of_jobgen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobgen.manifests.checks.CONTAINER", "other")
    with pytest.raises(StageError, match="distill: jobgen made a wrong object, please report it") as caught:
        job(pipeline())
    assert caught.value.exit_code == BUG


def test_what_kubernetes_takes_is_no_wrong_pod() -> None:
    amounts = {"hugepages-2Mi": "1Ei", "hugepages-1Gi": "1024Mi"}
    pod = template(pipeline(pod=fragment_of(env=[{"name": "EMPTY"}], resources={"limits": amounts})))["spec"]
    (one,) = pod["containers"]
    assert {"name": "EMPTY"} in one["env"]
    assert amounts.items() <= one["resources"]["limits"].items()


def test_a_mount_of_the_conductor_has_a_volume() -> None:
    mount = {"name": "conductor", "volumeMounts": [{"name": "ca", "mountPath": "/etc/site"}]}
    made = pipeline(conductor={"image": "minima:jobgen", "pod": {"spec": {"containers": [mount]}}})
    with pytest.raises(UsageError, match=r"conductor\.pod\.spec\.containers\.0\.volumeMounts\.0\.name: no volume 'ca'"):
        conducting(made)


def scratch(size: str, **source: Any) -> dict[str, Any]:
    return {"spec": {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": size, **source}}]}}


@pytest.mark.parametrize("pod", [scratch("20Gi"), {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "2e10"}}]}}])
def test_volumes_that_would_have_their_pod_evicted_are_refused(pod: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"GiB, and count against .* 10\.0 GiB, .* a larger `disk` of pool mine helps"):
        template(pipeline(stage={"pod": pod}))
    assert template(pipeline(stage={"pod": pod}, pool={"disk": "20Gi"}))


def test_a_volume_in_memory_takes_no_disk() -> None:
    assert template(pipeline(pool={"memory": "32Gi"}, stage={"pod": scratch("20Gi", medium="Memory")}))
    assert template(pipeline(stage={"pod": scratch("10Gi")}))


@pytest.mark.parametrize(
    ("text", "number"),
    [(5, 5.0), ("1Gi", 2.0**30), ("2E", 2e18), ("2e3", 2000.0), ("2E3", 2000.0), ("5m", 0.005), ("1.5k", 1500.0)],
)
def test_every_form_of_a_quantity_is_a_number(text: Any, number: float) -> None:
    assert float(quantities.number(text)) == pytest.approx(number)
