"""Real `config.json` files, and the rule for keys that no forward pass reads."""

import gzip
import json

import pytest

from jaxllm.errors import UserError
from jaxllm.models import load_spec
from jaxllm.models.families import read_all_keys, read_config, write_config
from tests.networks import GPT2, LLAMA

# Published with `hf_quant_config.json`, as its config.json does not describe the quantization.
QUANTIZED_ELSEWHERE = "nvidia--Qwen3-235B-A22B-NVFP4"


def config(spec=LLAMA, **keys):
    return write_config(spec, "float32") | keys


def refusal(config):
    with pytest.raises(UserError) as caught:
        read_config(config, "config.json")
    return str(caught.value)


def test_published_files_are_accepted_and_refused_as_they_should(shared, tmp_path):
    file = shared / "configs" / "configs.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"the collection of config files is not at hand ({file})")
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    wrong, counts = [], {"accept": 0, "refuse": 0}
    for line in gzip.open(file, "rt", encoding="utf-8"):
        row = json.loads(line)
        (tmp_path / "config.json").write_text(json.dumps(row["config"]))
        elsewhere = QUANTIZED_ELSEWHERE in row["origin"]
        try:
            load_spec(tmp_path) if elsewhere else read_config(row["config"], row["origin"])
            outcome, reason = "accept", ""
        except UserError as error:
            outcome, reason = "refuse", str(error)
        counts[outcome] += 1
        if outcome != row["expected"]:
            wrong.append((row["origin"], row["expected"], reason))
    assert not wrong
    assert counts["accept"] > 150 and counts["refuse"] > 15


@pytest.mark.parametrize(("name", "value"), [
    ("tie_weights_", True), ("eos_token_ids", 0), ("unk_token_id", 100), ("_model_name_or_path", "a/b"),
    ("_flash_attn_2_enabled", True), ("xla_device", True), ("gradient_checkpointing", True), ("min_p", 0.1),
    ("sentence_transformers", {"version": "5.1.2"}), ("line_by_line", True), ("custom_pipelines", {"a": {}}),
    ("peft_type", "LORA"), ("lora_alpha", 16), ("target_modules", ["q_proj"]), ("hidden_dropout_prob", 0.1),
    ("num_steps", "global_step320000"), ("type_vocab_size", 16), ("add_cross_attention", False),
    ("shared_expert_intermediate_size", 0), ("alibi", False), ("quantization", None)])
def test_a_key_without_effect_is_passed_over_and_listed(name, value):
    spec, passed_over = read_all_keys(config(**{name: value}), "config.json")
    assert spec == LLAMA and passed_over == ({} if value is None else {name: value})


@pytest.mark.parametrize(("name", "value"), [
    ("n_vocab", LLAMA.vocab_size), ("emb_size", LLAMA.width), ("n_layers", LLAMA.layers),
    ("num_heads", LLAMA.heads), ("rotary_pct", 1.0), ("is_causal", True), ("use_rope", True), ("use_qk_norm", False),
    ("n_positions", LLAMA.max_positions), ("max_seq_len", LLAMA.max_positions)])
def test_a_key_that_repeats_what_the_network_has_is_passed_over(name, value):
    given = config(**{name: value})
    assert read_all_keys(given, "config.json") == (LLAMA, {name: value})


@pytest.mark.parametrize(("name", "value"), [
    ("n_vocab", 999), ("emb_size", 999), ("n_ctx", 999), ("rotary_pct", 0.25), ("is_causal", False),
    ("use_rope", False), ("rotary", False), ("use_qk_norm", True), ("alibi", True), ("kv_lora_rank", 512),
    ("attn_logit_softcapping", 50.0), ("num_experts", 8), ("residual_multiplier", 0.22), ("logit_scale", 0.5),
    ("sliding_window", 4096), ("add_cross_attention", True), ("layer_types", ["sliding_attention"] * LLAMA.layers)])
def test_a_key_that_can_change_the_result_is_refused(name, value):
    assert f"{name}={value!r}" in refusal(config(**{name: value}))


def test_what_holds_depends_on_the_network():
    assert read_config(config(GPT2, use_rope=False, rotary_dim=0, hidden_size=GPT2.width), "config.json") == GPT2
    assert "rotary_dim=8" in refusal(config(GPT2, rotary_dim=8))


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering", "MultipleChoice"])
def test_a_class_with_labels_of_other_things_than_texts_is_refused(task):
    """Its head may have the name of a text classifier's."""
    assert f"class 'LlamaFor{task}' is not supported" in refusal(config(architectures=[f"LlamaFor{task}"]))


@pytest.mark.parametrize(("architecture", "auto_map"), [
    ("LlamaCycleForCausalLM", {"AutoModelForCausalLM": "modeling_cycle.LlamaCycleForCausalLM"}),
    ("LlamaForCausalLM", {"AutoModelForCausalLM": "org/repo--modeling_cycle.LlamaCycleForCausalLM"})])
def test_a_class_of_the_repositorys_own_code_is_refused(architecture, auto_map):
    message = refusal(config(architectures=[architecture], auto_map=auto_map))
    assert "class 'LlamaCycleForCausalLM' is the repository's own code (modeling_cycle.LlamaCycle" in message


@pytest.mark.parametrize("auto_map", [
    {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}])
def test_code_of_a_class_that_transformers_has_is_not_needed(auto_map):
    assert read_config(config(auto_map=auto_map), "config.json") == LLAMA


@pytest.mark.parametrize("name", ["quantization_config", "quantization", "compression_config"])
def test_quantized_weights_are_refused_by_whichever_key_describes_them(name):
    assert "the checkpoint is quantized" in refusal(config(**{name: {"group_size": 64, "bits": 4}}))


def test_quantization_in_a_file_of_its_own_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config()))
    about = tmp_path / "hf_quant_config.json"
    about.write_text(json.dumps({"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}))
    assert load_spec(tmp_path) == LLAMA
    about.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(UserError, match=r"hf_quant_config.json: the checkpoint is quantized \(NVFP4\)"):
        load_spec(tmp_path)
