"""Self-updating, judged, consistent and cooperative language models in JAX.

The names below are imported when they are first used: `import jaxllm` loads neither jax nor a tokenizer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.config import SamplingConfig
    from jaxllm.generate import Generator
    from jaxllm.model import Model, load

__version__ = "0.1.0"
__all__ = ["Generator", "Model", "SamplingConfig", "__version__", "load"]

_MODULES = {"Generator": "jaxllm.generate", "Model": "jaxllm.model", "SamplingConfig": "jaxllm.config",
            "load": "jaxllm.model"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
