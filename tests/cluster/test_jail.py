"""Programs that a model wrote, run in a pod of the level `restricted`: what the jail of the evaluation refuses there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import SHORT, execute

pytestmark = pytest.mark.cluster

PROGRAM = """
import json, os, pathlib
from minima.evaluation import sandbox
sandbox.check()
secret = pathlib.Path("/workspace/secret")
secret.write_text("s")
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
libc = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\\n"
raised = " < 0: raise OSError(ctypes.get_errno(), 'refused')"
programs = {
    "a right answer": "def f(n: int) -> int:\\n    return n + 1\\nassert f(1) == 2",
    "a fork bomb": "import os\\nwhile True: os.fork()",
    "a fork bomb by the kernel": libc + "while True:\\n    if libc.syscall(57)" + raised,
    "a thread bomb": "import threading\\nwhile True: threading.Thread(target=print).start()",
    "a network call": f"import socket; socket.create_connection(({host!r}, {port}))",
    "a network call by the kernel": libc + "if libc.syscall(41, 2, 1, 0)" + raised,
    "a read of the workspace": "open('/workspace/secret').read()",
    "a read of the workspace by the kernel": libc + "if libc.syscall(257, -100, b'/workspace/secret', 0)" + raised,
    "a write to the workspace": "open('/workspace/more', 'w')",
    "its token": "open('/var/run/secrets/kubernetes.io/serviceaccount/token')",
    "its parent": "import os; os.kill(os.getppid(), 9)",
}
print(json.dumps({what: vars(sandbox.run(program, seconds=60)) for what, program in programs.items()}))
assert os.listdir("/workspace") == ["secret"], os.listdir("/workspace")
"""


def test_what_a_program_may_do_in_a_restricted_pod(cluster: Any) -> None:
    said = json.loads(execute(cluster, "minima:cpu", ["python", "-c", PROGRAM]))
    refused = "PermissionError: [Errno 1]"
    assert said.pop("a right answer") == {"passed": True, "reason": ""}
    assert said.pop("a thread bomb")["reason"].startswith("RuntimeError: can't start new thread")
    assert said.pop("a network call")["reason"].startswith("ModuleNotFoundError")
    assert {what: verdict["reason"][: len(refused)] for what, verdict in said.items()} == dict.fromkeys(said, refused)
    assert not any(verdict["passed"] for verdict in said.values())


@pytest.mark.long
def test_humaneval_as_a_stage(cluster: Any, jobgen: Callable[..., Any], tmp_path: Path) -> None:
    """The paper's protocol on a model that knows nothing: three programs are written and run, none passes."""
    copied = "import shutil; shutil.copytree('tests/fixtures/benchmarks', '/workspace/benchmarks', dirs_exist_ok=True)"
    execute(cluster, "minima:cpu", ["python", "-c", copied])
    document = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    options: dict[str, Any] = {"model_name_or_path": "${init-model}/model", "data_dir": "${benchmarks}"}
    options |= {"tasks": ["humaneval", "gsm8k"], "protocol": "paper"}
    document["name"] = "jailed"
    document["inputs"] = {"benchmarks": "${workspace}/benchmarks"}
    document["stages"] = {"init-model": document["stages"]["init-model"], "evaluate": {"pool": "small", "options": options}}
    place = tmp_path / "jailed.yaml"
    place.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    said = jobgen("run", str(place)).stdout
    assert re.search(r"humaneval +0\.000\nhumaneval_items +3\n", said), said
