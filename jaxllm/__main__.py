"""``python -m jaxllm``."""

from jaxllm.cli import entry

if __name__ == "__main__":
    entry()
