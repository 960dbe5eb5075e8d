"""flash-attn compiled on a machine without a GPU, for A100 and H100: head dimension 128, bf16, no dropout.

Its sdist makes 73 files of kernels, hours of nvcc; LLaMA needs six of them. nvcc and CUDA's headers come as packages.
"""

import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

VERSION = "2.8.3.post2"
CUDA = "13.0"
"""Of nvcc: that of the torch wheels."""
_LEFT_OUT = ("DROPOUT", "ALIBI", "SOFTCAP", "UNEVEN_K", "LOCAL")
_SWITCHES = """
#include <stdexcept>
#undef FP16_SWITCH
#define FP16_SWITCH(COND, ...) [&] { \\
    if (COND) throw std::runtime_error("this build of flash-attn computes in bf16 only"); \\
    using elem_type = cutlass::bfloat16_t; return __VA_ARGS__(); }()
#undef HEADDIM_SWITCH
#define HEADDIM_SWITCH(HEADDIM, ...) [&] { \\
    if (HEADDIM != 128) throw std::runtime_error("this build of flash-attn has head dimension 128 only"); \\
    constexpr static int kHeadDim = 128; return __VA_ARGS__(); }()
"""


def limit(source: Path) -> None:
    """Leave only what LLaMA needs in the unpacked sdist."""
    defines = "".join(f'"-DFLASHATTENTION_DISABLE_{what}", ' for what in _LEFT_OUT)
    setup = source / "setup.py"
    text = setup.read_text(encoding="utf-8")
    text, dropped = re.subn(r'\n\s+"csrc/flash_attn/src/flash_(?!\w*hdim128_bf16)\w+\.cu",', "", text)
    text, cxx = re.subn(r'(compiler_c17_flag=\["-O3", )("-std=c\+\+17"\])', rf"\1{defines}\2", text)
    text, nvcc = re.subn(r'("--use_fast_math",)', rf"\1 {defines}", text)
    if (dropped, cxx, nvcc) != (66, 1, 1):
        raise SystemExit(f"{setup}: not the setup.py of flash-attn {VERSION} ({dropped}, {cxx}, {nvcc})")
    setup.write_text(text, encoding="utf-8")
    with open(source / "csrc/flash_attn/src/static_switch.h", "a", encoding="utf-8") as switches:
        switches.write(_SWITCHES)


def cuda_home(python: Path) -> Path:
    """The folder of CUDA that pip has put into the environment of `python`, with the names that the linker looks for."""
    home = next((python.parent.parent / "lib").glob("python*")) / "site-packages/nvidia/cu13"
    for name, target in (("lib64", "lib"), ("lib/libcudart.so", "libcudart.so.13")):
        if not (home / name).exists():
            (home / name).symlink_to(target)
    return home


def build(wheels: Path, work: Path, interpreter: str, torch: str) -> Path:
    """Compile in `work`, and put the wheel into `wheels`; nothing that is compiled already is compiled again.

    Args:
        wheels: where the wheel goes.
        work: is kept, for another try.
        interpreter: Python of the version that the GPU's machine has, with its headers.
        torch: version there; the wheel works with no other.
    """
    work.mkdir(parents=True, exist_ok=True)
    python = work / "env/bin/python"
    if not (work / "ready").exists():
        subprocess.run([interpreter, "-m", "venv", str(work / "env")], check=True)
        toolkit = [
            f"nvidia-cuda-nvcc=={CUDA}.*",
            f"nvidia-cuda-crt=={CUDA}.*",
            f"nvidia-nvvm=={CUDA}.*",
            f"nvidia-cuda-cccl=={CUDA}.*",
        ]
        needed = [f"torch=={torch}", "numpy", "setuptools", "wheel", "packaging", "ninja", "psutil", *toolkit]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed], check=True)
        env = os.environ | {"FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"}
        sdist = ["download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "flash-attn", "--dest", str(work)]
        subprocess.run([str(python), "-m", "pip", *sdist, f"flash-attn=={VERSION}"], env=env, check=True)
        with tarfile.open(work / f"flash_attn-{VERSION}.tar.gz") as archive:
            archive.extractall(work, filter="data")
        limit(work / f"flash_attn-{VERSION}")
        (work / "ready").touch()
    env = os.environ | {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "CUDA_HOME": str(cuda_home(python)),
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
        "FLASH_ATTN_CUDA_ARCHS": "80;90",
        "FLASH_ATTN_LOCAL_VERSION": f"hd128.bf16.torch{torch}",
        "MAX_JOBS": os.environ.get("MAX_JOBS", "1"),
        "NVCC_THREADS": "1",
    }
    began = time.monotonic()
    command = ["nice", "-n", "15", str(python), "setup.py", "bdist_wheel", "--dist-dir", str(wheels.absolute())]
    subprocess.run(command, cwd=work / f"flash_attn-{VERSION}", env=env, check=True)
    print(f"flash-attn: {(time.monotonic() - began) / 60:.0f} minutes", file=sys.stderr)
    return next(wheels.glob("flash_attn-*.whl"))
