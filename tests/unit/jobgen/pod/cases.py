"""Fragments of a pod, as YAML: a fast test demands what is said of them, a cluster test that the server says the same.

`main:` stands for a field of the stage's own container, `init:` for one of an init container with name and image, `volume:` for
a volume called data, which the stage's container mounts; all else is of the pod's spec.
"""

from typing import Any

import yaml

from jobgen.pipeline.pipeline import CONTAINER

REFUSED: dict[str, tuple[str, str]] = {
    # Metadata.
    "metadata: {labels: {a..b/c: d}}": ("metadata.labels.a..b/c", "such as team or example.com/team"),
    "metadata: {labels: {-a: b}}": ("metadata.labels.-a", "such as team"),
    f"metadata: {{labels: {{{'a' * 64}: b}}}}": ("metadata.labels.aaa", "at most 63 characters after the domain"),
    f"metadata: {{labels: {{a: {'b' * 64}}}}}": ("metadata.labels.a", "at most 63 characters"),
    "metadata: {labels: {a: b c}}": ("metadata.labels.a", "a label's value"),
    "metadata: {labels: {a: -b}}": ("metadata.labels.a", "a label's value"),
    "metadata: {annotations: {a b: c}}": ("metadata.annotations.a b", "such as team"),
    "metadata: {annotations: {/a: c}}": ("metadata.annotations./a", "such as team"),
    "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/pytroch: runtime/default}}": (
        "metadata.annotations.container.apparmor",
        "no container 'pytroch'; did you mean 'pytorch'?",
    ),
    "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/pytorch: mine}}": (
        "metadata.annotations.container.apparmor",
        "localhost/NAME is valid",
    ),
    "metadata: {annotations: {controller.kubernetes.io/pod-deletion-cost: '1.5'}}": (
        "metadata.annotations.controller",
        "whole number",
    ),
    "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/pytorch: unconfined}, labels: {A/b: c}}": (
        "metadata.labels.A/b",
        "such as team",
    ),
    "{securityContext: {appArmorProfile: {type: RuntimeDefault}}, metadata: {annotations: "
    "{container.apparmor.security.beta.kubernetes.io/pytorch: unconfined}}}": (
        "container.apparmor",
        "which says runtime/default",
    ),
    "metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: foo}}": ("seccomp.security", "localhost/NAME is valid"),
    "metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}": (
        "seccomp.security",
        "which says runtime/default",
    ),
    "metadata: {annotations: {scheduler.alpha.kubernetes.io/tolerations: foo}}": ("scheduler.alpha", "`tolerations` says it"),
    "metadata: {annotations: {kubernetes.io/config.mirror: foo}}": (
        "kubernetes.io/config.mirror",
        "of pods that a kubelet has",
    ),
    # Names of other objects, and the pod's own fields.
    "serviceAccountName: Train_er": ("spec.serviceAccountName", "a name of a-z, 0-9, - and ."),
    "serviceAccountName: a..b": ("spec.serviceAccountName", "a name of a-z"),
    "priorityClassName: Hi gh": ("spec.priorityClassName", "a name of a-z"),
    "runtimeClassName: NVIDIA": ("spec.runtimeClassName", "a name of a-z"),
    "runtimeClassName: ''": ("spec.runtimeClassName", "a name of a-z"),
    "nodeName: Node_1": ("spec.nodeName", "a name of a-z"),
    "activeDeadlineSeconds: 0": ("spec.activeDeadlineSeconds", "from 1 to 2147483647"),
    "activeDeadlineSeconds: 3000000000": ("spec.activeDeadlineSeconds", "from 1 to 2147483647"),
    "priority: 3000000000": ("spec.priority", "from -2^31 to 2^31 - 1"),
    "priority: 5": ("spec.priority", "the cluster takes it from the class"),
    "preemptionPolicy: Never": ("spec.preemptionPolicy", "the cluster takes it from the class"),
    "overhead: {cpu: 100m}": ("spec.overhead", "takes it from that class"),
    "dnsPolicy: None": ("spec.dnsPolicy", "without dnsConfig.nameservers"),
    "{dnsPolicy: None, dnsConfig: {searches: [a.b]}}": ("spec.dnsPolicy", "without dnsConfig.nameservers"),
    "dnsConfig: {nameservers: [a.b]}": ("spec.dnsConfig.nameservers.0", "an IP address"),
    "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}": ("spec.dnsConfig.nameservers", "at most 3"),
    "dnsConfig: {searches: [a b]}": ("spec.dnsConfig.searches.0", "a domain such as"),
    "dnsConfig: {options: [{value: '2'}]}": ("spec.dnsConfig.options.0", "name is missing"),
    "hostAliases: [{ip: 10.0.0.300, hostnames: [a]}]": ("spec.hostAliases.0.ip", "an IP address"),
    "hostAliases: [{ip: 10.0.0.3, hostnames: [A_B]}]": ("spec.hostAliases.0.hostnames.0", "a name of a-z"),
    "schedulingGates: [{name: a b}]": ("spec.schedulingGates.0.name", "such as team"),
    "readinessGates: [{conditionType: a b}]": ("spec.readinessGates.0.conditionType", "such as team"),
    "{nodeName: a, schedulingGates: [{name: a}]}": ("spec.nodeName", "beside schedulingGates"),
    "os: {name: linus}": ("spec.os.name", "linux is valid"),
    "os: {name: windows}": ("spec.os.name", "linux is valid"),
    "{os: {name: linux}, securityContext: {windowsOptions: {runAsUserName: a}}}": (
        "securityContext.windowsOptions",
        "of os linux",
    ),
    "{hostPID: true, shareProcessNamespace: true}": ("spec.shareProcessNamespace", "beside hostPID"),
    "{hostUsers: false, hostPID: true}": ("spec.hostUsers", "beside hostPID"),
    "{hostUsers: false, hostIPC: true}": ("spec.hostUsers", "beside hostIPC"),
    "resources: {requests: {nvidia.com/gpu: 1}, limits: {nvidia.com/gpu: 1}}": (
        "spec.resources.requests.nvidia.com/gpu",
        "for the whole pod",
    ),
    "resources: {requests: {cpu: 1m}}": ("spec.resources.requests.cpu", "less than its containers ask for"),
    "resources: {limits: {memory: 1Mi}}": ("spec.resources.limits.memory", "below the container pytorch's"),
    "resources: {requests: {cpu: 9}, limits: {cpu: 8}}": ("spec.resources.requests.cpu", "above the limit"),
    "resourceClaims: [{name: gpu}]": ("spec.resourceClaims.0", "one of resourceClaimName and"),
    "resourceClaims: [{name: g, resourceClaimName: a, resourceClaimTemplateName: b}]": (
        "spec.resourceClaims.0",
        "one of resourceClaimName",
    ),
    "resourceClaims: [{name: G_PU, resourceClaimName: a}]": ("spec.resourceClaims.0.name", "DNS-1123 label"),
    "main: {resources: {claims: [{name: gpu}]}}": ("resources.claims.0", "no entry 'gpu' of resourceClaims"),
    "{resourceClaims: [{name: g, resourceClaimName: a}], containers: [{name: pytorch, resources: "
    "{claims: [{name: g}, {name: g, request: r}]}}]}": ("resources.claims.1", "'g' twice"),
    "{resourceClaims: [{name: g, resourceClaimName: a}], containers: [{name: pytorch, resources: "
    "{claims: [{name: g, request: A_b}]}}]}": ("resources.claims.0.request", "DNS-1123 label"),
    "{resourceClaims: [{name: g, resourceClaimName: a}], containers: [{name: pytorch, resources: "
    "{claims: [{name: g, request: a}, {name: g, request: b}]}}]}": ("resources.claims.1", "'g' twice"),
    "resources: {requests: {hugepages-2Mi: 2Mi}}": ("spec.resources.requests.hugepages-2Mi", "without a limit"),
    "resources: {claims: [{name: a}]}": ("spec.resources.claims", "for the whole pod"),
    "{runtimeClassName: a, overhead: {efa: 1}}": ("spec.overhead.efa", "a name with its domain"),
    "{hostUsers: false, hostNetwork: true}": ("spec.hostUsers", "beside hostNetwork"),
    "dnsConfig: {nameservers: ['::ffff:1.2.3.4']}": ("nameservers.0", "of its own version"),
    "hostAliases: [{ip: 10.0.0.01, hostnames: [a]}]": ("hostAliases.0.ip", "an IP address"),
    "hostAliases: [{ip: 'fe80::1%eth0', hostnames: [a]}]": ("hostAliases.0.ip", "without a zone"),
    # Where pods go.
    "tolerations: [{key: a, operator: Lt, value: '5', effect: NoSchedule}]": ("tolerations.0.operator", "valid: Equal, Exists"),
    "{metadata: {labels: {a: b}}, spread: {matchLabelKeys: [a], labelSelector: {matchLabels: {a: b}}}}": (
        "matchLabelKeys.0",
        "labelSelector names too",
    ),
    "{metadata: {labels: {a: b}}, pods: {topologyKey: a, matchLabelKeys: [a], labelSelector: {matchLabels: {a: b}}}}": (
        "matchLabelKeys.0",
        "labelSelector names too",
    ),
    "field: {key: metadata.name, operator: In, values: [A_B]}": ("matchFields.0.values.0", "a name of a-z"),
    "nodeSelector: {a b: c}": ("spec.nodeSelector.a b", "such as team"),
    "nodeSelector: {a: b c}": ("spec.nodeSelector.a", "a label's value"),
    "tolerations: [{key: a, operator: Exists, value: b}]": ("spec.tolerations.0.value", "beside operator Exists"),
    "tolerations: [{operator: Equal, value: b}]": ("spec.tolerations.0", "found no key"),
    "tolerations: [{value: b}]": ("spec.tolerations.0", "found no key"),
    "tolerations: [{key: a b}]": ("spec.tolerations.0.key", "such as team"),
    "tolerations: [{key: a, value: b c}]": ("spec.tolerations.0.value", "a label's value"),
    "tolerations: [{key: a, operator: Exits}]": ("spec.tolerations.0.operator", "did you mean 'Exists'?"),
    "tolerations: [{key: a, operator: Exists, effect: NoShedule}]": ("spec.tolerations.0.effect", "did you mean 'NoSchedule'?"),
    "tolerations: [{key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 5}]": (
        "spec.tolerations.0.tolerationSeconds",
        "NoExecute alone",
    ),
    "tolerations: [{key: a, operator: Exists, tolerationSeconds: 5}]": (
        "spec.tolerations.0.tolerationSeconds",
        "NoExecute alone",
    ),
    "spread: {maxSkew: 0}": ("topologySpreadConstraints.0.maxSkew", "from 1"),
    "spread: {whenUnsatisfiable: Never}": ("topologySpreadConstraints.0.whenUnsatisfiable", "DoNotSchedule"),
    "spread: {minDomains: 2, whenUnsatisfiable: ScheduleAnyway}": (
        "topologySpreadConstraints.0.minDomains",
        "DoNotSchedule alone",
    ),
    "spread: {minDomains: 0}": ("topologySpreadConstraints.0.minDomains", "from 1"),
    "spread: {nodeTaintsPolicy: Honour}": ("topologySpreadConstraints.0.nodeTaintsPolicy", "Honor"),
    "spread: {matchLabelKeys: [a]}": ("topologySpreadConstraints.0.matchLabelKeys", "without labelSelector"),
    "spread: {labelSelector: {matchLabels: {a: b c}}}": ("labelSelector.matchLabels.a", "a label's value"),
    "spread: {labelSelector: {matchExpressions: [{key: a, operator: Is}]}}": (
        "matchExpressions.0.operator",
        "valid: DoesNotExist",
    ),
    "spread: {labelSelector: {matchExpressions: [{key: a, operator: In}]}}": ("matchExpressions.0", "without values"),
    "spread: {labelSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}": (
        "matchExpressions.0.values",
        "takes none",
    ),
    "topologySpreadConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule, topologyKey: a}, {maxSkew: 1, "
    "whenUnsatisfiable: DoNotSchedule, topologyKey: a}]": ("topologySpreadConstraints.1", "a twice in this list"),
    "node: {key: a, operator: In}": ("matchExpressions.0", "without values"),
    "node: {key: a, operator: Exists, values: [b]}": ("matchExpressions.0.values", "takes none"),
    "node: {key: a, operator: Gt, values: ['1', '2']}": ("matchExpressions.0", "one is valid"),
    "node: {key: a, operator: Equals, values: [b]}": ("matchExpressions.0.operator", "found 'Equals'"),
    "node: {key: a b, operator: Exists}": ("matchExpressions.0.key", "such as team"),
    "node: {key: a, operator: In, values: [b c]}": ("matchExpressions.0.values.0", "a label's value"),
    "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}": (
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms is missing",
    ),
    "field: {key: metadata.uid, operator: In, values: [a]}": ("matchFields.0.key", "metadata.name is valid"),
    "field: {key: metadata.name, operator: Exists}": ("matchFields.0.operator", "In or NotIn"),
    "field: {key: metadata.name, operator: In, values: [a, b]}": ("matchFields.0", "one name of a node"),
    "preferred: {weight: 0, preference: {}}": ("preferredDuringSchedulingIgnoredDuringExecution.0.weight", "from 1 to 100"),
    "preferred: {weight: 101, preference: {}}": ("preferredDuringSchedulingIgnoredDuringExecution.0.weight", "from 1 to 100"),
    "pods: {topologyKey: ''}": ("requiredDuringSchedulingIgnoredDuringExecution.0", "topologyKey"),
    "pods: {topologyKey: a b}": ("requiredDuringSchedulingIgnoredDuringExecution.0.topologyKey", "such as team"),
    "pods: {topologyKey: a, namespaces: [A]}": ("namespaces.0", "DNS-1123 label"),
    "pods: {topologyKey: a, matchLabelKeys: [b]}": ("matchLabelKeys", "without labelSelector"),
    "pods: {topologyKey: a, labelSelector: {matchLabels: {a: b}}, matchLabelKeys: [b], mismatchLabelKeys: [b]}": (
        "matchLabelKeys.0",
        "in mismatchLabelKeys too",
    ),
    "pods: {topologyKey: a, labelSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}": (
        "matchExpressions.0",
        "without values",
    ),
    # Who a pod is, and what it may.
    "securityContext: {runAsUser: -1}": ("securityContext.runAsUser", "from 0 to 2147483647"),
    "securityContext: {runAsUser: 2147483648}": ("securityContext.runAsUser", "from 0 to 2147483647"),
    "securityContext: {runAsGroup: -5}": ("securityContext.runAsGroup", "from 0"),
    "securityContext: {fsGroup: -1}": ("securityContext.fsGroup", "from 0"),
    "securityContext: {supplementalGroups: [5, -1]}": ("securityContext.supplementalGroups.1", "from 0"),
    "securityContext: {fsGroupChangePolicy: Sometimes}": ("securityContext.fsGroupChangePolicy", "OnRootMismatch"),
    "securityContext: {supplementalGroupsPolicy: Sometimes}": ("securityContext.supplementalGroupsPolicy", "Strict"),
    "securityContext: {seLinuxChangePolicy: Sometimes}": ("securityContext.seLinuxChangePolicy", "Recursive"),
    "securityContext: {seccompProfile: {type: Localhost}}": ("securityContext.seccompProfile", "localhostProfile is missing"),
    "securityContext: {seccompProfile: {localhostProfile: a}}": ("seccompProfile.localhostProfile", "goes with Localhost"),
    "securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../a}}": (
        "seccompProfile.localhostProfile",
        "below the kubelet's",
    ),
    "securityContext: {seccompProfile: {type: Default}}": ("securityContext.seccompProfile.type", "RuntimeDefault"),
    "securityContext: {appArmorProfile: {type: Localhost}}": ("securityContext.appArmorProfile", "goes with type Localhost"),
    "securityContext: {appArmorProfile: {type: RuntimeDefault, localhostProfile: a}}": (
        "appArmorProfile.localhostProfile",
        "goes with Localhost",
    ),
    "securityContext: {sysctls: [{name: Net.core, value: '1'}]}": ("sysctls.0.name", "a kernel setting"),
    "securityContext: {sysctls: [{name: a.b, value: '1'}, {name: a.b, value: '2'}]}": ("sysctls.1.name", "'a.b' twice"),
    "{hostIPC: true, securityContext: {sysctls: [{name: kernel.sem, value: '1'}]}}": ("sysctls.0.name", "beside hostIPC"),
    "securityContext: {seLinuxChangePolicy: MountOption}": ("securityContext.seLinuxChangePolicy", "Recursive"),
    "main: {securityContext: {appArmorProfile: {type: Localhost, localhostProfile: ''}}}": (
        "appArmorProfile",
        "goes with type Localhost",
    ),
    "{hostNetwork: true, securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]}}": (
        "sysctls.0.name",
        "beside hostNetwork",
    ),
    "main: {securityContext: {privileged: true}}": ("securityContext.privileged", "or say allowPrivilegeEscalation: true too"),
    "main: {securityContext: {capabilities: {add: [CAP_SYS_ADMIN]}}}": ("capabilities.add.0", "SYS_ADMIN, without CAP_"),
    "main: {securityContext: {procMount: Unmasked}}": ("securityContext.procMount", "hostUsers: false"),
    "main: {securityContext: {procMount: Masked}}": ("securityContext.procMount", "Unmasked"),
    "main: {securityContext: {runAsUser: -1}}": ("containers.0.securityContext.runAsUser", "from 0"),
    # What a container gets.
    "main: {resources: {limits: {efa: 4}}}": ("resources.limits.efa", "a name with its domain"),
    "main: {resources: {limits: {a_b/c: 4}}}": ("resources.limits.a_b/c", "such as team or example.com/team"),
    "main: {resources: {limits: {requests.a.b/c: 4}}}": ("resources.limits.requests.a.b/c", "does not begin with requests."),
    "main: {resources: {limits: {rdma/ib: 1.5}}}": ("resources.limits.rdma/ib", "a whole number"),
    "main: {resources: {limits: {rdma/ib: 500m}}}": ("resources.limits.rdma/ib", "a whole number"),
    "main: {resources: {limits: {rdma/ib: -1}}}": ("resources.limits.rdma/ib", "0 or more"),
    "main: {resources: {requests: {rdma/ib: 1}}}": ("resources.requests.rdma/ib", "without a limit"),
    "main: {resources: {requests: {rdma/ib: 1}, limits: {rdma/ib: 2}}}": ("resources.requests.rdma/ib", "the same amount"),
    "main: {resources: {limits: {hugepages-2Mi: 5121Ki}}}": ("resources.limits.hugepages-2Mi", "such as 6Mi"),
    "main: {resources: {limits: {hugepages-big: 4Mi}}}": ("resources.limits.hugepages-big", "hugepages-2Mi"),
    "main: {resources: {requests: {hugepages-2Mi: 4Mi}}}": ("resources.requests.hugepages-2Mi", "without a limit"),
    "main: {resources: {limits: {storage: 1Gi}}}": ("resources.limits.storage", "no resource of Kubernetes' own"),
    "main: {resources: {limits: {rdma/ib: one}}}": ("resources.limits.rdma/ib", "a quantity such as"),
    "main: {resources: {limits: {rdma/ib: 1 Gi}}}": ("resources.limits.rdma/ib", "a quantity such as"),
    "main: {resources: {limits: {rdma/ib: 1GB}}}": ("resources.limits.rdma/ib", "a quantity such as"),
    "main: {resources: {limits: {rdma/ib: 1e}}}": ("resources.limits.rdma/ib", "a quantity such as"),
    "init: {resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}": (
        "initContainers.0.resources.requests.memory",
        "above the limit",
    ),
    "init: {resources: {limits: {hugepages-2Mi: 2Mi}}}": ("initContainers.0.resources", "without cpu or memory"),
    "init: {resources: {limits: {cpu: -1}}}": ("resources.limits.cpu", "0 or more"),
    "main: {resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, "
    "{resourceName: cpu, restartPolicy: NotRequired}]}": (
        "resizePolicy",
        "twice",
    ),
    "main: {resizePolicy: [{resourceName: gpu, restartPolicy: NotRequired}]}": ("resizePolicy.0.resourceName", "cpu"),
    "main: {resizePolicy: [{resourceName: cpu, restartPolicy: Never}]}": ("resizePolicy.0.restartPolicy", "NotRequired"),
    # Variables.
    "env: {valueFrom: {}}": ("env.0.valueFrom", "found nothing; one of secretKeyRef"),
    "env: {valueFrom: {fieldRef: {fieldPath: metadata.nonsense}}}": ("valueFrom.fieldRef.fieldPath", "valid: metadata.name"),
    "env: {valueFrom: {fieldRef: {fieldPath: metadata.labels}}}": ("valueFrom.fieldRef.fieldPath", "metadata.labels['KEY']"),
    "env: {valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a b']\"}}}": (
        "valueFrom.fieldRef.fieldPath",
        "metadata.labels['KEY']",
    ),
    "env: {valueFrom: {fieldRef: {fieldPath: \"spec.nodeName['a']\"}}}": (
        "valueFrom.fieldRef.fieldPath",
        "metadata.labels['KEY']",
    ),
    "env: {valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}": (
        "valueFrom.fieldRef.apiVersion",
        "v1 is valid",
    ),
    "env: {valueFrom: {resourceFieldRef: {resource: limits.gpu}}}": (
        "valueFrom.resourceFieldRef.resource",
        "valid: limits.cpu",
    ),
    "env: {valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2}}}": (
        "valueFrom.resourceFieldRef.divisor",
        "valid: 1, 1m",
    ),
    "env: {valueFrom: {secretKeyRef: {name: Bad_Name, key: a}}}": ("valueFrom.secretKeyRef.name", "a name of a-z"),
    "env: {valueFrom: {secretKeyRef: {key: a}}}": ("valueFrom.secretKeyRef", "name is missing"),
    "env: {valueFrom: {secretKeyRef: {name: a, key: b c}}}": ("valueFrom.secretKeyRef.key", "a key of letters"),
    "env: {valueFrom: {secretKeyRef: {name: a, key: ''}}}": ("valueFrom.secretKeyRef", "key"),
    "env: {valueFrom: {configMapKeyRef: {name: a..b, key: c}}}": ("valueFrom.configMapKeyRef.name", "a name of a-z"),
    "env: {valueFrom: {configMapKeyRef: {name: a, key: b}, secretKeyRef: {name: a, key: b}}}": (
        "env.0.valueFrom",
        "configMapKeyRef and secretKeyRef",
    ),
    "env: {value: x, valueFrom: {configMapKeyRef: {name: a, key: b}}}": ("env.0", "one of them is valid"),
    "env: {valueFrom: {fileKeyRef: {volumeName: workspace, path: a, key: b}}}": (
        "fileKeyRef.volumeName",
        "no emptyDir 'workspace'",
    ),
    "init: {env: [{name: 'é', value: c}]}": ("initContainers.0.env.0.name", "printable ASCII"),
    "main: {envFrom: [{}]}": ("envFrom.0", "one of configMapRef and secretRef"),
    "main: {envFrom: [{secretRef: {name: A}}]}": ("envFrom.0.secretRef.name", "a name of a-z"),
    "main: {envFrom: [{secretRef: {}}]}": ("envFrom.0.secretRef", "name is missing"),
    "main: {envFrom: [{prefix: a=b, secretRef: {name: a}}]}": ("envFrom.0.prefix", "without ="),
    "main: {envFrom: [{secretRef: {name: a}, configMapRef: {name: a}}]}": ("envFrom.0", "one of configMapRef and secretRef"),
    "init: {env: [{name: 'a=b', value: c}]}": ("initContainers.0.env.0.name", "without ="),
    # Volumes and mounts.
    "volumes: [{name: Foo_Bar, emptyDir: {}}]": ("spec.volumes.0.name", "DNS-1123 label"),
    "volume: {emptyDir: {}, configMap: {name: a}}": ("spec.volumes.0", "found emptyDir and configMap; one source"),
    "volume: {emptyDir: {sizeLimit: -1Gi}}": ("emptyDir.sizeLimit", "0 or more"),
    "volume: {hostPath: {path: ''}}": ("hostPath", "path is missing"),
    "volume: {hostPath: {path: /a/../b}}": ("hostPath.path", "without .."),
    "volume: {hostPath: {path: /a, type: Folder}}": ("hostPath.type", "Directory"),
    "volume: {secret: {}}": ("volumes.0.secret", "secretName is missing"),
    "volume: {secret: {secretName: a, defaultMode: 512}}": ("secret.defaultMode", "octal 0777"),
    "volume: {secret: {secretName: a, items: [{key: a, path: /b}]}}": ("items.0.path", "a relative path"),
    "volume: {secret: {secretName: a, items: [{key: a, path: ..b}]}}": ("items.0.path", "does not begin with .."),
    "volume: {secret: {secretName: a, items: [{key: a}]}}": ("items.0", "path is missing"),
    "volume: {configMap: {}}": ("volumes.0.configMap", "name is missing"),
    "volume: {configMap: {name: a, items: [{key: a, path: b/../c}]}}": ("items.0.path", "without .."),
    "volume: {configMap: {name: a, items: [{key: a, path: b, mode: -1}]}}": ("items.0.mode", "octal 0777"),
    "volume: {persistentVolumeClaim: {}}": ("persistentVolumeClaim", "claimName is missing"),
    "volume: {persistentVolumeClaim: {claimName: ''}}": ("persistentVolumeClaim", "claimName"),
    "volume: {nfs: {server: a, path: b}}": ("nfs.path", "an absolute path"),
    "volume: {nfs: {server: '', path: /b}}": ("nfs", "server is missing"),
    "volume: {csi: {}}": ("volumes.0.csi", "driver is missing"),
    "volume: {csi: {driver: a_b}}": ("csi.driver", "the name of a CSI driver"),
    "volume: {csi: {driver: a.b, nodePublishSecretRef: {name: A_B}}}": ("nodePublishSecretRef.name", "a name of a-z"),
    "volume: {ephemeral: {}}": ("ephemeral", "volumeClaimTemplate is missing"),
    "volume: {ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}}": (
        "volumeClaimTemplate.spec",
        "storage is missing",
    ),
    "volume: {csi: {driver: a.b, nodePublishSecretRef: {}}}": ("csi.nodePublishSecretRef", "name is missing"),
    "volume: {gitRepo: {repository: a, directory: ../b}}": ("gitRepo.directory", "without .."),
    "volume: {quobyte: {registry: a, volume: b}}": ("quobyte.registry", "HOST:PORT"),
    "volume: {cinder: {volumeID: a, secretRef: {}}}": ("cinder.secretRef", "name is missing"),
    "volume: {ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b c}}, spec: {accessModes: [ReadWriteOnce], "
    "resources: {requests: {storage: 1Gi}}}}}}": ("metadata.labels.a", "a label's value"),
    "claim: {dataSourceRef: {kind: A, name: a, apiGroup: A_B}}": ("dataSourceRef.apiGroup", "a name of a-z"),
    "claim: {dataSourceRef: {kind: A, name: a, apiGroup: a.b, namespace: B_}}": ("dataSourceRef.namespace", "DNS-1123 label"),
    "claim: {volumeMode: Blok}": ("spec.volumeMode", "did you mean 'Block'?"),
    "{volumes: [{name: data, persistentVolumeClaim: {claimName: a}}], containers: [{name: pytorch, volumeDevices: "
    "[{name: data, devicePath: /dev/x}], volumeMounts: [{name: data, mountPath: /a}]}]}": (
        "volumeMounts.0",
        "in volumeDevices too",
    ),
    "{volumes: [{name: data, persistentVolumeClaim: {claimName: a}}], containers: [{name: pytorch, volumeDevices: "
    "[{name: data, devicePath: /dev/../x}]}]}": ("volumeDevices.0.devicePath", "without .."),
    "claim: {accessModes: []}": ("volumeClaimTemplate.spec", "accessModes is missing"),
    "claim: {accessModes: [ReadWriteMost]}": ("spec.accessModes.0", "did you mean"),
    "claim: {accessModes: [ReadWriteOncePod, ReadWriteMany]}": ("spec.accessModes", "valid alone"),
    "claim: {storageClassName: A_B}": ("spec.storageClassName", "a name of a-z"),
    "claim: {resources: {requests: {storage: 0}}}": ("requests.storage", "above 0"),
    "claim: {dataSource: {kind: Snapshot, name: a}}": ("spec.dataSource", "without apiGroup"),
    "claim: {selector: {matchExpressions: [{key: a, operator: In}]}}": ("matchExpressions.0", "without values"),
    "volume: {image: {}}": ("volumes.0.image", "reference is missing"),
    "volume: {downwardAPI: {items: [{path: a}]}}": ("downwardAPI.items.0", "neither fieldRef nor resourceFieldRef"),
    "volume: {downwardAPI: {items: [{path: a, fieldRef: {fieldPath: spec.nodeName}}]}}": (
        "fieldRef.fieldPath",
        "metadata.labels",
    ),
    "volume: {downwardAPI: {items: [{path: a, resourceFieldRef: {resource: limits.cpu}}]}}": (
        "resourceFieldRef",
        "containerName is missing",
    ),
    "volume: {projected: {sources: [{secret: {name: a}, configMap: {name: a}}]}}": ("projected.sources.0", "one is valid"),
    "volume: {projected: {sources: [{secret: {items: [{key: a, path: b}]}}]}}": (
        "projected.sources.0.secret",
        "name is missing",
    ),
    "volume: {projected: {sources: [{secret: {name: a, items: [{key: a, path: b}]}}, "
    "{configMap: {name: a, items: [{key: a, path: b}]}}]}}": (
        "projected.sources.1.configMap.items.0.path",
        "twice",
    ),
    "volume: {projected: {sources: [{serviceAccountToken: {path: a, expirationSeconds: 60}}]}}": (
        "expirationSeconds",
        "from 600",
    ),
    "volume: {projected: {sources: [{serviceAccountToken: {path: /a}}]}}": ("serviceAccountToken.path", "a relative path"),
    "volume: {iscsi: {targetPortal: a, iqn: b, lun: 0}}": ("iscsi.iqn", "begins with iqn"),
    "volume: {iscsi: {targetPortal: a, iqn: eui.0123456789abcdef, lun: 256}}": ("iscsi.lun", "from 0 to 255"),
    "volume: {fc: {targetWWNs: [a]}}": ("volumes.0.fc", "lun is missing"),
    "volume: {fc: {}}": ("volumes.0.fc", "neither targetWWNs nor wwids"),
    "volume: {flexVolume: {driver: a/b, options: {kubernetes.io/x: y}}}": (
        "flexVolume.options.kubernetes.io/x",
        "Kubernetes' own",
    ),
    "volume: {azureDisk: {diskName: a, diskURI: b, kind: Managed}}": ("azureDisk.diskURI", "/subscriptions/"),
    "volume: {gcePersistentDisk: {pdName: a, partition: 256}}": ("gcePersistentDisk.partition", "from 0 to 255"),
    "main: {volumeMounts: [{name: dta, mountPath: /data}]}": ("volumeMounts.0", "no volume 'dta'"),
    "main: {volumeMounts: [{name: tmp, mountPath: /data, subPath: ../b}]}": ("volumeMounts.0.subPath", "without .."),
    "main: {volumeMounts: [{name: tmp, mountPath: /data, subPath: /b}]}": ("volumeMounts.0.subPath", "a relative path"),
    "main: {volumeMounts: [{name: tmp, mountPath: /data, subPath: b, subPathExpr: c}]}": (
        "volumeMounts.0",
        "one of them is valid",
    ),
    "main: {volumeMounts: [{name: tmp, mountPath: /data, mountPropagation: Bidirectional}]}": (
        "mountPropagation",
        "privileged: true",
    ),
    "main: {volumeMounts: [{name: tmp, mountPath: /data, recursiveReadOnly: Enabled}]}": (
        "recursiveReadOnly",
        "readOnly: true",
    ),
    "main: {volumeMounts: [{name: tmp, mountPath: /data}, {name: tmp, mountPath: /data}]}": (
        "volumeMounts.1",
        "twice in this list",
    ),
    "main: {volumeMounts: [{name: tmp, mountPath: ''}]}": ("volumeMounts.0", "mountPath"),
    "main: {volumeDevices: [{name: tmp, devicePath: /dev/x}]}": ("volumeDevices.0", "which is no claim"),
    "main: {volumeDevices: [{name: other, devicePath: /dev/x}]}": ("volumeDevices.0", "no volume 'other'"),
    # Init containers, sidecars, probes.
    "initContainers: [{name: i}]": ("initContainers.0", "image is missing"),
    "initContainers: [{name: A_B, image: x}]": ("initContainers.0.name", "DNS-1123 label"),
    "initContainers: [{name: pytorch, image: x}]": ("initContainers.0.name", "another container has"),
    "init: {ports: [{containerPort: 80, hostPort: 1}, {containerPort: 81, hostPort: 1}]}": ("ports.1.hostPort", "1 twice"),
    "init: {restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]}": (
        "restartPolicyRules",
        "without restartPolicy",
    ),
    "init: {restartPolicy: Never, restartPolicyRules: [{action: Stop, exitCodes: {operator: In, values: [1]}}]}": (
        "action",
        "Restart",
    ),
    "init: {restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [5, 5]}}]}": (
        "exitCodes.values.1",
        "5 twice",
    ),
    "init: {restartPolicy: Never, restartPolicyRules: [{action: Restart}]}": ("restartPolicyRules.0", "exitCodes is missing"),
    "init: {restartPolicy: Sometimes}": ("initContainers.0.restartPolicy", "Always"),
    "init: {livenessProbe: {exec: {command: [a]}}}": ("initContainers.0.livenessProbe", "without restartPolicy: Always"),
    "init: {lifecycle: {preStop: {exec: {command: [a]}}}}": ("initContainers.0.lifecycle", "without restartPolicy: Always"),
    "init: {ports: [{containerPort: 0}]}": ("ports.0.containerPort", "from 1 to 65535"),
    "init: {ports: [{containerPort: 70000}]}": ("ports.0.containerPort", "from 1 to 65535"),
    "init: {ports: [{containerPort: 80, name: A}]}": ("ports.0.name", "a port's name"),
    "init: {ports: [{containerPort: 80, name: a-much-too-long-name}]}": ("ports.0.name", "a port's name"),
    "init: {ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a}]}": ("ports.1.name", "twice"),
    "init: {ports: [{containerPort: 80, protocol: HTTP}]}": ("ports.0.protocol", "TCP"),
    "init: {imagePullPolicy: Sometimes}": ("imagePullPolicy", "IfNotPresent"),
    "main: {livenessProbe: {}}": ("livenessProbe", "found nothing to do"),
    "main: {livenessProbe: {exec: {command: []}}}": ("livenessProbe.exec", "command is missing"),
    "main: {livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}}": ("livenessProbe", "found exec and tcpSocket"),
    "main: {livenessProbe: {exec: {command: [a]}, successThreshold: 2}}": ("livenessProbe.successThreshold", "1 is valid"),
    "main: {livenessProbe: {exec: {command: [a]}, periodSeconds: -1}}": ("livenessProbe.periodSeconds", "from 0"),
    "main: {livenessProbe: {tcpSocket: {port: 0}}}": ("livenessProbe.tcpSocket.port", "from 1 to 65535"),
    "main: {livenessProbe: {httpGet: {port: '80'}}}": ("livenessProbe.httpGet.port", "a port's name"),
    "main: {livenessProbe: {grpc: {port: 0}}}": ("livenessProbe.grpc.port", "from 1 to 65535"),
    "main: {livenessProbe: {httpGet: {port: http_port}}}": ("livenessProbe.httpGet.port", "a port's name"),
    "main: {livenessProbe: {httpGet: {port: 80, scheme: FTP}}}": ("livenessProbe.httpGet.scheme", "HTTP"),
    "main: {livenessProbe: {httpGet: {port: 80, httpHeaders: [{name: a b, value: c}]}}}": (
        "httpHeaders.0.name",
        "a header's name",
    ),
    "main: {readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 5}}": (
        "terminationGracePeriodSeconds",
        "take it out",
    ),
    "main: {startupProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 0}}": (
        "terminationGracePeriodSeconds",
        "1 or more",
    ),
    "main: {lifecycle: {preStop: {sleep: {seconds: 100000}}}}": (
        "lifecycle.preStop.sleep.seconds",
        "terminationGracePeriodSeconds, is valid",
    ),
    "main: {lifecycle: {preStop: {}}}": ("lifecycle.preStop", "found nothing to do"),
    "main: {lifecycle: {preStop: {sleep: {seconds: -1}}}}": ("lifecycle.preStop.sleep.seconds", "found -1"),
    # Kueue's webhooks.
    "metadata: {annotations: {kueue.x-k8s.io/podset-unconstrained-topology: maybe}}": (
        "podset-unconstrained-topology",
        "true or false",
    ),
    "metadata: {annotations: {kueue.x-k8s.io/podset-group-name: '5', kueue.x-k8s.io/podset-required-topology: a}}": (
        "podset-group-name",
        "that is no number",
    ),
    "metadata: {annotations: {kueue.x-k8s.io/podset-slice-size: '2', kueue.x-k8s.io/podset-slice-required-topology: a}}": (
        "podset-slice-size",
        "more than 1, the pods of the job",
    ),
    "metadata: {annotations: {kueue.x-k8s.io/podset-required-topology: a b}}": ("podset-required-topology", "such as team"),
    "metadata: {annotations: {kueue.x-k8s.io/podset-required-topology: a, kueue.x-k8s.io/podset-preferred-topology: a}}": (
        "podset-preferred-topology",
        "one of them is valid",
    ),
    "metadata: {annotations: {kueue.x-k8s.io/podset-slice-size: '2'}}": ("podset-slice-size", "they go together"),
}
"""What the API server, the operator's webhook or Kueue's refuses, with the place and words of ours."""
STRICTER: dict[str, tuple[str, str]] = {
    "terminationGracePeriodSeconds: -1": ("terminationGracePeriodSeconds", "0 or more"),
    "imagePullSecrets: [{name: Bad_Name}]": ("imagePullSecrets.0.name", "a name of a-z"),
    "volume: {}": ("spec.volumes.0", "found no source"),
    "spread: {matchLabelKeys: [a], labelSelector: {matchLabels: {a: b}}}": ("matchLabelKeys.0", "labelSelector names too"),
    "volume: {projected: {sources: [{clusterTrustBundle: {path: a}}]}}": ("clusterTrustBundle", "one of name and signerName"),
    "volume: {secret: {secretName: a, items: [{key: a b, path: c}]}}": ("items.0.key", "a key of letters"),
    "main: {resources: {limits: {rdma/ib: 0.9999}}}": ("resources.limits.rdma/ib", "a whole number"),
    "main: {lifecycle: {stopSignal: SIGFOO}}": ("lifecycle.stopSignal", "SIGIO"),
    'init: {args: ["a\\0b"]}': ("initContainers.0.args.0", "without a NUL"),
    'init: {env: [{name: A, value: "a\\0b"}]}': ("initContainers.0.env.0.value", "without a NUL"),
    "volume: {emptyDir: {medium: Disk}}": ("emptyDir.medium", "Memory"),
    "volume: {persistentVolumeClaim: {claimName: data..v1}}": ("claimName", "a name of a-z"),
    "volume: {secret: {secretName: Bad_Name}}": ("secretName", "a name of a-z"),
    "volume: {configMap: {name: Bad_Name}}": ("configMap.name", "a name of a-z"),
    "main: {volumeMounts: [{name: tmp, mountPath: data}]}": ("volumeMounts.0.mountPath", "an absolute path without :"),
    "main: {volumeMounts: [{name: tmp, mountPath: '/a:b'}]}": ("volumeMounts.0.mountPath", "an absolute path without :"),
    "main: {securityContext: {capabilities: {add: [CAP_IPC_LOCK]}}}": (
        "capabilities.add.0",
        "IPC_LOCK, without CAP_, is valid",
    ),
    "main: {securityContext: {capabilities: {add: [IPC_LOK]}}}": ("capabilities.add.0", "did you mean 'IPC_LOCK'?"),
    "initContainers: [{name: i, image: Site/Proxy}]": ("initContainers.0.image", "in small letters"),
    "initContainers: [{name: i, image: 'proxy@sha256:abc'}]": ("initContainers.0.image", "an image such as"),
    "init: {resources: {limits: {cpu: 80Gi}}}": ("resources.limits.cpu", "a size of memory"),
    "init: {resources: {limits: {memory: 100m}}}": ("resources.limits.memory", "0.1 bytes"),
    "init: {resources: {limits: {cpu: 0.0001}}}": ("resources.limits.cpu", "the smallest part"),
    "securityContext: {runAsUser: 0}": ("pod.spec.securityContext.runAsUser", "`runAsNonRoot: false` beside it"),
    "main: {securityContext: {runAsUser: 0}}": ("containers.0.securityContext.runAsUser", "`runAsNonRoot: false` beside it"),
    "init: {securityContext: {runAsUser: 0}}": ("initContainers.0.securityContext.runAsUser", "found 0, root"),
    "{securityContext: {runAsNonRoot: false}, containers: [{name: pytorch, securityContext: {runAsUser: 0, runAsNonRoot: "
    "true}}]}": ("containers.0.securityContext.runAsUser", "found 0, root"),
    "node: {key: a, operator: Gt, values: [many]}": ("matchExpressions.0.values.0", "found 'many' for operator Gt"),
    "node: {key: a, operator: Lt, values: ['1.5']}": ("matchExpressions.0.values.0", "found '1.5' for operator Lt"),
    "preferred: {weight: 1, preference: {matchExpressions: [{key: a, operator: Lt, values: [x]}]}}": (
        "preference.matchExpressions.0.values.0",
        "a whole number is valid",
    ),
}
"""What the server takes, and no kubelet can run, or nobody can mean."""
TAKEN = (
    "{}",
    "metadata: {labels: {Team: A_b.c, example.com/Team_x: ''}, annotations: {example.com/A_b: any thing}}",
    f"metadata: {{labels: {{{'a' * 63}: {'b' * 63}}}}}",
    "metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/pytorch: runtime/default}}",
    "metadata: {annotations: {controller.kubernetes.io/pod-deletion-cost: '-5'}}",
    "metadata: {annotations: {kueue.x-k8s.io/podset-required-topology: cloud.google.com/gce-topology-block}}",
    "metadata: {annotations: {kueue.x-k8s.io/podset-slice-size: '1', kueue.x-k8s.io/podset-slice-required-topology: a}}",
    "serviceAccountName: a.b",
    "{serviceAccountName: '', priorityClassName: '', nodeName: ''}",
    "schedulerName: my_Scheduler",
    "{priority: 0, preemptionPolicy: PreemptLowerPriority}",
    "activeDeadlineSeconds: 1",
    "terminationGracePeriodSeconds: 3600",
    "{dnsPolicy: None, dnsConfig: {nameservers: ['1.1.1.1', '2001:db8::1'], "
    "searches: [svc.cluster.local., a_b], options: [{name: ndots}]}}",
    "hostAliases: [{ip: '2001:db8::1', hostnames: [a.b]}]",
    "schedulingGates: [{name: example.com/gate}]",
    "os: {name: linux}",
    "hostUsers: false",
    "{hostNetwork: true, hostPID: true, hostIPC: true}",
    "{shareProcessNamespace: true, setHostnameAsFQDN: false}",
    "resources: {requests: {cpu: 100}, limits: {cpu: 200}}",
    "{resourceClaims: [{name: gpu, resourceClaimTemplateName: gpus}], "
    "containers: [{name: pytorch, resources: {claims: [{name: gpu}]}}]}",
    "nodeSelector: {example.com/A: B.c, x: ''}",
    "tolerations: [{operator: Exists}, {key: a, value: b, effect: NoSchedule}, {key: a}, {key: b, operator: Equal, value: ''}]",
    "tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: -5}]",
    "spread: {labelSelector: {matchLabels: {a: b}}, matchLabelKeys: [c], minDomains: 2, nodeTaintsPolicy: Honor}",
    "spread: {topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, maxSkew: 100}",
    "node: {key: a, operator: Gt, values: ['5']}",
    "securityContext: {runAsUser: 0, runAsNonRoot: false}",
    "main: {securityContext: {runAsUser: 0, runAsNonRoot: false}}",
    "{securityContext: {runAsUser: 0}, containers: [{name: pytorch, securityContext: {runAsUser: 5}}]}",
    "node: {key: a, operator: DoesNotExist}",
    "field: {key: metadata.name, operator: NotIn, values: [node-1]}",
    "preferred: {weight: 100, preference: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}",
    "pods: {topologyKey: a, namespaces: [b], namespaceSelector: {}, "
    "labelSelector: {matchLabels: {a: b}}, mismatchLabelKeys: [a]}",
    "securityContext: {runAsUser: 2147483647, supplementalGroups: [0], fsGroupChangePolicy: Always, "
    "seLinuxChangePolicy: Recursive}",
    "securityContext: {seccompProfile: {type: Localhost, localhostProfile: a/b.json}}",
    "securityContext: {sysctls: [{name: net/core/somaxconn, value: '1'}, {name: kernel.shm_rmid_forced, value: '1'}]}",
    "main: {securityContext: {capabilities: {add: [IPC_LOCK, sys_ptrace]}}}",
    "main: {securityContext: {privileged: true, allowPrivilegeEscalation: true}}",
    "main: {resources: {limits: {rdma/ib: '1.0', a.b/c: 1k, kubernetes.io/x: 1}}}",
    "main: {resources: {limits: {hugepages-2Mi: 1Ei, hugepages-1Gi: 0}}}",
    "main: {resources: {limits: {hugepages-2Mi: 4Mi, hugepages-1Gi: 1024Mi}}}",
    "init: {resources: {requests: {memory: 1e3, cpu: .5, ephemeral-storage: 1E}, limits: {cpu: 1., memory: 0.5Mi}}}",
    "init: {resources: {requests: {memory: +5, cpu: 1E0}, limits: {memory: 5e0, cpu: 1000m}}}",
    "main: {resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}",
    "env: {valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['a.b/C']\"}}}",
    "env: {valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIPs}}}",
    "env: {valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}",
    "env: {valueFrom: {resourceFieldRef: {resource: requests.hugepages-2Mi, divisor: 1Mi}}}",
    "env: {valueFrom: {secretKeyRef: {name: a.b, key: _.A, optional: true}}}",
    "env: {value: '', valueFrom: {configMapKeyRef: {name: a, key: b}}}",
    "main: {envFrom: [{prefix: A_, configMapRef: {name: a}}]}",
    "init: {env: [{name: 'a.b-c', value: d}]}",
    "volume: {hostPath: {path: a, type: ''}}",
    "volume: {emptyDir: {sizeLimit: 0, medium: HugePages-2Mi}}",
    "volume: {secret: {secretName: a, defaultMode: 0, items: [{key: a, path: b/c, mode: 511}]}}",
    "volume: {configMap: {name: a.b, optional: true}}",
    "volume: {persistentVolumeClaim: {claimName: data.v1, readOnly: true}}",
    "volume: {nfs: {server: a, path: /}}",
    "volume: {csi: {driver: GcsFuse.csi, nodePublishSecretRef: {name: a}}}",
    "claim: {}",
    "claim: {storageClassName: '', volumeMode: Filesystem, selector: {matchLabels: {a: b}}}",
    "claim: {dataSource: {kind: PersistentVolumeClaim, name: a}}",
    "volume: {image: {reference: a, pullPolicy: Always}}",
    "volume: {downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.labels}}]}}",
    "volume: {projected: {sources: [{}, {serviceAccountToken: {path: a}}, {secret: {name: a}}]}}",
    "volume: {projected: {sources: [{clusterTrustBundle: {name: a, path: b}}]}}",
    "main: {volumeMounts: [{name: tmp, mountPath: /a, subPath: a..b}, "
    "{name: tmp, mountPath: /a/, readOnly: true, recursiveReadOnly: IfPossible}]}",
    "init: {restartPolicy: Always, startupProbe: {httpGet: {port: http}}, lifecycle: {preStop: {sleep: {seconds: 0}}}}",
    "init: {ports: [{containerPort: 80, hostPort: 8080, name: a-1}, {containerPort: 81}]}",
    "main: {readinessProbe: {grpc: {port: 1}, successThreshold: 3}, livenessProbe: {tcpSocket: {port: pytorchjob-port}}}",
    "init: {restartPolicy: OnFailure, restartPolicyRules: [{action: Restart, exitCodes: {operator: NotIn, values: [1, 255]}}]}",
    "init: {resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}",
    "env: {valueFrom: {fileKeyRef: {volumeName: tmp, path: a, key: b}}}",
    "dnsConfig: {searches: ['.', _a._b]}",
    "main: {resources: {limits: {rdma/ib: 0, a.b/c: 1E, d.e/f: 1e100}}}",
    "volume: {projected: {sources: [{serviceAccountToken: {path: a}}, {secret: {name: a, items: [{key: b, path: a}]}}]}}",
    "main: {volumeMounts: [{name: tmp, mountPath: /tmp/, subPath: ''}]}",
    "main: {livenessProbe: {httpGet: {port: 80, path: ''}, successThreshold: 0}}",
    "{volumes: [{name: data, persistentVolumeClaim: {claimName: a}}], containers: [{name: pytorch, volumeDevices: "
    "[{name: data, devicePath: dev/x}]}]}",
    "{hostNetwork: true, initContainers: [{name: i, image: x, ports: [{containerPort: 80, hostPort: 81}]}]}",
    "metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: runtime/default}}",
    "metadata: {annotations: {kueue.x-k8s.io/podset-group-name: g, kueue.x-k8s.io/podset-required-topology: a}}",
    "initContainers: [{name: i, image: 'Site.example:5000/a/b_c:V1.2'}]",
)
"""What both take."""


def fragment(text: str) -> dict[str, Any]:
    """A case as the fragment of a pod's template."""
    said = yaml.safe_load(text)
    metadata = said.pop("metadata", None)
    spec: dict[str, Any] = {}
    for key, value in said.items():
        match key:
            case "main":
                spec["containers"] = [{"name": CONTAINER, **value}]
            case "env":
                spec["containers"] = [{"name": CONTAINER, "env": [{"name": "A", **value}]}]
            case "init":
                spec["initContainers"] = [{"name": "first", "image": "proxy:1", **value}]
            case "volume":
                spec["volumes"] = [{"name": "data", **value}]
            case "claim":
                whole = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **value}
                spec["volumes"] = [{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": whole}}}]
            case "spread":
                one = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", **value}
                spec["topologySpreadConstraints"] = [one]
            case "node" | "field":
                terms = [{"matchExpressions" if key == "node" else "matchFields": [value]}]
                spec["affinity"] = {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
                }
            case "preferred":
                spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [value]}}
            case "pods":
                spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [value]}}
            case _:
                spec[key] = value
    return {"spec": spec} | ({"metadata": metadata} if metadata else {})
