"""The public names: what every package exports, and that each is documented.

A change here is a change of the interface: note it in CHANGELOG.md.
"""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

import jaxllm

PUBLIC: dict[str, str] = {
    "jaxllm": """
        __version__ Generator load Model SamplingConfig""",
    "jaxllm.consistency": """
        Comparisons ESTIMATORS Instance load_template measure merge_sort rank Ranking read_instances read_matrices
        repair Repaired Settings summarize Template""",
    "jaxllm.cory": """
        collective_rewards Config CoryConfig exchange HeldBackConfig QueryConfig Team TeamConfig train
        Trained Trainer""",
    "jaxllm.finetune": """
        build_target collate common_lengths DivergenceConfig init_trained InterleavedTargets make_loss make_plan
        merged OnPolicyConfig OnPolicyTargets remove_checkpoints ReplayTargets run_plan Target target_divergence
        TargetSource TeacherCache train_run TrainPlan TrainResult""",
    "jaxllm.generate": """
        check_prompt Completion generate GenerationStats Generator Score score""",
    "jaxllm.codejudge": """
        CodeJudge Config Fault fault_score Item load_prompts METHODS PARSERS Prompts read_code read_items Taxonomy""",
    "jaxllm.judge": """
        Answer Cached Choice choice_of Completions FunctionJudge Invalid Judge judge_rows JudgeConfig JudgedRow
        JudgeSummary LocalJudge NoAnswer open_judge Options Prices Prompt RecordedJudge retry_in_conversation
        retry_same_prompt RewardJudge Sample ServerJudge split_answerable Usage""",
    "jaxllm.models": """
        Adapter adapter_axes Cache compute_logits forward Head init_adapter init_cache init_params init_value_head
        load_model load_spec logical_axes LoraConfig merge_adapter ModelSpec Output Params prefill Prefix Rope
        save_model stack_layers sum_adapters text_scores unembedding unstack_layers value_predictions
        with_score_head""",
    "jaxllm.ops": """
        acyclic adapt_kl_coef aggregate class_cross_entropy combined_reward commutativity
        cross_entropy cyclic_triads debias gae group_advantages hodge_rank importance_weights
        init_moments kendall_zeta kl_distillation ld_token_weights masked_sum matmul
        negation_invariance nll_scale order_accuracy overlong_penalty Pairs pairwise_accuracy
        policy_terms PolicySettings position_bias preference_graph preference_loss
        PreferenceSettings quantize Quantized reward_loss sampled_transitivity shape_scores
        standard_deviation token_aligned_logprobs token_divergence token_entropy token_kl
        token_logprobs token_mean token_rewards token_statistics top_k_kl top_k_logprobs
        transitivity Unembedding Unpaired update_moments value_terms whiten wpo_weights""",
    "jaxllm.report": """
        Bars Graph head Heat Histogram Lines markdown Points render Section Table""",
    "jaxllm.rl": """
        Algorithm ALGORITHMS Experience init_agent Learner make_rollout penalized RlConfig Rollout""",
    "jaxllm.self_param": """
        answer_questions FormatConfig inject InjectConfig Injection Prompts QAPair""",
    "jaxllm.text": """
        bucket bucket_sizes ClassifyRow encode_all encode_completion encode_example encode_pair
        encode_reward_pair encode_text Encoded EncodedRows Example iter_rows load_tokenizer Message NonEmpty
        pack pad_right PairRow pairs_from_ranks pairs_from_scores pairs_from_unpaired preference_rows
        PreferenceRows ranks_from_pairs read_rows Rejected Row RowSet scores_from_pairs SftRow split_by_prompt
        Tokenizer TooLong unpaired_from_pairs UnpairedRow""",
    "jaxllm.train": """
        ABSENT abstract_state batch_sharding BatchFn Checkpointer count_tokens decay_mask DECAYED epoch_permutation
        FinishFn fit FitResult Hook init_state LossFn make_mesh make_optimizer make_schedule make_train_step
        MESH_AXES MetricsSink MetricsWriter model_shardings open_metrics OptimizerConfig Params put_batch read_metrics
        replicated Restored row_indices RULES Session shardings StorageError SumAndWeight TrainConfig TrainState
        TrainStep""",
}
packages = pytest.mark.parametrize("package", sorted(PUBLIC))
# A verb in the third person begins a function's docstring: "Reads ...".
VERB = re.compile(r"[A-Z][a-z]+s\b|See\b|`\w+`")


@packages
def test_exported_names_are_pinned(package):
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC[package].split())


@packages
def test_exported_names_resolve_and_are_documented(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        text = inspect.getdoc(value)
        assert text and not text.startswith(f"{name}("), f"{package}.{name} has no docstring"
        if inspect.isfunction(value):
            assert VERB.match(text), f"{package}.{name}: a function's docstring begins with a verb: {text[:60]!r}"
        else:
            assert text[0].isupper() or text[0] == "`", f"{package}.{name}: {text[:60]!r}"


def test_every_package_is_pinned():
    from tests.test_imports import PACKAGE

    having = {f"jaxllm.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py") if "__all__" in path.read_text()}
    assert having | {"jaxllm"} == set(PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Models'"):
        jaxllm.Models  # noqa: B018
    assert set(jaxllm.__all__) <= set(dir(jaxllm))


def test_importing_the_package_imports_nothing_heavy():
    code = ("import sys, os; before = dict(os.environ); import jaxllm; dir(jaxllm); assert dict(os.environ) == before; "
            "assert not {'jax', 'numpy', 'flax', 'transformers'} & set(sys.modules), 'heavy'; jaxllm.SamplingConfig; "
            "assert 'jax' not in sys.modules, 'SamplingConfig imports jax'")
    subprocess.run([sys.executable, "-c", code], check=True)
