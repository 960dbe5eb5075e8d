"""`make gpu`: all parts on one machine, without network: `python3 -m tests.gpu OUTPUT --wheels FOLDER`.

Started with the Python that has torch; needs nothing else to be installed. Each part is a program with a time limit; the
table and the log are written anew after each, so that whatever happens leaves what was measured.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tests.gpu.part import OUT_OF_MEMORY

ROOT = Path(__file__).parents[2]
PARTS = {"doctor": 45, "pipeline": 200, "references": 40, "distill": 60, "adapt": 40, "cut": 40, "attention": 25}
"""Parts in their order, and seconds that are kept for each; one that ends early leaves its time to the next."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "RES_OPTIONS": "timeout:1 attempts:1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""All processes are on this machine; a name server that does not answer must not cost ten seconds for each question."""
SCALES = (1.0, 0.8, 0.6)
LEAST = 10
SCRIPT = "#!{python}\nimport sys\nfrom {program}.__main__ import main\nsys.exit(main())\n"


def environment(folder: Path, wheels: Path, log: TextIO) -> Path:
    """A Python that has the wheels, then all that this one has, then the source; returns its program."""
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # --system-site-packages would show those of the system alone: torch may itself lie in an environment.
    there = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "machine.pth").write_text("".join(f"{path}\n" for path in [*there, str(ROOT)]), encoding="utf-8")
    found = [str(wheel) for wheel in sorted(wheels.glob("*.whl")) if not wheel.name.startswith("flash_attn-")]
    if not found:
        raise SystemExit(f"{wheels}: no wheel there; `make gpu-wheels` on a machine with a network fills it")
    options = ["--no-index", "--no-deps", "--ignore-installed", "--no-compile", "--no-cache-dir", "--no-warn-script-location"]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, *found]
    if subprocess.run(command, check=False, stdout=log, stderr=log, timeout=120).returncode:
        raise SystemExit(f"the wheels cannot be installed: {' '.join(last_lines(Path(log.name)))}")
    for program in ("minima", "jobgen"):
        script = folder / "bin" / program
        script.write_text(SCRIPT.format(python=python, program=program), encoding="utf-8")
        script.chmod(0o755)
    return python


def run_part(name: str, python: Path, seconds: float, scale: float, chosen: argparse.Namespace, work: Path, log: TextIO) -> str:
    """Run one part, and say how it ended."""
    words = ["--device", chosen.device, "--seconds", str(seconds), "--scale", str(scale), "--work", str(work)]
    words += ["--wheels", str(chosen.wheels.absolute()), "--rows", str(chosen.output.absolute() / "rows.jsonl")]
    command = [str(python), "-m", "tests.gpu.part", name, *words]
    env = os.environ | OFFLINE | ({} if chosen.device == "cuda" else {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # Stages die with the program that started them.
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return f"hangs in the driver after {seconds:.0f} s"
    if code is None:
        return f"stopped after {seconds:.0f} s"
    return {0: "done", OUT_OF_MEMORY: "out of memory"}.get(code, f"failed with {code}")


def last_lines(place: Path, count: int = 12) -> list[str]:
    """The end of a log, each line cut to a width that can be read."""
    return [line[:200] for line in place.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]]


def shown(rows: list[dict[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, as text."""
    lines = []
    for name, part in parts.items():
        lines.append(f"{name}: {part['end']}, {part['seconds']:.0f} s")
        for row in (row for row in rows if row["part"] == name):
            mark = {True: "ok", False: "BAD", None: ""}[row["ok"]]
            value = row["value"]
            text = value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
            lines.append(f"  {mark:4}{row['what']:40} {text:>10} {row['unit']}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts; 0 if all were done and no row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for table.txt, table.json, rows.jsonl and log.txt")
    parser.add_argument("--wheels", type=Path, required=True, help="folder that `make gpu-wheels` filled")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything at toy size")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args()
    began = time.monotonic()
    share = chosen.minutes * 60 / 480
    chosen.output.mkdir(parents=True, exist_ok=True)
    rows_file = chosen.output / "rows.jsonl"
    parts: dict[str, dict[str, Any]] = {}
    rows_file.write_text("", encoding="utf-8")
    work = Path(tempfile.mkdtemp(prefix="minima-gpu-"))

    def write() -> tuple[str, bool]:
        whole, _, _ = rows_file.read_text(encoding="utf-8").rpartition("\n")  # A part may be stopped while it writes.
        rows = [json.loads(line) for line in whole.splitlines()]
        well = all(part["end"] == "done" for part in parts.values()) and not any(row["ok"] is False for row in rows)
        content = {"device": chosen.device, "seconds": time.monotonic() - began, "parts": parts, "rows": rows}
        (chosen.output / "table.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        text = shown(rows, parts)
        (chosen.output / "table.txt").write_text(text, encoding="utf-8")
        return text, well

    try:
        with open(chosen.output / "log.txt", "w", encoding="utf-8") as log:
            python = environment(work / "environment", chosen.wheels, log)
            print(f"environment: {time.monotonic() - began:.0f} s", flush=True)
            waiting = [name for name in PARTS if name in chosen.parts]
            while waiting:
                name = waiting.pop(0)
                for scale in SCALES:
                    kept = share * sum(PARTS[later] for later in waiting)
                    seconds = max(60 * chosen.minutes - (time.monotonic() - began) - kept, LEAST)
                    start = time.monotonic()
                    print(f"\n=== {name}, {seconds:.0f} s at most, scale {scale}", file=log, flush=True)
                    end = run_part(name, python, seconds, scale, chosen, work, log)
                    parts[name] = {"end": end, "seconds": time.monotonic() - start}
                    print(f"{name}: {end}, {parts[name]['seconds']:.0f} s", flush=True)
                    write()
                    if end != "done":  # Of what comes back of another machine, the end of the output is the surest.
                        print("".join(f"    {line}\n" for line in last_lines(chosen.output / "log.txt")), flush=True)
                    if end != "out of memory":
                        break
        text, well = write()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{text}\n{chosen.output}: table.txt, table.json, log.txt; {time.monotonic() - began:.0f} s", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
