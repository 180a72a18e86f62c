"""Every family against numbers that torch computed, without torch."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file

from jaxllm.errors import UserError
from jaxllm.models import (
    Rope,
    compute_logits,
    init_cache,
    load_model,
    load_spec,
    save_model,
    text_scores,
    unstack_layers,
)
from jaxllm.models.families import FAMILIES, read_config, write_config
from jaxllm.text.batches import pad_right
from scripts.family_fixtures import TOKENS, texts, tokens, weights
from tests.networks import forward, random_tokens

FIXTURES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "families").glob("*"))}
SCORERS = [name for name, fixture in FIXTURES.items() if "scores" in fixture]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """`checkpoint(name)`: a fixture, and the directory of the checkpoint that it describes."""

    @functools.cache
    def make(name):
        fixture, folder = FIXTURES[name], tmp_path_factory.mktemp("family")
        (folder / "config.json").write_text(json.dumps(fixture["config"]))
        save_file(weights(fixture["shapes"]), folder / "model.safetensors")
        return fixture, folder

    return make


# The families that most checkpoints are of; the others in the slow suite.
USUAL = {"llama-2_grouped-heads", "gpt2", "gemma-3", "phi-3"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow)
                                  for name in sorted(set(FIXTURES) - set(SCORERS))])
def test_logits_and_greedy_tokens_are_those_of_torch(checkpoint, name):
    fixture, folder = checkpoint(name)
    spec, params = load_model(folder)
    ids = tokens(spec.vocab_size)
    scores = np.asarray(compute_logits(spec, params, forward(spec, params, jnp.asarray(ids)).hidden), np.float64)
    tolerance = 1e-5 * fixture["scale"]
    assert_allclose(scores[:, -1, ::8], fixture["last_logits"], atol=tolerance, rtol=0)
    assert_allclose(scores.sum(-1), fixture["position_sums"], atol=tolerance * spec.vocab_size**0.5, rtol=0)
    # With a cache, one token after the other.
    flat, last, cache, made = unstack_layers(params), jnp.asarray(ids)[:, :8], init_cache(spec, len(ids), 24), []
    for _ in fixture["greedy"][0]:
        out = forward(spec, flat, last, cache=cache)
        cache, last = out.cache, compute_logits(spec, params, out.hidden[:, -1:]).argmax(-1)
        made.append(last[:, 0])
    assert jnp.stack(made, 1).tolist() == fixture["greedy"]


@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_those_of_torch(checkpoint, name):
    """With padding on either side and any padding token."""
    fixture, folder = checkpoint(name)
    spec, params = load_model(folder)
    rows = texts(spec.vocab_size, spec.encoder.token_types if spec.encoder else 0)
    ids, segments = pad_right([ids for ids, _ in rows], TOKENS)
    types, _ = pad_right([types for _, types in rows], TOKENS)
    for padding, move in ((0, 0), (11, 0), (11, 3)):
        # Rows are shorter than the bucket but for the first, which cannot move.
        turn = lambda array, move=move: np.concatenate([array[:1], np.roll(array[1:], move, 1)])
        marks = turn(segments)
        filled = np.where(marks, turn(ids), padding)
        hidden = forward(spec, params, jnp.asarray(filled), segments=jnp.asarray(marks),
                         types=jnp.asarray(turn(types))).hidden
        scores = text_scores(spec, params, hidden, jnp.asarray(marks))
        assert_allclose(scores, fixture["scores"], atol=1e-5 * fixture["scale"], rtol=0)


@pytest.mark.parametrize("name", FIXTURES)
def test_the_round_trip_is_exact(checkpoint, name, tmp_path):
    _, folder = checkpoint(name)
    spec, params = load_model(folder)
    save_model(tmp_path / "again", spec, params)
    again_spec, again = load_model(tmp_path / "again")
    assert again_spec == spec == load_spec(folder)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    with_bytes = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(with_bytes) == {"config.json", "model.safetensors"}


def test_every_family_has_a_fixture():
    assert {fixture["config"]["model_type"] for fixture in FIXTURES.values()} == set(FAMILIES)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
@pytest.mark.slow
def test_defaults_are_those_of_transformers(kind):
    """Keys that a config leaves out have the values that transformers takes for them."""
    from transformers import AutoConfig

    # Of several classes the one that predicts tokens, which is the last here.
    configs = [FIXTURES[name]["config"] for name in sorted(FIXTURES, key=lambda name: name not in SCORERS)]
    classes = {config["model_type"]: config["architectures"] for config in configs}
    full = AutoConfig.for_model(kind).to_dict() | {"architectures": classes[kind]}
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "n_embd",
             "n_layer", "n_head", "ffn_dim", "num_key_value_heads", "moe_intermediate_size", "num_local_experts",
             "dim", "hidden_dim", "n_layers", "n_heads")
    least = {name: full[name] for name in ("model_type", "architectures", *sizes) if full.get(name) is not None}
    assert read_config(least, "least") == read_config(full, "full")


@pytest.mark.parametrize("kind, key, value, what", [
    ("qwen3_moe", "mlp_only_layers", [0], "mlp_only_layers"), ("gemma2", "layer_types", ["strange"] * 26, "strange"),
    ("llama", "rope_scaling", {"rope_type": "spiral", "factor": 2.0}, "spiral"), ("opt", "enable_bias", False, "bias"),
    ("llama", "hidden_act", "mish", "mish"), ("gemma", "hidden_activation", "relu", "relu"),
    ("llama", "rope_scaling", {"rope_type": "yarn"}, "lack"), ("granite", "num_experts", 3, "num_experts")])
def test_unsupported_keys_are_named(kind, key, value, what):
    from transformers import AutoConfig

    full = AutoConfig.for_model(kind).to_dict()
    if key == "rope_scaling":
        full.pop("rope_parameters")
    with pytest.raises(UserError, match=what):
        read_config(full | {key: value}, "config.json")


def test_written_configs_are_read_back():
    for name, fixture in FIXTURES.items():
        spec = read_config(fixture["config"], name)
        assert read_config(write_config(spec, "float32"), name) == spec, name


# Keys of released checkpoints that do not change the network: from their config.json on the Hub.
REAL = {
    "Phi-3-mini-4k": ("phi3", {"attention_bias": False, "sliding_window": 2047}),
    "Phi-4-mini": ("phi3", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}),
    "Qwen2.5, base": ("qwen2", {"use_mrope": False, "sliding_window": 131072, "use_sliding_window": False}),
    "SmolLM2": ("llama", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}}),
    "saved by transformers 4.4x": ("qwen3", {"_attn_implementation_autoset": True}),
    "gpt2-large": ("gpt2", {"n_special": 0, "predict_special_tokens": True, "n_ctx": 1024}),
    "distilgpt2": ("gpt2", {"_num_labels": 1, "output_past": True}),
    "gpt-neox-20b": ("gpt_neox", {"hidden_act": "gelu_fast", "attention_probs_dropout_prob": 0,
                                  "hidden_dropout_prob": 0, "rotary_pct": 0.25, "rotary_emb_base": 10000}),
    "an unsloth mirror": ("llama", {"unsloth_fixed": True, "quantization_config": None}),
    "huggyllama": ("llama", {"max_sequence_length": 2048}),
    "gemma-2b, first release": ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_configs_are_read(name):
    from transformers import AutoConfig

    kind, extra = REAL[name]
    full = AutoConfig.for_model(kind).to_dict()
    assert read_config(full | extra, name).layers > 0


def test_a_yarn_window_is_extended():
    from transformers import AutoConfig

    full = AutoConfig.for_model("qwen2").to_dict() | {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}}
    assert read_config(full, "yarn").max_positions == 131072


@pytest.mark.parametrize("name, scaling, keys, window", [
    ("llama-1", {"type": "linear", "factor": 4.0}, {}, 256),
    ("llama-1", {"type": "linear", "factor": 4.0}, {"max_sequence_length": 1024}, 1024),
    ("llama-1", None, {"max_sequence_length": 1024}, 256),
    ("gpt-neox", {"type": "dynamic", "factor": 4.0}, {}, 1024), ("phi", {"type": "dynamic", "factor": 4.0}, {}, 1024)])
def test_the_window_of_extended_rotary_positions(name, scaling, keys, window):
    given = {key: value for key, value in FIXTURES[name]["config"].items() if key != "rope_parameters"}
    spec = read_config(given | {"rope_scaling": scaling, "max_position_embeddings": 256} | keys, "config.json")
    assert spec.max_positions == window and read_config(write_config(spec, "float32"), "written") == spec


@pytest.mark.parametrize("changes, window", [
    ({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 16}, 16)])
def test_the_window_of_experts_of_qwen3(changes, window):
    given = {key: value for key, value in FIXTURES["qwen3-moe"]["config"].items() if key != "sliding_window"}
    assert read_config(given | {"use_sliding_window": True} | changes, "config.json").window == window


def test_a_note_of_the_training_among_rotary_settings_is_ignored():
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    given = FIXTURES["llama-1"]["config"] | {"rope_parameters": None}
    assert read_config(given | {"rope_scaling": yarn | {"finetuned": True}}, "x") == read_config(
        given | {"rope_scaling": yarn}, "x")


def test_the_activation_of_a_two_layer_head_is_reported(checkpoint, capsys):
    load_spec(checkpoint("llama_reward_two-layers")[1])
    assert "is not in the files, and taken for ReLU" in capsys.readouterr().err


@pytest.mark.parametrize("scaling, differs", [
    ({"type": "yarn", "factor": 4.0}, "rope_type"), ({"rope_type": "linear", "factor": 4.0}, "rope_type"),
    ({"type": "default", "rope_theta": 5.0}, "rope_theta")])
@pytest.mark.parametrize("name", ["llama-1", "gemma-3"])
def test_two_descriptions_of_rotary_positions_that_differ_are_refused(name, scaling, differs):
    """Torch takes one of them, which depends on the family."""
    plain = {"rope_type": "default", "rope_theta": 1e6}
    given = FIXTURES[name]["config"] | {"rope_parameters": {
        "full_attention": plain, "sliding_attention": plain} if name == "gemma-3" else plain}
    with pytest.raises(UserError, match=f"'rope_scaling' and 'rope_parameters' differ in {differs}\n"):
        read_config(given | {"rope_scaling": scaling}, "config.json")
    assert read_config(given | {"rope_scaling": {"type": "default"}}, "x") == read_config(given, "x")


ROPES = {
    "dynamic": Rope(500.0, "dynamic", factor=4.0, original_positions=8),
    "longrope": Rope(500.0, "longrope", original_positions=8, short_factors=(1.0,) * 6, magnitude=1.1,
                     long_factors=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0)),
    "yarn": Rope(500.0, "yarn", factor=4.0, original_positions=8, magnitude=1.1),
}


@pytest.mark.parametrize("kind", ROPES)
def test_hidden_states_do_not_depend_on_padding_or_packing(llama, kind):
    spec, params = dataclasses.replace(llama[0], rope=ROPES[kind]), llama[1]
    text, other = random_tokens(1, 6), random_tokens(1, 14, seed=1)
    alone = forward(spec, params, text).hidden
    ones = jnp.ones_like
    for row, segments, start in [
        (jnp.pad(text, ((0, 0), (0, 14))), jnp.pad(ones(text), ((0, 0), (0, 14))), 0),
        (jnp.pad(text, ((0, 0), (14, 0))), jnp.pad(ones(text), ((0, 0), (14, 0))), 14),
        (jnp.concatenate([other, text], 1), jnp.concatenate([ones(other), 2 * ones(text)], 1), 14),
    ]:
        hidden = forward(spec, params, row, segments=segments).hidden[:, start:start + 6]
        assert_allclose(hidden, alone, atol=2e-5)


@pytest.mark.parametrize("kind, changes", [
    ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                                         "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4,
                                                               "factor": 2.0}}}),
    ("gemma2", {"layer_types": ["full_attention"] * 26}), ("phi", {"head_dim": 48}), ("phi3", {"head_dim": 48}),
    ("olmo2", {"head_dim": 48})])
def test_rare_config_keys_are_written_back(kind, changes):
    from transformers import AutoConfig

    spec = read_config(AutoConfig.for_model(kind).to_dict() | changes, kind)
    written = write_config(spec, "float32")
    assert read_config(written, kind) == spec
    for name in set(changes) - {"layer_types"}:
        assert written[name] == changes[name]
    if "layer_types" in changes:  # torch refuses a null here, even where no layer is local
        assert spec.window is None and isinstance(written["sliding_window"], int)


@pytest.mark.parametrize("kind, key, value", [
    ("llama", "partial_rotary_factor", 0.5), ("gemma3_text", "attn_logit_softcapping", 30.0),
    ("gpt_neox", "rope_theta", 5.0), ("distilbert", "layer_norm_eps", 1e-3)])
def test_keys_that_torch_ignores_are_refused(kind, key, value):
    """Applying such a key would compute something else than torch does."""
    from transformers import AutoConfig

    full = AutoConfig.for_model(kind).to_dict()
    full.pop("rope_parameters" if kind != "gemma3_text" else "none", None)
    with pytest.raises(UserError, match=key):
        read_config(full | {key: value}, "config.json")


@pytest.mark.parametrize("kind, key, value", [
    ("llama", "architectures", "LlamaForCausalLM"), ("llama", "bos_token_id", []),
    ("llama", "num_hidden_layers", 10**12), ("mixtral", "num_experts_per_tok", 2.5), ("phi3", "rope_parameters", {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [1.0]})])
def test_values_of_the_wrong_type_are_errors(kind, key, value):
    from transformers import AutoConfig

    with pytest.raises(UserError):
        read_config(AutoConfig.for_model(kind).to_dict() | {key: value}, "config.json")


def test_a_factor_of_the_default_rope_is_ignored():
    from transformers import AutoConfig

    full = AutoConfig.for_model("llama").to_dict()
    plain = full | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    assert read_config(full | {"rope_parameters": plain["rope_parameters"] | {"factor": 1.0}}, "x") == read_config(
        plain, "x")
