"""The arrays of an audit in a file: what `jaxllm audit` writes and `jaxllm clean` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.errors import UserError
from jaxllm.feedback.data import Pairs
from jaxllm.feedback.findings import Findings
from jaxllm.feedback.votes import bucket_names
from jaxllm.files import expanded

FILE = "committee.safetensors"
FORMAT = 3  # raised where arrays or their description change


def save(path: Path, pairs: Pairs, findings: Findings, edges: Sequence[float]) -> None:
    """Writes the findings as arrays, for `jaxllm clean`."""
    from safetensors.numpy import save_file

    issues = pairs.audit.searched
    bits = {own: sum(1 << number for number, name in enumerate(issues) if name in own) for own in set(pairs.issues)}
    issue_bits = np.array([bits[own] for own in pairs.issues], np.int32)
    arrays = {name: np.ascontiguousarray(getattr(findings, name)) for name in (
        "votes", "scores", "quantile", "margin", "bucket", "weighted", "by_members", "right", "source", "rule")}
    domains, domain = pairs.domain_numbers
    arrays |= {"clusters": pairs.clusters.astype(np.int64), "issues": issue_bits, "first": pairs.first,
               "domain": domain, "lines": np.array(pairs.lines, np.int64),
               "rows": np.array([int(digest, 16) for digest in pairs.digests], np.uint64)}
    about = {"members": [member.key for member in findings.voting], "noise": findings.noise, "domains": domains,
             "buckets": bucket_names(edges), "issues": issues, "format": FORMAT}
    save_file(arrays, path, {"about": json.dumps(about)})


def load(folder: str, digests: np.ndarray | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the arrays of an audit, and its description: `members`, `noise`, `domains`, `buckets`, `issues` (searched).

    Args:
        folder: directory of the audit.
        digests: digests of the pairs that it must be of, `[N]` uint64; None where it is known to be.

    Raises:
        UserError: there is no finished audit, its file is damaged or has another format, or it is of other pairs.
    """
    from safetensors import SafetensorError, safe_open

    path = expanded(folder) / FILE
    if not path.is_file() or not path.with_name("result.json").is_file():
        raise UserError("there is no finished audit", folder, "give the --out of a finished jaxllm audit")
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise UserError(f"not a whole file: {error}", path, "run jaxllm audit again") from None
    if about.get("format") != FORMAT:
        raise UserError("the audit was written by another version of jaxllm", folder,
                        "run jaxllm audit again, with a new --out")
    if digests is not None and not np.array_equal(arrays["rows"], digests):
        raise UserError("the audit is of other rows", folder,
                        "audit the file that is cleaned, with the same data.limit")
    return arrays, about
