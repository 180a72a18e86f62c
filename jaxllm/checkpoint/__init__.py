"""Checkpoint tools: `jaxllm convert` and `jaxllm inspect`."""
