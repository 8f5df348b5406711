"""Write the hashes of everything that `make setup` installs: `make lock`, after a change of pyproject or constraints.

`requirements.lock` holds the pinned versions with the SHA-256 of each file that the index has of them, so that they
fit every platform and Python; `requirements-cuda.lock` holds what the CUDA build of PyTorch needs beside them, and its
CPU build does not. Both hold names, versions and hashes only.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = re.compile(r"(nvidia-.*-cu13|nvidia-(?!nccl-cu12).*|cuda-.*|triton)==")
CPU_TORCH = ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)
"""SHA-256 of CPU builds of the pinned PyTorch, which are on an index of their own (x86-64 Linux, Python 3.11)."""


def main() -> None:
    """Resolve, sort the CUDA packages out, write both files."""
    command = ["uv", "pip", "compile", "pyproject.toml", "-", "--extra", "dev", "--constraint", "constraints.txt",
               "--no-config", "--no-header", "--no-annotate", "--generate-hashes", "--universal",
               "--python-version", "3.11", "--quiet"]
    command[0] = str(Path(sys.executable).with_name("uv"))
    backend = re.search(r'requires = \["(setuptools==[^"]+)"\]', (ROOT / "pyproject.toml").read_text())[1]
    found = subprocess.run(command, cwd=ROOT, input=backend, text=True, capture_output=True)
    if found.returncode:
        sys.exit(found.stderr)
    entries = re.findall(r"^\S.*?(?=^\S|\Z)", found.stdout, flags=re.M | re.S)
    entries = [entry + "".join(f" \\\n    --hash=sha256:{h}" for h in CPU_TORCH) + "\n" if entry.startswith("torch==")
               else entry for entry in (e.rstrip("\n") + "\n" for e in entries)]
    entries = [entry.replace("\n \\\n", " \\\n") for entry in entries]
    cuda = [bool(CUDA.match(entry)) for entry in entries]
    for name, wanted in (("requirements.lock", False), ("requirements-cuda.lock", True)):
        chosen = [entry for entry, gpu in zip(entries, cuda, strict=True) if gpu == wanted]
        (ROOT / name).write_text("".join(chosen))
        print(f"{name}: {len(chosen)} packages")


if __name__ == "__main__":
    main()
