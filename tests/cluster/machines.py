"""Nodes of KWOK as providers document theirs: labels, taints, and what is left for pods; sources stand in `jobgen/clusters`."""

from dataclasses import dataclass, field

from jobgen.pipeline.pools import DISK, GPU

UNSEEN = 0.075
"""Share of a machine's memory that no node offers: firmware, kernel, hypervisor. As Karpenter has it, for safety."""
DAEMONS = (1.0, 2.0)
"""CPUs and GiB that a node's DaemonSets ask for: network, storage, devices, metrics."""
TYPE = "node.kubernetes.io/instance-type"
EKS_DISK = 17
"""GiB left of the 20 that a node group has by default."""
TAINT = {"effect": "NoSchedule"}


@dataclass(frozen=True)
class Machine:
    """A kind of node: what is left of it for pods, and how it is told from others."""

    cpu: float
    memory: float
    """GiB."""
    labels: dict[str, str]
    taints: tuple[dict[str, str], ...] = ()
    resources: dict[str, str] = field(default_factory=dict)
    disk: int = 47
    """GiB of the node's own disk; that of a disk of 100 GB on GKE."""

    @property
    def allocatable(self) -> dict[str, str]:
        return {
            "cpu": f"{self.cpu:.2f}",
            "memory": f"{self.memory * 2**10:.0f}Mi",
            DISK: f"{self.disk}Gi",
            "pods": "110",
            "hugepages-2Mi": "0",
            **self.resources,
        }


def _shares(cpus: int) -> float:
    """CPUs that GKE and EKS keep for the node."""
    return 0.06 + 0.01 + 2 * 0.005 + (cpus - 4) * 0.0025


def _left(cpus: float, gib: float, kept: tuple[float, float], pages: float = 0) -> tuple[float, float]:
    return cpus - kept[0] - DAEMONS[0], gib * (1 - UNSEEN) - kept[1] - pages - DAEMONS[1]


def _gke(cpus: int, gib: float) -> tuple[float, float]:
    memory = 0.25 * 4 + 0.2 * 4 + 0.1 * 8 + 0.06 * 112 + 0.02 * max(0, gib - 128) + 100 / 1024
    return _left(cpus, gib, (_shares(cpus), memory))


def _eks(cpus: int, gib: float, pods: int, pages: float = 0) -> tuple[float, float]:
    return _left(cpus, gib, (_shares(cpus), (255 + 11 * pods + 100) / 1024), pages)


def _aks(cpus: int, gib: float) -> tuple[float, float]:
    return _left(cpus, gib, (0.1 + 0.01 * cpus, ((20 * 250 + 50) * 1e6 + 100 * 2**20) / 2**30))


def _p4(name: str) -> Machine:
    efa = {GPU: "8", "vpc.amazonaws.com/efa": "4", "hugepages-2Mi": f"{2 * 5128}Mi"}
    return Machine(*_eks(96, 1152, 737, 2 * 5128 / 1024), {TYPE: f"{name}.24xlarge"}, (), efa, EKS_DISK)


def _a2(name: str, gib: float, accelerator: str) -> Machine:
    labels = {"cloud.google.com/gke-accelerator": accelerator, TYPE: name}
    return Machine(*_gke(96, gib), labels, ({"key": GPU, "value": "present", **TAINT},), {GPU: "8"})


def _nd96(name: str, gib: float) -> Machine:
    taint = {"key": "sku", "value": "gpu", **TAINT}
    return Machine(*_aks(96, gib), {TYPE: f"Standard_{name}"}, (taint,), {GPU: "8", "rdma/ib": "8"})


PRESENT = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
PLAIN = Machine(*_left(64, 256, (0.5, 1)), {})
GKE_CPU = Machine(*_gke(48, 192), {TYPE: "n2-standard-48"})
AKS_CPU = Machine(*_aks(48, 192), {TYPE: "Standard_D48s_v5"})
EKS_CPU = Machine(*_eks(48, 192, 234), {TYPE: "m6i.12xlarge"}, disk=EKS_DISK)
NODES: dict[str, tuple[Machine, Machine]] = {
    "gke-a2-ultra": (_a2("a2-ultragpu-8g", 1360, "nvidia-a100-80gb"), GKE_CPU),
    "gke-a2-high": (_a2("a2-highgpu-8g", 680, "nvidia-tesla-a100"), GKE_CPU),
    "eks-p4d": (_p4("p4d"), EKS_CPU),
    "eks-p4de": (_p4("p4de"), EKS_CPU),
    "aks-nd96-a100": (_nd96("ND96amsr_A100_v4", 1900), AKS_CPU),
    "aks-nd96-a100-40": (_nd96("ND96asr_v4", 900), AKS_CPU),
    "openshift": (Machine(*_left(96, 1024, (0.5, 1)), PRESENT, (), {GPU: "8"}), PLAIN),
    "bare-metal-ib": (
        Machine(*_left(128, 1024, (0, 0.1)), PRESENT, (), {GPU: "8", "rdma/rdma_shared_device_a": "63"}),
        Machine(*_left(64, 256, (0, 0.1)), {}),
    ),
    "kind": (Machine(8, 16, {}), Machine(8, 16, {})),
    "none": (Machine(*_left(96, 1024, (0, 0.1)), {}, ({"key": GPU, "value": "present", **TAINT},), {GPU: "8"}), PLAIN),
}
"""By profile: a node with 8 A100s, and one without, of a kind that takes the largest pods without GPUs; of kind's, alike."""
