"""Preference losses against TRL, from logits to values, gradients and metrics; against formulas in torch elsewhere.

TRL's own loss methods run on given logits: the model and the trainer around them are stubs.
"""

import functools
import os
from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
pytest.importorskip("trl", "1.16")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from torch.nn.functional import cross_entropy, logsigmoid  # noqa: E402
from trl.experimental.cpo import CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOTrainer  # noqa: E402
from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402
from trl.trainer.kto_trainer import KTOTrainer  # noqa: E402
from trl.trainer.reward_trainer import RewardTrainer  # noqa: E402

from jaxllm.ops import (  # noqa: E402
    Pairs,
    PreferenceSettings,
    Unembedding,
    Unpaired,
    class_cross_entropy,
    ld_token_weights,
    preference_loss,
    reward_loss,
    token_aligned_logprobs,
    token_logprobs,
    wpo_weights,
)
from jaxllm.ops.preference_losses import LOSSES  # noqa: E402

P, T, V = 5, 9, 7
S = PreferenceSettings
LIMIT = 1e-4


@pytest.fixture(scope="module")
def batch():
    """Five pairs: chosen rows, then rejected rows. `mask` marks the completion's tokens among the targets."""
    random = np.random.default_rng(0)
    start, length = random.integers(1, 4, 2 * P), random.integers(2, 6, 2 * P)
    position = np.arange(T)
    return SimpleNamespace(
        policy=(2 * random.normal(size=(2 * P, T, V))).astype("f"),
        reference=(2 * random.normal(size=(2 * P, T, V))).astype("f"), ids=random.integers(0, V, (2 * P, T + 1)),
        mask=(position >= start[:, None]) & (position < (start + length)[:, None]), start=start, length=length)


def our_pairs(batch, logits, *, ld_alpha=None, wpo=False, reference=True):
    """Builds pairs from logits by the functions of `jaxllm.ops`."""
    identity, targets, mask = Unembedding(jnp.eye(V)), jnp.asarray(batch.ids[:, 1:]), jnp.asarray(batch.mask)
    mean = lambda values: (values * mask).sum(1) / batch.length
    factors = mask.astype(jnp.float32)
    if ld_alpha is not None:
        other = np.roll(batch.length, P)
        factors *= ld_token_weights(jnp.arange(T) - jnp.asarray(batch.start)[:, None],
                                    jnp.asarray(batch.length)[:, None], jnp.asarray(other)[:, None], ld_alpha)
    total = lambda logits: (token_logprobs(logits, identity, targets) * factors).sum(1)
    policy = total(logits)
    tokens = jnp.asarray(batch.length, jnp.float32)
    fields = dict(chosen=policy[:P], rejected=policy[P:], chosen_tokens=tokens[:P], rejected_tokens=tokens[P:],
                  weight=jnp.ones(P))
    theirs = total(jnp.asarray(batch.reference)) if reference else jnp.zeros(2 * P)
    fields |= dict(reference_chosen=theirs[:P], reference_rejected=theirs[P:])
    if ld_alpha is not None:
        nll = -(token_logprobs(logits, identity, targets) * mask).sum(1)
        fields |= dict(chosen_nll=nll[:P], rejected_nll=nll[P:])
    if wpo:
        aligned = mean(token_aligned_logprobs(logits, identity, targets))
        fields["importance"] = wpo_weights(aligned[:P], aligned[P:])
    return Pairs(**fields)


def our_loss(batch, losses, settings, **build):
    def mean(logits):
        (total, weight), metrics = preference_loss(losses, our_pairs(batch, logits, **build), settings)
        return total / weight, {name: own / count for name, (own, count) in metrics.items()}

    (value, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(batch.policy))
    return value, gradient, metrics


class Model(torch.nn.Module):
    """Returns given logits' log-probabilities in place of a network, in the fields that TRL reads."""

    is_gradient_checkpointing = False

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, *, labels, **_):
        targets = labels[:, 1:]
        log_probs = self.logits.log_softmax(-1)
        own = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != -100)
        fill = torch.zeros_like(own)
        return SimpleNamespace(log_probs=own, log_sum_sq_probs=(2 * log_probs).exp().sum(-1).log(), entropy=fill,
                               mean_logits=fill, is_top1=fill.bool())


def trainer(**settings):
    """A stub of the trainer on one device, with defaults of TRL's settings."""
    same = lambda values: values
    return SimpleNamespace(**dict(
        beta=0.1, label_smoothing=0.0, loss_types=["sigmoid"], loss_weights=[1.0], ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5, precompute_ref_logps=False, aux_loss_enabled=False,
        model=Model(None), _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05, center_rewards_coefficient=None),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same)) | settings)


def dpo(batch, losses, **settings):
    """Runs TRL's DPO loss. Returns its value, its gradient with respect to the logits, and the metrics."""
    logits = torch.tensor(batch.policy, requires_grad=True)
    stub = trainer(loss_types=list(losses), loss_weights=list(losses.values()),
                       ref_model=Model(torch.tensor(batch.reference)), **settings)
    mask = torch.cat([torch.zeros(2 * P, 1), torch.tensor(batch.mask)], dim=1).long()
    inputs = dict(input_ids=torch.tensor(batch.ids), attention_mask=torch.ones_like(mask), completion_mask=mask)
    value = DPOTrainer._compute_loss(stub, Model(logits), inputs, False)
    value.backward()
    return value.item(), logits.grad.numpy(), {name: own[-1] for name, own in stub._metrics["train"].items()}


def assert_equal(ours, theirs):
    value, gradient, metrics = ours
    assert_allclose(value, theirs[0], rtol=LIMIT)
    assert np.abs(gradient - theirs[1]).max() <= LIMIT * np.abs(theirs[1]).max()
    common = metrics.keys() & theirs[2].keys()
    assert common
    for name in common:
        assert_allclose(metrics[name], theirs[2][name], rtol=LIMIT, atol=1e-6)


DPO = [("sigmoid", {}, {}), ("hinge", {}, {}), ("ipo", {}, {}), ("exo_pair", {}, {"label_smoothing": 1e-3}),
       ("nca_pair", {}, {}), ("robust", {"label_smoothing": 0.2}, {}), ("bco_pair", {}, {}),
       ("sppo_hard", {"beta": 0.01}, {}), ("aot", {"label_smoothing": 0.1, "beta": 0.5}, {}),
       ("aot_unpaired", {"label_smoothing": 0.1, "beta": 0.5}, {}), ("apo_zero", {}, {}), ("apo_down", {}, {}),
       ("discopop", {"beta": 0.05}, {}), ("sigmoid_norm", {"beta": 5.0}, {})]


@pytest.mark.parametrize(("name", "settings", "defaults"), DPO)
def test_dpo(batch, name, settings, defaults):
    settings = {"beta": 0.1} | settings
    assert_equal(our_loss(batch, name, S(**settings)), dpo(batch, {name: 1.0}, **settings, **defaults))


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop"])
@pytest.mark.parametrize(("divergence", "order"), [
    ("forward_kl", None), ("js_divergence", None), ("alpha_divergence", None), ("alpha_divergence", 0.3),
    ("alpha_divergence", 1.0)])
def test_divergences(batch, name, divergence, order):
    smoothing = {"label_smoothing": 0.1} if name in ("exo_pair", "robust") else {}
    ours = our_loss(batch, name, S(beta=0.1, divergence=divergence, divergence_alpha=order, **smoothing))
    more = {} if order is None else {"f_alpha_divergence_coef": order}
    assert_equal(ours, dpo(batch, {name: 1.0}, f_divergence_type=divergence, **smoothing, **more))


def test_mixtures(batch):
    for losses in ({"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}, {"sigmoid": 1.0, "ipo": 0.1, "sft": 0.005},
                   {"sft": 1.0, "sigmoid": 0.0}):
        assert_equal(our_loss(batch, losses, S(beta=0.1)), dpo(batch, losses))


def test_wpo_and_ld_dpo(batch):
    assert_equal(our_loss(batch, "sigmoid", S(beta=0.1), wpo=True), dpo(batch, {"sigmoid": 1.0}, use_weighting=True))
    for name in ("sigmoid", "ipo"):
        for alpha in (0.0, 0.5, 1.0):
            assert_equal(our_loss(batch, {name: 1.0, "sft": 0.1}, S(beta=0.1), ld_alpha=alpha),
                         dpo(batch, {name: 1.0, "sft": 0.1}, ld_alpha=alpha))


def torch_sums(batch, *, mean=False):
    """Returns the logits, the completions' log-probabilities and the mean loss on the chosen completions' tokens."""
    logits = torch.tensor(batch.policy, requires_grad=True)
    targets, mask = torch.tensor(batch.ids[:, 1:]), torch.tensor(batch.mask)
    log_probs = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0] * mask
    sums = log_probs.sum(1) / (mask.sum(1) if mean else 1)
    nll = cross_entropy(logits[:P].flatten(0, 1), targets[:P].masked_fill(~mask[:P], -100).flatten())
    return logits, sums[:P], sums[P:], nll


def without_reference(kind, method, batch, *, mean, **settings):
    """Runs the loss of TRL's trainers without a reference model."""
    logits, chosen, rejected, nll = torch_sums(batch, mean=mean)
    stub = trainer(**settings)
    setattr(stub, method, functools.partial(getattr(kind, method), stub))
    fill = torch.zeros(P)
    stub.concatenated_forward = lambda model, batch: (chosen, rejected, fill, fill, nll)
    value, metrics = kind.get_batch_loss_metrics(stub, None, None)
    value.backward()
    if mean:  # TRL reports the means here
        metrics = {name: own for name, own in metrics.items() if not name.startswith("logps")}
    return value.item(), logits.grad.numpy(), metrics


@pytest.mark.parametrize(("losses", "ours", "theirs"), [
    ("cpo", {"beta": 0.1}, {"loss_type": "sigmoid", "cpo_alpha": 1.0}),
    ("cpo", {"beta": 0.1, "nll_weight": 0.5, "label_smoothing": 0.1},
     {"loss_type": "sigmoid", "cpo_alpha": 0.5, "label_smoothing": 0.1}),
    ("simpo", {"beta": 2.0, "gamma": 0.5}, {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}),
    ("simpo", {"beta": 2.0, "gamma": 0.5, "nll_weight": 0.3, "label_smoothing": 0.2},
     {"loss_type": "simpo", "cpo_alpha": 0.3, "beta": 2.0, "label_smoothing": 0.2}),
    ("alphapo", {"beta": 2.5, "gamma": 0.5, "alpha": 0.25},
     {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.5, "alpha": 0.25}),
    ("alphapo", {"beta": 2.5, "gamma": 0.5, "alpha": -0.3},
     {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.5, "alpha": -0.3}),
    # CPO's other bodies are the losses of DPO without a reference model.
    ({"hinge": 1.0, "sft": 1.0}, {"beta": 0.1}, {"loss_type": "hinge", "cpo_alpha": 1.0}),
    ({"ipo": 1.0, "sft": 1.0}, {"beta": 0.1}, {"loss_type": "ipo", "cpo_alpha": 1.0}),
])
def test_cpo(batch, losses, ours, theirs):
    theirs = {"simpo_gamma": 0.5, "alpha": 0.0} | theirs
    mean = theirs["loss_type"] in ("ipo", "simpo")
    value, gradient, metrics = our_loss(batch, losses, S(**ours), reference=False)
    if losses == {"ipo": 1.0, "sft": 1.0}:  # its rewards are of sums here, as with a reference model
        metrics = {"nll_loss": metrics["nll_loss"]}
    assert_equal((value, gradient, metrics), without_reference(CPOTrainer, "cpo_loss", batch, mean=mean, **theirs))


def test_orpo(batch):
    """With the cross-entropy on completions only."""
    assert_equal(our_loss(batch, "orpo", S(beta=0.1), reference=False),
                 without_reference(ORPOTrainer, "odds_ratio_loss", batch, mean=True))


@pytest.mark.parametrize(("name", "formula"), [
    ("cdpo", lambda c, r, rc, rr, nll: (-0.8 * logsigmoid(0.1 * (c - r - rc + rr))
                                        - 0.2 * logsigmoid(-0.1 * (c - r - rc + rr))).mean()),
    ("slic_hf", lambda c, r, rc, rr, nll: torch.relu(2.0 - (c - r)).mean() + 0.5 * nll),
    ("bco", lambda c, r, rc, rr, nll: (
        -logsigmoid(0.1 * (c - rc) - (0.05 * (c - rc + r - rr)).mean().detach())
        - logsigmoid(-(0.1 * (r - rr) - (0.05 * (c - rc + r - rr)).mean().detach()))).mean()),
])
def test_losses_that_trl_lacks(batch, name, formula):
    settings = {"cdpo": S(beta=0.1, label_smoothing=0.2), "slic_hf": S(margin=2.0, nll_weight=0.5),
                "bco": S(beta=0.1)}[name]
    logits, chosen, rejected, nll = torch_sums(batch)
    targets, mask = torch.tensor(batch.ids[:, 1:]), torch.tensor(batch.mask)
    own = torch.tensor(batch.reference).log_softmax(-1).gather(-1, targets[..., None])[..., 0] * mask
    value = formula(chosen, rejected, *own.sum(1).split(P), nll)
    value.backward()
    ours = our_loss(batch, name, settings)
    assert_equal(ours, (value.item(), logits.grad.numpy(), {"logps/chosen": chosen.mean().item()}))


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("desirable", [[1, 0, 0, 1, 1, 0, 1, 0, 0, 1], [1] * 10, [0] * 10])
def test_kto(batch, name, desirable):
    logits = torch.tensor(batch.policy, requires_grad=True)
    kl = np.random.default_rng(1).normal(size=(2, 2 * P)).astype("f") + [[0.3], [0.0]]
    policy, reference = Model(logits), Model(torch.tensor(batch.reference))
    stub = trainer(loss_type=name, ref_model=reference, desirable_weight=1.5, undesirable_weight=0.8,
                       calculate_KL=name == "kto",
                       _compute_kl_logps=lambda model, _: torch.tensor(kl[int(model is reference)]))
    mask = torch.cat([torch.zeros(2 * P, 1), torch.tensor(batch.mask)], dim=1).long()
    inputs = dict(input_ids=torch.tensor(batch.ids), attention_mask=torch.ones_like(mask), completion_mask=mask,
                  label=torch.tensor(desirable, dtype=torch.bool))
    value = KTOTrainer._compute_loss(stub, policy, inputs, False)
    value.backward()
    theirs = {key: own[-1] for key, own in stub._metrics["train"].items()}

    def ours(logits):
        pairs = our_pairs(batch, logits)
        rows = Unpaired(jnp.concatenate([pairs.chosen, pairs.rejected]),
                        jnp.concatenate([pairs.reference_chosen, pairs.reference_rejected]), jnp.ones(2 * P),
                        jnp.asarray(desirable, jnp.float32), jnp.asarray(kl[0] - kl[1]))
        (total, weight), metrics = preference_loss(name, rows, S(beta=0.1, desirable_weight=1.5,
                                                                 undesirable_weight=0.8))
        return total / weight, {key: own / count for key, (own, count) in metrics.items()}

    (own, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.asarray(batch.policy))
    metrics = {key: mean for key, mean in metrics.items() if np.isfinite(mean) and (key != "kl" or name == "kto")}
    assert_equal((own, gradient, metrics), (value.item(), logits.grad.numpy(), theirs))


@pytest.mark.parametrize("margin", [False, True])
def test_reward_model(margin):
    random = np.random.default_rng(2)
    scores = (3 * random.normal(size=(2 * P, 1))).astype("f")
    margins = random.uniform(size=P).astype("f")
    theirs = torch.tensor(scores, requires_grad=True)
    stub = trainer()
    stub.args.center_rewards_coefficient = 0.02
    inputs = dict(attention_mask=torch.ones(2 * P, 3)) | ({"margin": torch.tensor(margins)} if margin else {})
    value = RewardTrainer.compute_loss(stub, lambda **_: SimpleNamespace(logits=theirs), inputs)
    value.backward()

    def ours(scores):
        (total, weight), metrics = reward_loss(scores[:P, 0], scores[P:, 0], jnp.ones(P), centering=0.02,
                                               margin=jnp.asarray(margins) if margin else None)
        return total / weight, {name: own / count for name, (own, count) in metrics.items()}

    (own, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.asarray(scores))
    assert_equal((own, gradient, metrics), (value.item(), theirs.grad.numpy(), {
        name: values[-1] for name, values in stub._metrics["train"].items()}))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_cross_entropy(smoothing):
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(6, 4)).astype("f"), random.integers(0, 4, 6)
    value = cross_entropy(torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing)
    (total, weight), _ = class_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(6),
                                             label_smoothing=smoothing)
    assert_allclose(total / weight, value.item(), rtol=LIMIT)


def test_every_loss_is_compared():
    assert LOSSES.keys() == {name for name, *_ in DPO} | {
        "sft", "cpo", "simpo", "alphapo", "orpo", "cdpo", "slic_hf", "bco", "kto", "apo_zero_unpaired"}
