"""Write the hashes of everything that `make setup` installs: `make lock`, after a change of pyproject or constraints.

`requirements.lock` holds the pinned versions with the SHA-256 of each file that the index has of them, so that they
fit every platform and Python; `requirements-cuda.lock` holds what the CUDA build of PyTorch needs beside them, and its
CPU build does not; `requirements-docs.lock` holds what `make docs` needs beside `requirements.lock`. All hold names,
versions and hashes only.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = re.compile(r"(nvidia-.*-cu13|nvidia-(?!nccl-cu12).*|cuda-.*|triton)==")
CPU_TORCH = ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)
"""SHA-256 of CPU builds of the pinned PyTorch, which are on an index of their own (x86-64 Linux, Python 3.11)."""

DOCS_PYTHON = "3.11.5"
"""What pymdown-extensions requires, without which the documentation is not built."""


def main() -> None:
    """Resolve, sort the CUDA packages and those of the documentation out, write the three files."""
    base, docs = resolved("3.11", "dev"), resolved(DOCS_PYTHON, "dev", "docs")
    known = {name(entry) for entry in base}
    files = {"requirements.lock": [entry for entry in base if not CUDA.match(entry)],
             "requirements-cuda.lock": [entry for entry in base if CUDA.match(entry)],
             "requirements-docs.lock": [entry for entry in docs if name(entry) not in known]}
    for file, chosen in files.items():
        (ROOT / file).write_text("".join(chosen))
        print(f"{file}: {len(chosen)} packages")


def resolved(python: str, *extras: str) -> list[str]:
    """What the project requires with these extras from that Python on, each package with its version and hashes."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "-",
               *(word for extra in extras for word in ("--extra", extra)), "--constraint", "constraints.txt",
               "--no-config", "--no-header", "--no-annotate", "--generate-hashes", "--universal",
               "--python-version", python, "--quiet"]
    backend = re.search(r'requires = \["(setuptools==[^"]+)"\]', (ROOT / "pyproject.toml").read_text())[1]
    found = subprocess.run(command, cwd=ROOT, input=backend, text=True, capture_output=True)
    if found.returncode:
        sys.exit(found.stderr)
    entries = re.findall(r"^\S.*?(?=^\S|\Z)", found.stdout, flags=re.M | re.S)
    entries = [entry + "".join(f" \\\n    --hash=sha256:{h}" for h in CPU_TORCH) + "\n" if entry.startswith("torch==")
               else entry for entry in (e.rstrip("\n") + "\n" for e in entries)]
    return [entry.replace("\n \\\n", " \\\n") for entry in entries]


def name(entry: str) -> str:
    """The package of an entry."""
    return entry.partition("==")[0]


if __name__ == "__main__":
    main()
