"""What a network is: one frozen description that every family fills in."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding, "rotate half" convention (Su et al., 2104.09864).

    Attributes:
        theta: base of the geometric series of wavelengths.
        kind: `default`; `linear` divides every frequency by `factor`; `llama3` divides only the
            slow ones and blends in between (Llama 3.1 and later).
        factor: how much longer than the original the context became.
        low_freq_factor, high_freq_factor: wavelengths above `original_positions / low_freq_factor`
            are fully scaled, those below `original_positions / high_freq_factor` not at all.
        original_positions: context length before it was extended.
    """

    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        _check_positive(self, "theta", "factor", "low_freq_factor", "high_freq_factor", "original_positions")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("Rope.high_freq_factor must be above low_freq_factor")


def _check_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{type(owner).__name__}.{name} must be a positive number, got {value!r}")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Shape and quirks of a decoder-only transformer.

    Attributes:
        family: name of the table that maps weights to and from Hugging Face (`llama`, `gpt2`).
        vocab_size: rows of the embedding, V.
        width: size of the residual stream, D.
        layers: number of blocks, L.
        heads: query heads, H.
        kv_heads: key and value heads, KV; divides `heads`.
        head_dim: size of one head.
        mlp_width: hidden size of the feed-forward block, F.
        max_positions: context window in tokens.
        norm: `rms` (scale only) or `layer` (scale and bias).
        norm_eps: added to the variance before the root.
        activation: of the feed-forward block.
        gated_mlp: `down(act(gate(x)) * up(x))` rather than `down(act(up(x)))`.
        qkv_bias, out_bias, mlp_bias: which projections have a bias.
        rope: rotary embedding; None means learned absolute positions.
        tied: logits are computed with the embedding table.
        bos_id: token that begins a text, None if the model has none.
        eos_ids: tokens that end a text, the first being the one to append.
    """

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    max_positions: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated_mlp: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    rope: Rope | None = Rope()
    tied: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ModelSpec.{name} must be a whole number of at least 1, got {value!r}")
        _check_positive(self, "norm_eps")
        if self.heads % self.kv_heads:
            raise ValueError(f"ModelSpec.heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(f"ModelSpec.head_dim must be even for rotary positions, got {self.head_dim}")
