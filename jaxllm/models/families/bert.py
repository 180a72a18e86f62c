"""Encoders that classify texts: BERT, RoBERTa, DistilBERT, DeBERTa 2 and 3."""

from __future__ import annotations

from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.families.table import (
    ACTIVATION_NAMES,
    Family,
    Keys,
    TensorMap,
    linear,
    norm,
    read_head,
)
from jaxllm.models.spec import Encoder, Head, ModelSpec, Relative

# Linear layers of a block: our path -> tensor name.
BERT_LAYER = {("attn", "q"): "attention.self.query", ("attn", "k"): "attention.self.key",
              ("attn", "v"): "attention.self.value", ("attn", "o"): "attention.output.dense",
              ("mlp", "up"): "intermediate.dense", ("mlp", "down"): "output.dense"}
BERT_NORMS = {"attn_after_norm": "attention.output.LayerNorm", "mlp_after_norm": "output.LayerNorm"}


def read_base(keys: Keys, family: str, head: Head, encoder: Encoder, eps: float = 1e-12) -> dict[str, Any]:
    """Reads the keys that these families share; returns arguments of `ModelSpec`."""
    width, heads = keys.need("hidden_size"), keys.need("num_attention_heads")
    keys.ignore("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "tie_word_embeddings",
                "gradient_checkpointing", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
                "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "is_decoder")
    keys.only("position_embedding_type", "absolute")
    keys.only("add_cross_attention", False)
    if keys.config.get("is_decoder"):
        raise UserError("config key 'is_decoder' is True; these families are read as encoders only", keys.where)
    return dict(
        family=family, vocab_size=keys.need("vocab_size"), width=width, layers=keys.need("num_hidden_layers"),
        heads=heads, kv_heads=heads, head_dim=width // heads, mlp_width=keys.need("intermediate_size"),
        max_positions=keys.get("max_position_embeddings", 512), norm="layer",
        norm_eps=keys.get("layer_norm_eps", eps), norms="outside", final_norm=False,
        activation=keys.activation("hidden_act", "gelu"), gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True,
        rope=None, tied=True, encoder=encoder, head=head)


def write_base(spec: ModelSpec, architecture: str) -> dict[str, Any]:
    """Returns the keys that these families share, for `config.json`."""
    return {
        "architectures": [architecture], "model_type": spec.family, "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp_width, "max_position_embeddings": spec.max_positions + spec.position_offset,
        "layer_norm_eps": spec.norm_eps, "hidden_act": ACTIVATION_NAMES[spec.activation],
        "type_vocab_size": spec.encoder.token_types}


def leaves(spec: ModelSpec, root: str, layer: str, linears: dict[tuple[str, str], str], norms: dict[str, str],
           head: dict[str, str]) -> list[TensorMap]:
    """Returns the maps of all parameters.

    Args:
        spec: the network.
        root: prefix of the names of the embeddings.
        layer: prefix of the names of a layer, with `{i}`.
        linears, norms: ours -> theirs, within a layer.
        head: `hidden` and `out` -> theirs.
    """
    maps = [TensorMap(("embed",), f"{root}embeddings.word_embeddings.weight"),
            *norm(("embed_norm",), f"{root}embeddings.LayerNorm", True)]
    if spec.encoder.absolute:
        maps.append(TensorMap(("positions",), f"{root}embeddings.position_embeddings.weight"))
    if spec.encoder.token_types:
        maps.append(TensorMap(("types",), f"{root}embeddings.token_type_embeddings.weight"))
    for path, name in linears.items():
        maps += linear(("layers", *path), layer + name, True)
    for ours, name in norms.items():
        maps += norm(("layers", ours), layer + name, True)
    for part, name in head.items():
        maps += linear(("score", part), name, True)
    return maps


# --- BERT, RoBERTa --------------------------------------------------------------------------------------------------


def _read_bert(keys: Keys) -> ModelSpec:
    head = read_head(keys, "first", bias=True, hidden="tanh", name="classifier")
    return ModelSpec(**read_base(keys, "bert", head, Encoder(token_types=keys.whole("type_vocab_size", 2))),
                     **keys.tokens(pad=0))


def _write_bert(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "BertForSequenceClassification")


def _bert_leaves(spec: ModelSpec) -> list[TensorMap]:
    return leaves(spec, "bert.", "bert.encoder.layer.{i}.", BERT_LAYER, BERT_NORMS,
                  {"hidden": "bert.pooler.dense", "out": "classifier"})


def _read_roberta(keys: Keys) -> ModelSpec:
    head = read_head(keys, "first", bias=True, hidden="tanh", name="classifier")
    base = read_base(keys, "roberta", head, Encoder(token_types=keys.whole("type_vocab_size", 2)))
    tokens = keys.tokens(0, 2, 1)
    # Positions are counted from the one after the padding token's; that row of the table is never learned.
    offset = keys.get("pad_token_id", 1) + 1
    return ModelSpec(**base | {"position_offset": offset, "max_positions": base["max_positions"] - offset}, **tokens)


def _write_roberta(spec: ModelSpec) -> dict[str, Any]:
    return write_base(spec, "RobertaForSequenceClassification")


def _roberta_leaves(spec: ModelSpec) -> list[TensorMap]:
    return leaves(spec, "roberta.", "roberta.encoder.layer.{i}.", BERT_LAYER, BERT_NORMS,
                  {"hidden": "classifier.dense", "out": "classifier.out_proj"})


# --- DistilBERT -----------------------------------------------------------------------------------------------------

_DISTILBERT_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                     "intermediate_size": "hidden_dim", "hidden_act": "activation"}


def _read_distilbert(keys: Keys) -> ModelSpec:
    keys.ignore("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds",
                *_DISTILBERT_NAMES.values())
    for usual, own in _DISTILBERT_NAMES.items():
        if own in keys.config:
            keys.config[usual] = keys.config[own]
    keys.only("layer_norm_eps", 1e-12)  # torch reads no such key in this family
    head = read_head(keys, "first", bias=True, hidden="relu", name="classifier")
    return ModelSpec(**read_base(keys, "distilbert", head, Encoder()), **keys.tokens(pad=0))


def _write_distilbert(spec: ModelSpec) -> dict[str, Any]:
    written = write_base(spec, "DistilBertForSequenceClassification")
    del written["type_vocab_size"], written["layer_norm_eps"]  # not keys of this family
    return {_DISTILBERT_NAMES.get(name, name): value for name, value in written.items()}


def _distilbert_leaves(spec: ModelSpec) -> list[TensorMap]:
    linears = {("attn", "q"): "attention.q_lin", ("attn", "k"): "attention.k_lin", ("attn", "v"): "attention.v_lin",
               ("attn", "o"): "attention.out_lin", ("mlp", "up"): "ffn.lin1", ("mlp", "down"): "ffn.lin2"}
    norms = {"attn_after_norm": "sa_layer_norm", "mlp_after_norm": "output_layer_norm"}
    return leaves(spec, "distilbert.", "distilbert.transformer.layer.{i}.", linears, norms,
                  {"hidden": "pre_classifier", "out": "classifier"})


# --- DeBERTa 2 and 3 ------------------------------------------------------------------------------------------------


def _read_deberta(keys: Keys) -> ModelSpec:
    keys.ignore("pooler_dropout", "pooler_hidden_size", "cls_dropout", "max_relative_positions", "position_buckets",
                "pos_att_type", "norm_rel_ebd", "conv_act", "legacy", "attention_head_size", "share_att_key")
    hidden = keys.activation("pooler_hidden_act", "gelu")
    head = read_head(keys, "first", bias=True, hidden=hidden, name="classifier")
    width = keys.need("hidden_size")
    keys.only("attention_head_size", width // keys.need("num_attention_heads"))
    keys.only("conv_groups", 1)
    relative = None
    if keys.get("relative_attention", False):
        if not keys.get("share_att_key", False):
            raise UserError("config key 'share_att_key' is not set; positions with projections of their own are not "
                            "supported", keys.where)
        terms, distance, buckets = keys.get("pos_att_type", []), keys.whole("max_relative_positions", -1, -1), keys.get(
            "position_buckets", -1)
        terms = terms.split("|") if isinstance(terms, str) else terms
        unknown = set(terms) - {"c2p", "p2c"}
        if unknown:
            raise UserError(f"attention by position of kind '{sorted(unknown)[0]}' is not supported", keys.where)
        relative = Relative(distance if distance > 0 else keys.get("max_position_embeddings", 512),
                            buckets if buckets > 0 else None, "c2p" in terms, "p2c" in terms,
                            "layer_norm" in keys.get("norm_rel_ebd", "none").lower().split("|"))
    convolution = keys.whole("conv_kernel_size", 0)
    encoder = Encoder(keys.whole("type_vocab_size", 0), bool(keys.get("position_biased_input", True)), relative,
                      convolution if convolution > 0 else None, keys.activation("conv_act", "tanh"))
    embed = keys.get("embedding_size", width)
    return ModelSpec(**read_base(keys, "deberta-v2", head, encoder, 1e-7),
                     embed_width=None if embed == width else embed, **keys.tokens(pad=0))


def _write_deberta(spec: ModelSpec) -> dict[str, Any]:
    encoder = spec.encoder
    written = write_base(spec, "DebertaV2ForSequenceClassification") | {
        "position_biased_input": encoder.absolute, "relative_attention": encoder.relative is not None,
        "pooler_hidden_act": ACTIVATION_NAMES[spec.head.hidden], "pooler_hidden_size": spec.width,
        "pooler_dropout": 0.0}
    if encoder.relative is not None:
        relative = encoder.relative
        terms = [name for name, present in (("p2c", relative.position), ("c2p", relative.content)) if present]
        written |= {"share_att_key": True, "max_relative_positions": relative.distance, "pos_att_type": terms,
                    "position_buckets": relative.buckets or -1,
                    "norm_rel_ebd": "layer_norm" if relative.norm else "none"}
    if encoder.convolution is not None:
        written |= {"conv_kernel_size": encoder.convolution, "conv_groups": 1,
                    "conv_act": ACTIVATION_NAMES[encoder.convolution_activation]}
    return written | ({"embedding_size": spec.embed_width} if spec.embed_width else {})


def _deberta_leaves(spec: ModelSpec) -> list[TensorMap]:
    linears = BERT_LAYER | {("attn", "q"): "attention.self.query_proj", ("attn", "k"): "attention.self.key_proj",
                            ("attn", "v"): "attention.self.value_proj"}
    maps = leaves(spec, "deberta.", "deberta.encoder.layer.{i}.", linears, BERT_NORMS,
                  {"hidden": "pooler.dense", "out": "classifier"})
    if spec.embed_width:
        maps += linear(("embed_in",), "deberta.embeddings.embed_proj", False)
    if spec.encoder.relative is not None:
        maps.append(TensorMap(("distances",), "deberta.encoder.rel_embeddings.weight"))
        if spec.encoder.relative.norm:
            maps += norm(("distances_norm",), "deberta.encoder.LayerNorm", True)
    if spec.encoder.convolution is not None:
        maps += [*linear(("convolution",), "deberta.encoder.conv.conv", True),
                 *norm(("convolution", "norm"), "deberta.encoder.conv.LayerNorm", True)]
    return maps


_IGNORED = (".position_ids",)

FAMILIES = {
    "bert": Family(_read_bert, _write_bert, _bert_leaves, "bert.", _IGNORED),
    "roberta": Family(_read_roberta, _write_roberta, _roberta_leaves, "roberta.", (
        *_IGNORED, "roberta.pooler.dense.weight", "roberta.pooler.dense.bias")),
    "distilbert": Family(_read_distilbert, _write_distilbert, _distilbert_leaves, "distilbert.", _IGNORED),
    "deberta-v2": Family(_read_deberta, _write_deberta, _deberta_leaves, "deberta.", (
        *_IGNORED, "deberta.embeddings.position_embeddings.weight")),
}
