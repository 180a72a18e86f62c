"""Prefix trees: which prefixes are nodes, and scores that do not depend on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.config import SamplingConfig
from jaxllm.generate import GenerationStats, Generator, prefixes, scheduler, scoring, slots
from jaxllm.generate.prefixes import PrefixGroup, PrefixNode, prefix_groups, prefix_tree
from jaxllm.model import Model
from tests.letters import Letters
from tests.networks import LLAMA, forward, random_params

SPEC = dataclasses.replace(LLAMA, eos_ids=(), max_positions=256)


def tokens(count, seed):
    return np.random.default_rng(seed).integers(3, SPEC.vocab_size, count).tolist()


def judge_prompts():
    """A rubric of 40 tokens for all, programs of 40 for three questions each, questions of 3 to 5; one other prompt."""
    rubric = tokens(40, 100)
    return [tokens(12, 99), *([*rubric, *tokens(40, program), *tokens(3 + question, 50 + question)]
                              for program in range(4) for question in range(3))]


def test_nodes_by_hand():
    prompts = [np.array(ids, np.int32) for ids in judge_prompts()]
    root = prefix_tree(prompts)
    assert root.length == 0 and root.members == [0] and len(root.children) == 1
    (rubric,) = root.children
    assert rubric.length == 40 and rubric.members == [] and [node.length for node in rubric.children] == [80] * 4
    assert sorted(node.members for node in rubric.children) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert all(node.example in node.members and not node.children for node in rubric.children)
    assert prefix_tree(prompts, shared=False) == PrefixNode(0, 0, list(range(13)), [])


def test_groups_are_the_nodes_depth_first():
    groups = prefix_groups([np.array(ids, np.int32) for ids in judge_prompts()])
    assert groups[0] == PrefixGroup(0, -1, groups[0].example, [0])
    assert groups[1] == PrefixGroup(40, 0, groups[1].example, []) and groups[1].example > 0
    assert [(group.length, group.parent, group.members) for group in groups[2:]] == [
        (80, 1, [1, 2, 3]), (80, 1, [4, 5, 6]), (80, 1, [7, 8, 9]), (80, 1, [10, 11, 12])]


@pytest.mark.parametrize(("slots", "programs"), [(4, 4), (1, 11)])
def test_generation_reads_every_prefix_once(monkeypatch, slots, programs):
    """The same tokens as without shared prefixes, where the programs alternate. One slot of 256 tokens is less than a
    rubric and two programs (64 + 2 * 128), so that a program is read again for each of its questions, but for the
    first, of which two questions follow each other."""
    monkeypatch.setattr(scheduler, "SORTED_PROMPTS_PER_SLOT", 1)
    generator = Generator(Model(SPEC, random_params(SPEC, seed=7), Letters()), batch_size=slots)
    sampling, stats, whole = SamplingConfig(temperature=0.7, max_tokens=5), GenerationStats(), GenerationStats()
    first, *others = judge_prompts()
    prompts = [first, *others[::3], *others[1::3], *others[2::3]]
    texts = generator.generate(prompts, sampling, stats=stats)
    monkeypatch.setattr(prefixes, "SMALLEST_SHARED_TOKENS", 10**6)
    expected = generator.generate(prompts, sampling, stats=whole)
    for ours, theirs in zip(texts, expected, strict=True):
        assert ours[0].token_ids == theirs[0].token_ids
        assert_allclose(ours[0].logprobs, theirs[0].logprobs, atol=1e-5)
    own = 12 + 4 * (3 + 4 + 5)
    assert whole.prompt_tokens == 12 * 80 + own
    # The rubric is in the chain of every program, so that it stays in memory either way.
    assert stats.prompt_tokens == 40 + programs * 40 + own


def test_prefixes_that_save_little_are_no_nodes():
    """Fifteen shared tokens are too few; so are 20 for three prompts. A prompt keeps its last token."""
    row = lambda *ids: np.array(ids, np.int32)
    short, long = tokens(15, 1), tokens(20, 2)
    assert prefix_tree([row(*short, i) for i in range(1, 9)]).children == []
    assert prefix_tree([row(*long, i) for i in range(1, 4)]).children == []
    (node,) = prefix_tree([row(*long, i) for i in range(1, 6)]).children
    assert (node.length, node.members) == (20, [0, 1, 2, 3, 4])
    (node,) = prefix_tree([row(*long), *(row(*long, i) for i in range(1, 6))]).children
    assert (node.length, node.members) == (19, [0, 1, 2, 3, 4, 5])
    # A node with one child and nothing else would save nothing: its tokens belong to the child.
    (node,) = prefix_tree([row(*long, *tokens(40, 3), i) for i in range(1, 6)]).children
    assert (node.length, node.children) == (60, [])


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, max_positions=96)], ids=["wide", "tight"])
@pytest.mark.slow
def test_scores_are_those_without_a_tree_and_every_prefix_is_read_once(monkeypatch, spec):
    generator = Generator(Model(spec, random_params(spec, seed=7), Letters()))
    pairs = [(prompt, tokens(1 + option, option)) for prompt in judge_prompts() for option in range(2)]
    stats, whole = GenerationStats(), GenerationStats()
    scores = generator.score(pairs, stats=stats)
    programs = slots.extend_prefix._cache_size()
    generator.score(pairs)
    assert slots.extend_prefix._cache_size() == programs
    for module in (prefixes, scoring):
        monkeypatch.setattr(module, "SMALLEST_SHARED_TOKENS", 10**6)
    expected = generator.score(pairs, stats=whole)
    for score, other in zip(scores, expected, strict=True):
        assert_allclose(score.logprobs, other.logprobs, atol=1e-5)
    own = 12 + 4 * (3 + 4 + 5) + 13  # the other prompt, questions, and the first token of options of two
    assert stats.prompt_tokens == 40 + 4 * 40 + own
    assert whole.prompt_tokens == 12 * 80 + own


def test_texts_that_begin_alike_share_a_segment(monkeypatch):
    """Two questions about each of six pairs of answers, by one token or several: what two texts share is read once."""
    generator = Generator(Model(SPEC, random_params(SPEC, seed=7), Letters()))
    pairs = [([*tokens(20, 3 + pair), *tokens(3 + question, 40 + question)], tokens(1 + option, option))
             for pair in range(6) for question in range(2) for option in range(1 + pair % 3)]
    stats, whole = GenerationStats(), GenerationStats()
    scores = generator.score(pairs, stats=stats)
    monkeypatch.setattr(scoring, "SMALLEST_SHARED_TOKENS", 10**6)
    for score, other in zip(scores, generator.score(pairs, stats=whole), strict=True):
        assert_allclose(score.logprobs, other.logprobs, atol=1e-5)
    # Options of none, one and two tokens that are computed: one, two or three a question, of two pairs each.
    questions, options = 6 * (3 + 4), 2 * 2 * (1 + (1 + 2))
    # Where two questions share a segment each option repeats its own question.
    repeated = 2 * (3 + 4) * (1 + 2)
    assert whole.prompt_tokens == 12 * 20 + questions + options
    assert stats.prompt_tokens == 6 * 20 + questions + options + repeated


def test_more_continuations_than_tokens():
    """Forty answers of one token each to short prompts."""
    generator = Generator(Model(SPEC, random_params(SPEC, seed=7), Letters()))
    prompts = [tokens(4, 3 + number) for number in range(20)]
    stats = GenerationStats()
    scores = generator.score([(prompt, [answer]) for prompt in prompts for answer in range(3, 43)], stats=stats)
    assert stats.prompt_tokens == 20 * 4
    for number, prompt in enumerate(prompts[:3]):
        hidden = forward(SPEC, generator.model.params, jnp.asarray([prompt])).hidden[0, -1]
        logprobs = jax.nn.log_softmax(hidden @ generator.model.params["head"].T)
        assert_allclose([score.logprob for score in scores[40 * number:40 * (number + 1)]], logprobs[3:43], atol=1e-4)
