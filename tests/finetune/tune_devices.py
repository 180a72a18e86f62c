"""Runs `jaxllm tune` with several methods on a mesh: METHODS ROWS DIR ARGUMENTS... -> DIR/METHOD."""

import sys

from jaxllm.cli import main

methods, rows, folder, *arguments = sys.argv[1:]
for method in methods.split(","):
    code = main(["tune", f"--method={method}", f"--data.path={rows}", f"--out={folder}/{method}", *arguments])
    if code:
        sys.exit(code)
