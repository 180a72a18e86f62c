"""Runs `jaxllm rl` with the given arguments, on the devices of this process."""

import sys

from jaxllm.cli import main

sys.exit(main(["rl", *sys.argv[1:]]))
