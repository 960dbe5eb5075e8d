"""The tutorial's run as somebody writes it who has text, Chinese pieces and benchmarks on the volume already."""

import re

from jobgen.pipeline import spec

INPUTS = {
    "chinese-sp": "${workspace}/inputs/chinese_sp.model",
    "wudao": "${workspace}/inputs/wudao",
    "benchmarks": "${workspace}/inputs/benchmarks",
}


def on_the_volume() -> str:
    """minima-3b with inputs in place of the stages that fetch these."""
    text = spec.read("minima-3b")
    for stage in ("chinese-sp", "skypile", "benchmarks"):
        text, found = re.subn(rf"\n  {stage}:\n(?:    .*\n)+", "", text)
        assert found == 1
    text, found = re.subn(r"\$\{chinese-sp\}/\S+", "${chinese-sp}", text.replace("${skypile}/data", "${wudao}"))
    assert found == 1
    lines = "".join(f"  {name}: {path}\n" for name, path in INPUTS.items())
    return text.replace("\nstages:\n", f"\ninputs:\n{lines}\nstages:\n", 1)
