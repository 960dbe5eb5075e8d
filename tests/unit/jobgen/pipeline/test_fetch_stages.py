"""Stages that fetch, in a pipeline file."""

import re
from pathlib import Path
from typing import Any

import pytest

from jobgen.manifests import render
from jobgen.pipeline import spec
from jobgen.pipeline.plan import Step, plan
from minima.errors import UsageError

COMMIT, DIGEST = "a" * 40, "b" * 64
PIPELINE = f"""\
name: p
image: minima:cpu
workspace: {{claim: w, path: /workspace}}
stages:
  llama:
    verb: fetch
    pool: cpu
    options:
      source: hf://org/name@{COMMIT}
      layer: 32
      hidden: 4096
      head: 32
      intermediate: 11008
      vocab_size: 32000
  records:
    verb: fetch
    pool: cpu
    options:
      source: [https://host:8443/a.tfrecord@sha256:{DIGEST}, "b=s3://bucket/b@sha256:{DIGEST}"]
  adapt:
    pool: a100-8
    options:
      model_name_or_path: ${{llama}}
      record_path_or_regex: ${{records}}/b/train-*.tfrecord
      global_batch_size: 8
      use_bf16: true
"""


def steps(old: str = "", new: str = "") -> dict[str, Step]:
    assert old in PIPELINE
    return {step.name: step for step in plan(spec.parse(PIPELINE.replace(old, new), "p.yaml"))}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('exclude: ["*"]', "exclude: * leaves nothing of *; take out what is wanted"),
        ('exclude: ["**/*"]\n      include: ["a/*.json"]', "exclude: **/* leaves nothing of a/*.json"),
        (
            'exclude: ["*.json", "*.txt"]\n      include: ["a.json", "*.txt"]',
            "exclude: *.json, *.txt leaves nothing of a.json, *.txt",
        ),
        ('unpack: true\n      include: ["*.json"]', "unpack: `include` names no archive (.zip, .tar, "),
    ],
)
def test_what_leaves_nothing_is_said(options: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        steps("      layer: 32\n", f"      {options}\n      layer: 32\n")
    (line,) = str(caught.value).splitlines()
    assert f"stages.llama.options.{said}" in line


@pytest.mark.parametrize(
    "options",
    [
        'exclude: ["*.bin"]',
        'exclude: ["*"]\n      include: ["data/*"]',
        'exclude: ["?.json"]\n      include: ["*.json"]',
        'exclude: ["*/a.json"]\n      include: ["**/a.json"]',
        "unpack: true",
        'unpack: true\n      include: ["a.zip", "*.json"]',
    ],
)
def test_what_may_leave_something_is_taken(options: str) -> None:
    assert steps("      layer: 32\n", f"      {options}\n      layer: 32\n")


def test_a_file_of_the_web_that_is_no_archive_is_not_unpacked() -> None:
    old = f'source: [https://host:8443/a.tfrecord@sha256:{DIGEST}, "b=s3://bucket/b@sha256:{DIGEST}"]'
    with pytest.raises(UsageError, match=r"options\.unpack: the source names no archive"):
        steps(old, f"source: https://host/a.tfrecord@sha256:{DIGEST}\n      unpack: true")
    assert steps(old, f"source: [https://host/a.tar.gz@sha256:{DIGEST}, 'b=s3://bucket/b@sha256:{DIGEST}']\n      unpack: true")


def test_its_shape_is_known_and_its_artifact_read_at_any_path() -> None:
    found = steps()
    assert found["adapt"].memory
    assert found["adapt"].needs == ("llama", "records")
    assert found["adapt"].options.record_path_or_regex == (f"{found['records'].output_dir}/b/train-*.tfrecord",)  # type: ignore[attr-defined]


def test_what_pins_the_content_is_the_key_and_the_shape_and_the_place_are_not() -> None:
    keys = {name: step.key for name, step in steps().items()}
    assert {n: s.key for n, s in steps("s3://bucket/b@", "https://mirror/b@").items()} == keys
    assert {n: s.key for n, s in steps("layer: 32", "layer: 31").items()} == keys
    assert steps(COMMIT, "c" * 40)["adapt"].key != keys["adapt"]
    assert steps(DIGEST, "c" * 64)["adapt"].key != keys["adapt"]
    assert steps('"b=s3', '"c=s3')["records"].key != keys["records"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"@{COMMIT}", "", "p.yaml:9: stages.llama.options.source: found 'hf://org/name': which commit is missing"),
        (
            "https://host",
            "https://joe:hunter2@host",
            "p.yaml:19: stages.records.options.source: found a credential in https://host/",
        ),
        ("https://host:8443", "/mnt", "p.yaml:19: stages.records.options.source: found /mnt/a.tfrecord, which no pod sees"),
        ("      head: 32\n", "", "p.yaml:8: stages.llama.options.head: a model's shape needs head too"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        steps(old, new)
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def test_its_pods_may_ask_the_hub() -> None:
    pipeline = spec.parse(PIPELINE, "p.yaml")

    def variables(step: Step) -> set[str]:
        job: dict[str, Any] = render.job(pipeline, step)
        (replica,) = job["spec"]["pytorchReplicaSpecs"].values()
        return {each["name"] for each in replica["template"]["spec"]["containers"][0]["env"]}

    found = {step.name: variables(step) for step in plan(pipeline)}
    assert {name for name, names in found.items() if "HF_HUB_OFFLINE" in names} == {"adapt"}
    assert steps()["records"].options.asks() == {8443, 443, 80}


def test_what_the_page_on_networks_shows_is_valid() -> None:
    page = (Path(__file__).parents[4] / "docs" / "network.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(stages:.*?)^```", page, re.MULTILINE | re.DOTALL)
    (step,) = plan(spec.parse("name: p\nimage: minima:train\nworkspace: {claim: w, path: /workspace}\n" + shown, "p.yaml"))
    job: dict[str, Any] = render.job(spec.parse(PIPELINE, "p.yaml"), step)
    container = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/site/ca.crt"} in container["env"]
