"""Checkpoints as things to handle: `jaxllm convert` and `jaxllm inspect`."""
