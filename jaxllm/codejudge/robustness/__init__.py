"""Whether a judge's verdict follows the meaning of a program: edits that keep it or break it."""

from jaxllm.codejudge.robustness.edits import CLAIMS, EDITS, Edit, praise, rename, stub, truncate
from jaxllm.codejudge.robustness.scan import LANGUAGES, Span, scan

__all__ = ["CLAIMS", "EDITS", "LANGUAGES", "Edit", "Span", "praise", "rename", "scan", "stub", "truncate"]
