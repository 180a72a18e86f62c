"""Heads that score texts and positions, and the table of relative positions of the encoder that has one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxllm.errors import UserError
from jaxllm.models import Head, init_value_head, load_model, save_model, text_scores, value_predictions, with_score_head
from jaxllm.models.disentangled import distance_index
from jaxllm.models.heads import text_features
from jaxllm.models.spec import Encoder, Relative
from jaxllm.models.tensors import Tensors
from tests.networks import GPT2, LLAMA, forward, random_params, random_tokens

FIRST, LAST = (dataclasses.replace(LLAMA, width=2, head=Head(2, token, bias=True)) for token in ("first", "last"))
# One state a position, so that a state shows where it came from.
STATES = jnp.tile(jnp.arange(5.0)[None, :, None] * jnp.array([1.0, 10.0]), (4, 1, 1))
SEGMENTS = jnp.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0]])


def test_the_token_that_represents_a_text():
    """No padding, on the left, on the right, on both sides."""
    assert text_features(FIRST, STATES, SEGMENTS)[:, 0].tolist() == [0.0, 2.0, 0.0, 1.0]
    assert text_features(LAST, STATES, SEGMENTS)[:, 0].tolist() == [4.0, 4.0, 2.0, 1.0]
    assert text_features(LAST, STATES, SEGMENTS)[:, 1].tolist() == [40.0, 40.0, 20.0, 10.0]


def test_a_classifier_skips_trailing_padding_tokens():
    """The end token often is the padding token. A text of padding tokens alone is represented by its last token."""
    classifier = dataclasses.replace(LAST, pad_id=9, head=dataclasses.replace(LAST.head, before_padding=True))
    tokens = jnp.array([[5, 6, 7, 9, 9], [9, 9, 5, 9, 6], [5, 9, 9, 9, 9], [3, 9, 3, 3, 3]])
    assert text_features(classifier, STATES, SEGMENTS, tokens)[:, 0].tolist() == [2.0, 4.0, 0.0, 1.0]
    assert text_features(LAST, STATES, SEGMENTS, tokens)[:, 0].tolist() == [4.0, 4.0, 2.0, 1.0]


def test_scores_by_hand():
    """A text with last state (i, 10 i) scores (i + 10 i + 0.5, -i + 20 i - 0.5)."""
    kernel, bias = jnp.array([[1.0, -1.0], [1.0, 2.0]]), jnp.array([0.5, -0.5])
    params = {"score": {"out": {"kernel": kernel, "bias": bias}}}
    scores = text_scores(LAST, params, STATES.astype(jnp.bfloat16), SEGMENTS)
    assert scores.dtype == jnp.float32
    assert scores.tolist() == [[44.5, 75.5], [44.5, 75.5], [22.5, 37.5], [11.5, 18.5]]
    plain = dataclasses.replace(LAST, head=Head(2, "last"))
    assert text_scores(plain, {"score": {"out": {"kernel": kernel}}}, STATES, SEGMENTS)[3].tolist() == [11.0, 19.0]


@pytest.mark.parametrize("activation, curve", [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_a_hidden_layer_by_hand(activation, curve):
    """First state (i, 10 i), hidden layer (x - y / 5, y / 10 - x) + (0.5, -0.5), then the sum of both."""
    spec = dataclasses.replace(FIRST, head=Head(1, "first", hidden=activation))
    params = {"score": {"hidden": {"kernel": jnp.array([[1.0, -1.0], [-0.2, 0.1]]), "bias": jnp.array([0.5, -0.5])},
                        "out": {"kernel": jnp.array([[1.0], [1.0]])}}}
    scores = text_scores(spec, params, STATES, SEGMENTS)
    first = np.array([0.0, 2.0, 0.0, 1.0])
    assert_allclose(scores[:, 0], curve(0.5 - first) + curve(np.full(4, -0.5)), rtol=1e-5, atol=1e-6)


def test_a_network_without_a_head():
    with pytest.raises(ValueError, match="this llama network has no scoring head"):
        text_scores(LLAMA, {}, STATES, SEGMENTS)


def test_padding_changes_no_score():
    spec = dataclasses.replace(LLAMA, layers=2, head=Head(3, "last", hidden="tanh"))
    params, tokens = random_params(spec, seed=5), random_tokens(1, 6)
    assert "head" not in params
    pad = lambda left, right: jnp.pad(tokens, ((0, 0), (left, right)), constant_values=9)
    segments = lambda left, right: jnp.pad(jnp.ones_like(tokens), ((0, 0), (left, right)))
    rows, marks = (jnp.concatenate([make(0, 4), make(4, 0), make(1, 3)]) for make in (pad, segments))
    scores = text_scores(spec, params, forward(spec, params, rows, segments=marks).hidden, marks)
    assert scores.shape == (3, 3) and float(jnp.std(scores[0])) > 0.01
    assert_allclose(scores[1:], jnp.stack([scores[0]] * 2), atol=1e-5)


def test_values_by_hand():
    head = {"kernel": jnp.array([[1.0], [0.25]]), "bias": jnp.array([-3.0])}
    assert value_predictions(head, STATES)[0].tolist() == [-3.0, 0.5, 4.0, 7.5, 11.0]


def test_values_are_float32_throughout():
    """1 + 2^-10 is 1 in bfloat16: products of such a weight survive only in float32."""
    head = {"kernel": jnp.array([[1 + 2.0**-10]]), "bias": jnp.zeros(1)}
    values = value_predictions(head, jnp.array([[[1.0], [3.0]]], jnp.bfloat16))
    assert values.dtype == jnp.float32
    assert values.tolist() == [[1 + 2.0**-10, 3 + 3 * 2.0**-10]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fresh_value_head_predicts_zero(dtype):
    head = init_value_head(LLAMA, dtype)
    assert head["kernel"].shape == (LLAMA.state_width, 1) and head["kernel"].dtype == head["bias"].dtype == dtype
    assert value_predictions(head, jnp.ones((2, 3, LLAMA.state_width), dtype)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("base", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(("labels", "names"), [(1, ()), (3, ("no", "so so", "yes"))])
def test_a_new_head_on_a_language_model(tmp_path, base, labels, names):
    """The checkpoint is that of a sequence classifier, without the head of the language model, and it loads."""
    params = random_params(base, seed=3)
    spec, scoring = with_score_head(base, params, labels, names)
    kernel = scoring["score"]["out"]["kernel"]
    assert kernel.shape == (base.width, labels) and kernel.dtype == jnp.float32
    assert "head" not in scoring and scoring["layers"] is params["layers"]
    save_model(tmp_path / "model", spec, scoring)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [{"llama": "Llama", "gpt2": "GPT2"}[base.family] + "ForSequenceClassification"]
    labeled = list(names) or ["LABEL_0"]
    assert config["num_labels"] == labels and config["id2label"] == {str(i): x for i, x in enumerate(labeled)}
    assert config["label2id"] == {name: i for i, name in enumerate(labeled)}
    with Tensors(tmp_path / "model") as tensors:
        assert tensors.shape("score.weight") == (labels, base.width)
        assert not [name for name in tensors.names() if name.startswith("lm_head")]
    loaded, back = load_model(tmp_path / "model")
    assert loaded == spec
    jax.tree.map(assert_array_equal, back, scoring)


def test_a_new_head_is_normal_and_of_its_seed():
    wide = dataclasses.replace(LLAMA, width=4096)
    draw = lambda seed: with_score_head(wide, {"embed": jnp.zeros(1), "head": jnp.zeros(1)}, 2, seed=seed)[1]["score"]
    kernel = draw(0)["out"]["kernel"]
    assert abs(float(kernel.std()) / 0.02 - 1) < 0.05 and abs(float(kernel.mean())) < 0.02 / 20
    assert_array_equal(kernel, draw(0)["out"]["kernel"])
    assert not np.array_equal(kernel, draw(1)["out"]["kernel"])


def test_a_head_with_as_many_scores_is_kept(capsys):
    spec = dataclasses.replace(LLAMA, head=Head(2, "last", bias=True, name="v_head"))
    params = random_params(spec, seed=1)
    kept, same = with_score_head(spec, params, 2)
    assert kept == spec and same is params
    assert with_score_head(spec, params, 2, ("bad", "good"))[0].head.label_names == ("bad", "good")
    assert not capsys.readouterr().err
    new, other = with_score_head(spec, params, 1)
    assert new.head == Head(1, "last", before_padding=True) and other["score"]["out"]["kernel"].shape == (32, 1)
    assert "2 scores, not 1" in capsys.readouterr().err


def test_an_encoder_keeps_the_hidden_layer_of_its_head():
    spec = dataclasses.replace(LLAMA, head=Head(3, "first", True, "tanh", name="classifier"),
                               encoder=Encoder(token_types=2))
    params = {"embed": jnp.zeros(1), "score": {"hidden": {"kernel": jnp.ones((32, 32)), "bias": jnp.ones(32)},
                                               "out": {"kernel": jnp.ones((32, 3)), "bias": jnp.ones(3)}}}
    new, scoring = with_score_head(spec, params, 2, ("a", "b"))
    assert new.head == dataclasses.replace(spec.head, labels=2, label_names=("a", "b"))
    assert scoring["score"]["hidden"] is params["score"]["hidden"]
    assert scoring["score"]["out"]["kernel"].shape == (32, 2) and scoring["score"]["out"]["bias"].tolist() == [0, 0]


@pytest.mark.parametrize(("labels", "names", "message"), [
    (0, (), "must be 1 or more"), (2, ("a",), "2 different names"), (2, ("a", "a"), "2 different names")])
def test_labels_of_a_head_are_checked(labels, names, message):
    with pytest.raises(UserError, match=message):
        with_score_head(LLAMA, {}, labels, names)


def test_the_last_token_is_read_where_the_end_token_pads():
    """pad = eos = 2 also inside the text and at its end: index 5, not 1, 4 or 3; the same left padded."""
    spec, _ = with_score_head(dataclasses.replace(LAST, head=None, pad_id=2), {"embed": jnp.zeros(1)}, 1)
    assert spec.pad_id is None
    states = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (2, 8, 2))
    tokens = jnp.array([[1, 5, 2, 6, 7, 2, 2, 2], [2, 2, 1, 5, 2, 6, 7, 2]])
    segments = jnp.array([[1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])
    assert text_features(spec, states, segments, tokens)[:, 0].tolist() == [5.0, 7.0]


def test_scores_that_bfloat16_ties():
    """18.02 and 18.05 are 18 in bfloat16; the head multiplies in float32, in any dtype of its weights."""
    spec = dataclasses.replace(LAST, width=3, head=Head(1, "last"))
    states = jnp.array([[[18.0, 0.02, 0.0]], [[18.0, 0.02, 0.03]]], jnp.bfloat16)
    params = {"score": {"out": {"kernel": jnp.ones((3, 1), jnp.bfloat16)}}}
    chosen, rejected = text_scores(spec, params, states, jnp.ones((2, 1), jnp.int32))[:, 0]
    assert chosen < rejected and jnp.bfloat16(chosen) == jnp.bfloat16(rejected) == 18.0


def relative(distance, buckets):
    return Relative(distance, buckets, content=True, position=True, norm=True)


def test_distances_without_buckets():
    """Each up to three has its own row, 4 + t - s; larger ones share the last."""
    assert distance_index(relative(4, None), 6).tolist() == [
        [4, 3, 2, 1, 0, 0], [5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1], [7, 6, 5, 4, 3, 2], [7, 7, 6, 5, 4, 3],
        [7, 7, 7, 6, 5, 4]]


def test_buckets_by_hand():
    """8 buckets up to distance 20: 0 to 4 as they are, then 4 + ceil(3 ln(d / 4) / ln(19 / 4)), 8 in the middle.

    3 ln(d / 4) / ln(19 / 4) is 0.43 and 0.78 for 5 and 6, 1.08 to 1.95 for 7 to 11, 2.12 to 3 for 12 to 19.
    """
    index = distance_index(relative(20, 8), 22)
    buckets = [0, 1, 2, 3, 4, 5, 5, *[6] * 5, *[7] * 8, 8, 8]
    assert index[21, ::-1].tolist() == [min(8 + bucket, 15) for bucket in buckets]
    assert index[0].tolist() == [8 - bucket for bucket in buckets]
    assert index.dtype == np.int32
    # rows depend on the distance alone
    assert_array_equal(index[1:, 1:], index[:-1, :-1])


def test_the_buckets_of_released_checkpoints():
    """256 buckets up to distance 512: 128 + ceil(127 ln(d / 128) / ln(511 / 128)), 256 in the middle."""
    column = distance_index(relative(512, 256), 512)[:, 0]
    assert column[:129].tolist() == list(range(256, 385))
    # 127 ln(200 / 128) / ln(511 / 128) = 40.94, for 300: 78.14, for 510: 126.82, for 511: 127
    assert column[[200, 300, 510, 511]].tolist() == [256 + 128 + 41, 256 + 128 + 79, 511, 511]
    assert np.all(np.diff(column) >= 0)


@pytest.mark.parametrize("distance, buckets", [(512, 256), (20, 8), (512, 32)])
@pytest.mark.slow
def test_buckets_are_those_of_transformers(distance, buckets):
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    states = torch.zeros(1, 512, 1)
    theirs = build_relative_position(states, states, buckets, distance)[0].numpy()
    assert_array_equal(distance_index(relative(distance, buckets), 512), np.clip(theirs + buckets, 0, 2 * buckets - 1))
