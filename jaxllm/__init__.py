"""Self-updating, judged, consistent and cooperative language models in JAX."""

__version__ = "0.1.0"
