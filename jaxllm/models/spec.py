"""`ModelSpec`: the frozen description of an architecture, which every family fills in."""

from __future__ import annotations

import dataclasses
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh"]


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding, "rotate half" convention (Su et al., 2104.09864).

    Attributes:
        theta: base of the geometric series of wavelengths.
        kind: how the context was extended. `default` not at all; `linear` divides every frequency by `factor`;
            `llama3` divides only the slow ones and blends in between (Llama 3.1 and later); `dynamic` raises the
            base with the length read; `yarn` blends by the number of turns (2309.00071); `longrope` divides each
            frequency by a factor of its own (2402.13753).
        fraction: share of every head that is rotated; the rest stays as it is.
        factor: how much longer than the original the context became.
        original_positions: context length before it was extended.
        low_freq_factor, high_freq_factor: llama3: wavelengths above `original_positions / low_freq_factor`
            are fully scaled, those below `original_positions / high_freq_factor` not at all.
        beta_fast, beta_slow: yarn: turns within the original context above which a frequency stays, and below
            which it is fully scaled.
        truncate: yarn: whether these borders are rounded to whole dimensions.
        short_factors, long_factors: longrope: divisors of each frequency, for texts that fit the original
            context and for those that do not.
        magnitude: yarn and longrope: factor of cosines and sines.
    """

    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3", "dynamic", "yarn", "longrope"] = "default"
    fraction: float = 1.0
    factor: float = 1.0
    original_positions: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    magnitude: float = 1.0

    def __post_init__(self):
        _check_positive(self, "theta", "fraction", "factor", "low_freq_factor", "high_freq_factor",
                        "original_positions", "beta_fast", "beta_slow", "magnitude")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("Rope.high_freq_factor must be above low_freq_factor")
        if self.fraction > 1:
            raise ValueError(f"Rope.fraction must be at most 1, got {self.fraction}")
        for factors in (self.short_factors, self.long_factors):
            if any(isinstance(f, bool) or not isinstance(f, int | float) or f <= 0 for f in factors):
                raise ValueError("the factors of longrope must be positive numbers")

    def rotated(self, head_dim: int) -> int:
        """Returns the number of a head's dimensions that are rotated."""
        return int(head_dim * self.fraction)


def _check_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{type(owner).__name__}.{name} must be a positive number, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward block (Mixtral, 2401.04088).

    Attributes:
        count: experts, E.
        chosen: number of experts per token (top-k routing).
        normalized: whether the chosen experts' weights sum to 1.
    """

    count: int
    chosen: int
    normalized: bool = True

    def __post_init__(self):
        if not 1 <= self.chosen <= self.count:
            raise ValueError(f"Experts.chosen must be between 1 and {self.count}, got {self.chosen}")


@dataclasses.dataclass(frozen=True)
class Relative:
    """Attention by relative position (DeBERTa, 2006.03654).

    Attributes:
        distance: largest distance that has a bucket of its own.
        buckets: distances beyond half of these share buckets that widen; None gives each its own.
        content: scores between a query's content and a key's position.
        position: scores between a query's position and a key's content.
        norm: whether the table of positions is normalized.
    """

    distance: int
    buckets: int | None
    content: bool
    position: bool
    norm: bool

    @property
    def span(self) -> int:
        """Rows of the table for one direction."""
        return self.buckets or self.distance


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Parts of an encoder that a decoder does not have.

    Attributes:
        token_types: number of token types with an embedding of their own, 0 for none.
        absolute: learned absolute positions.
        relative: attention by relative position, None for none.
        convolution: width of a convolution parallel to the first layer, None for none.
        convolution_activation: its nonlinearity.
    """

    token_types: int = 0
    absolute: bool = True
    relative: Relative | None = None
    convolution: int | None = None
    convolution_activation: Activation = "tanh"


# Parameters of a language model that a scoring network does not have.
LM_HEAD = ("head", "head_bias")


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that scores a text: a linear layer on the state of one token, perhaps after a hidden layer.

    Attributes:
        labels: scores of a text.
        token: the token that represents the text: the `first` or the `last`.
        bias: whether the scores have a bias.
        hidden: nonlinearity of the hidden layer; None has none.
        hidden_bias: whether the hidden layer has a bias.
        name: name of the head's tensors, where checkpoints of one family differ (`score`, `v_head`, ...).
        label_names: meanings of the scores, in order; empty if the checkpoint has none.
        before_padding: the last token is the last that is not spelled like padding, as in transformers' classifiers: a
            text that ends in the padding token, which often is the end token too, is scored before it.
    """

    labels: int
    token: Literal["first", "last"]
    bias: bool = False
    hidden: Activation | None = None
    hidden_bias: bool = True
    name: str = "score"
    label_names: tuple[str, ...] = ()
    before_padding: bool = False


@dataclasses.dataclass(frozen=True)
class LayerType:
    """Attention window and position encoding of a layer.

    Attributes:
        window: number of tokens that a token sees, itself included; None is all.
        rope: rotary embedding of the layer; None does not rotate.
    """

    window: int | None
    rope: Rope | None


# No network has more; a config with more is damaged, and would fill the memory.
MOST_LAYERS = 4096


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Shape and quirks of a transformer: a decoder, or with `encoder` an encoder.

    Attributes:
        family: name of the table that maps weights to and from Hugging Face (`llama`, `gpt2`, ...).
        vocab_size: rows of the embedding, V.
        width: size of the residual stream, D.
        layers: number of blocks, L.
        heads: query heads, H.
        kv_heads: key and value heads, KV; divides `heads`.
        head_dim: size of one head.
        mlp_width: hidden size of the feed-forward block, or of each expert, F.
        max_positions: context window in tokens.
        norm: `rms` (scale only) or `layer` (scale and bias).
        norm_eps: added to the variance before the root.
        norm_offset: the scale is 1 + the stored value (Gemma).
        norms: where a sub-layer f is normalized: `before`, x + f(norm(x)); `after`, x + norm(f(x)) (OLMo 2);
            `around`, both (Gemma 2); `outside`, norm(x + f(x)) (the smallest OPT).
        parallel: attention and feed-forward read the same stream, x + attention(norm(x)) + mlp(norm'(x));
            `shared` with one norm (Phi), `own` with one each (GPT-NeoX); None takes turns.
        final_norm: whether the stream is normalized at the end.
        query_norm: queries and keys are normalized before rotation: each `head` by itself (Qwen 3), or all heads as
            one vector (`all`, OLMo 2).
        activation: activation of the feed-forward block.
        gated_mlp: `down(act(gate(x)) * up(x))` rather than `down(act(up(x)))`.
        experts: None for a plain feed-forward block.
        qkv_bias, out_bias, mlp_bias, head_bias: which projections have a bias.
        rope: rotary embedding; None means learned absolute positions.
        position_offset: row of the position table that position 0 reads (OPT).
        window: in local layers a token sees this many tokens, itself included; None means no layer is local.
        local_layers: which layers are local; empty means all.
        local_rope: rotary embedding of local layers where it differs (Gemma 3).
        unrotated_layers: layers that do not rotate (SmolLM 3); empty means none.
        attention_scale: factor of the scores; None is `head_dim ** -0.5`.
        attention_softcap: scores pass `c tanh(score / c)` (Gemma 2).
        embed_width: size of the embedding where it is projected to and from the stream's (OPT-350M).
        embed_scale, residual_scale, logit_scale: factors of the embedding, of what a sub-layer adds, and of the
            logits (Granite, Gemma).
        logit_softcap: the logits pass `c tanh(logit / c)`.
        tied: logits are computed with the embedding table.
        encoder: None for a decoder.
        head: scores texts, in place of next-token logits; None for a language model.
        bos_id: token that begins a text, None if the model has none.
        pad_id: padding token of the checkpoint, for its config only: masks here never come from it.
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
    norm_offset: bool = False
    norms: Literal["before", "after", "around", "outside"] = "before"
    parallel: Literal["shared", "own"] | None = None
    final_norm: bool = True
    query_norm: Literal["head", "all"] | None = None
    activation: Activation = "silu"
    gated_mlp: bool = True
    experts: Experts | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    rope: Rope | None = Rope()
    position_offset: int = 0
    window: int | None = None
    local_layers: tuple[bool, ...] = ()
    local_rope: Rope | None = None
    unrotated_layers: tuple[bool, ...] = ()
    attention_scale: float | None = None
    attention_softcap: float | None = None
    embed_width: int | None = None
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    tied: bool = False
    encoder: Encoder | None = None
    head: Head | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ModelSpec.{name} must be a whole number of at least 1, got {value!r}")
        if self.layers > MOST_LAYERS:
            raise ValueError(f"ModelSpec.layers must be at most {MOST_LAYERS}, got {self.layers}")
        for rope in (self.rope, self.local_rope):
            if rope is not None and rope.kind == "longrope" and not (
                    len(rope.short_factors) == len(rope.long_factors) == rope.rotated(self.head_dim) // 2):
                raise ValueError(f"long rope needs {rope.rotated(self.head_dim) // 2} short and as many long factors, "
                                 f"got {len(rope.short_factors)} and {len(rope.long_factors)}")
        _check_positive(self, "norm_eps", *(name for name in ("window", "attention_scale", "attention_softcap",
                                                              "logit_softcap", "embed_width")
                                            if getattr(self, name) is not None))
        if self.heads % self.kv_heads:
            raise ValueError(f"ModelSpec.heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.rope is not None and self.rope.rotated(self.head_dim) % 2:
            raise ValueError(f"ModelSpec.head_dim must be even for rotary positions, got {self.head_dim}")
        for name in ("local_layers", "unrotated_layers"):
            if getattr(self, name) and len(getattr(self, name)) != self.layers:
                raise ValueError(f"ModelSpec.{name} must have an entry for each of {self.layers} layers")

    @property
    def rope_depends_on_length(self) -> bool:
        """Whether rotary angles depend on the length of the whole text; a shared prefix then has no reusable keys."""
        return any(rope is not None and rope.kind in ("dynamic", "longrope") for rope in (self.rope, self.local_rope))

    @property
    def original_windows(self) -> tuple[int, ...]:
        """Longest texts with the short factors of long rope, of all layers or of local and other ones; empty where all
        lengths have the same factors."""
        return tuple(sorted({rope.original_positions for rope in (self.rope, self.local_rope) if rope is not None
                             and rope.kind == "longrope" and rope.short_factors != rope.long_factors}))

    @property
    def state_width(self) -> int:
        """Size of the states that heads read: that of the embedding in a decoder with a narrower embedding."""
        return self.width if self.encoder is not None else self.embed_width or self.width

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """Returns the type of every layer; most networks have one."""
        types = []
        for i in range(self.layers):
            local = self.window is not None and (not self.local_layers or self.local_layers[i])
            rope = self.local_rope if local and self.local_rope is not None else self.rope
            if self.unrotated_layers and self.unrotated_layers[i]:
                rope = None
            types.append(LayerType(self.window if local else None, rope))
        return tuple(types)

    @property
    def distinct_layer_types(self) -> list[LayerType]:
        """Returns the distinct layer types, in order of their first layer."""
        return list(dict.fromkeys(self.layer_types))
