"""Records what torch computes for a small network of every family, so that tests can ask without torch.

    python scripts/family_fixtures.py [--out tests/models/families]

A fixture is a config, the names and shapes of its tensors, and numbers. The weights are not in it: whoever reads it
draws them again from the tensors' names (`weights`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

TOKENS, GREEDY = 28, 12
# Of the texts that are scored.
LENGTHS = (28, 17, 5)


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """The tensors of a fixture, each drawn from the checksum of its name; norms and biases are off 1 and 0."""
    found = {}
    for name, shape in shapes.items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            found[name] = noise * 0.1
        else:
            found[name] = 0.2 * noise + (0.0 if name.endswith("bias") else 1.0)
    return found


def tokens(vocab: int) -> list[list[int]]:
    return np.random.default_rng(7).integers(3, vocab, (2, TOKENS)).tolist()


def record(config) -> dict:
    """The fixture of one configuration."""
    import torch
    import transformers
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        with safe_open(file, "numpy") as reader:
            shapes = {name: list(reader.get_slice(name).get_shape()) for name in sorted(reader.keys())}
        save_file(weights(shapes), file, metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        written = json.loads((Path(folder) / "config.json").read_text())
        ids = torch.tensor(tokens(config.vocab_size))
        with torch.no_grad():
            logits = model(ids).logits.double().numpy()
            made = model.generate(ids[:, :8], max_new_tokens=GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0)
    return {"config": written, "shapes": shapes, "scale": float(np.abs(logits).max()),
            "last_logits": np.round(logits[:, -1, ::8], 7).tolist(),
            "position_sums": np.round(logits.sum(-1), 6).tolist(), "greedy": made[:, 8:].tolist()}


def main() -> None:
    import transformers

    from scripts.parity import networks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "tests/models/families")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, config in networks().items():
        path = out / f"{name.replace(', ', '_').replace(' ', '-')}.json"
        path.write_text(json.dumps(record(config), separators=(",", ":")) + "\n")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
