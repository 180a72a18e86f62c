"""Records outputs of torch for a small network of every family, so that tests need no torch.

    python scripts/family_fixtures.py [--out tests/models/families]

A fixture is a config, the names and shapes of its tensors, and numbers: logits, or scores of texts. It has no weights:
`weights` draws them from the tensors' names. An existing fixture is not recorded again, since the last digits differ
between machines; delete its file to record it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from scripts.parity_networks import Network

TOKENS, GREEDY = 28, 12
# Lengths of the texts that are scored.
LENGTHS = (28, 17, 5)


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Draws the tensors of a fixture, each seeded by the checksum of its name; norms and biases are not 1 and 0."""
    tensors = {}
    for name, shape in shapes.items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            tensors[name] = noise * 0.1
        else:
            tensors[name] = 0.2 * noise + (0.0 if name.endswith("bias") else 1.0)
    return tensors


def tokens(vocab: int) -> list[list[int]]:
    return np.random.default_rng(7).integers(3, vocab, (2, TOKENS)).tolist()


def texts(vocab: int, types: int) -> list[tuple[list[int], list[int]]]:
    """Draws (ids, types) of the texts to score; the second half of a text has type 1 where there are two types."""
    rows = np.random.default_rng(7).integers(3, vocab, (len(LENGTHS), TOKENS)).tolist()
    return [(row[:length], [int(types > 1 and i >= length // 2) for i in range(length)])
            for row, length in zip(rows, LENGTHS, strict=True)]


def record(network: Network) -> dict:
    """Computes the fixture of one network."""
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from scripts.parity_networks import build, read, write

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(network, build(network), folder)
        file = folder / "model.safetensors"
        with safe_open(file, "numpy") as tensors:
            shapes = {name: list(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())}
        save_file(weights(shapes), file, metadata={"format": "pt"})
        written = json.loads((folder / "config.json").read_text())
        with torch.no_grad():
            numbers = (record_scores if network.scores else record_logits)(network.config, read(network, folder))
    return {"config": written, "shapes": shapes} | numbers


def record_logits(config: PretrainedConfig, model: torch.nn.Module) -> dict:
    import torch

    ids = torch.tensor(tokens(config.vocab_size))
    logits = model(ids).logits.double().numpy()
    made = model.generate(ids[:, :8], max_new_tokens=GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0)
    return {"scale": float(np.abs(logits).max()), "last_logits": np.round(logits[:, -1, ::8], 7).tolist(),
            "position_sums": np.round(logits.sum(-1), 6).tolist(), "greedy": made[:, 8:].tolist()}


def record_scores(config: PretrainedConfig, model: torch.nn.Module) -> dict:
    """Computes scores of right-padded rows; padding is the configuration's token, as transformers' classifiers need."""
    import torch

    count = getattr(config, "type_vocab_size", 0)
    rows = texts(config.vocab_size, count)
    padded = lambda lists, value: torch.tensor([row + [value] * (TOKENS - len(row)) for row in lists])
    ids = padded([ids for ids, _ in rows], config.pad_token_id or 0)
    types = {"token_type_ids": padded([types for _, types in rows], 0)} if count > 1 else {}
    scores = model(ids, attention_mask=padded([[1] * len(ids) for ids, _ in rows], 0), **types).logits.double().numpy()
    return {"scale": float(np.abs(scores).max()), "scores": np.round(scores, 7).tolist()}


def main() -> None:
    import transformers

    # A script has only its own folder on the path.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from scripts.parity_networks import networks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "tests/models/families")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, network in networks().items():
        path = out / f"{name.replace(', ', '_').replace(' ', '-')}.json"
        if not path.exists():
            path.write_text(json.dumps(record(network), separators=(",", ":")) + "\n")
            print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
