"""The whole smoke pipeline as pods, watched by a program that is interrupted and started again."""

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from jobgen.pipeline import plan, spec
from tests.cluster.conftest import wait

pytestmark = [pytest.mark.cluster]


def test_the_whole_pipeline_as_pods(cluster: Any) -> None:
    command = [sys.executable, "-m", "jobgen", "run", "smoke", "--namespace", cluster.namespace]
    began = time.monotonic()
    watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait("the second stage", lambda: cluster.jobs("minima/stage=expand-vocab"))
    watching.send_signal(signal.SIGTERM)
    watching.wait(30)
    done = subprocess.run([*command, "-v"], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is at work already" in done.stderr
    table = done.stdout
    steps = plan.plan(spec.load("smoke"))
    assert all(f"{step.output_dir}\n" in table for step in steps)
    before, after = next(line.split()[1:] for line in table.splitlines() if line.startswith("distill  ") and "/" not in line)
    assert float(after.replace(",", "")) < float(before.replace(",", ""))
    for what in ("adapt", "finetune-lora", "smoke_english", "smoke_chinese", "dev_perplexity", "evaluate: asked"):
        assert what in table
    (job,) = cluster.jobs("minima/pipeline=smoke,minima/stage=distill")
    assert all(f"distill/{job['metadata']['name']}-worker-{number} | " in done.stderr for number in (0, 1))
    print(f"the whole pipeline took {time.monotonic() - began:.0f} s")
