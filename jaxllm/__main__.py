"""`python -m jaxllm` is the `jaxllm` command."""

from jaxllm.cli import entry

if __name__ == "__main__":
    entry()
