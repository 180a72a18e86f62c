"""PPO against TRL's classic trainer, function by function, and a plain loop in torch, iteration by iteration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jaxllm.config import SamplingConfig  # noqa: E402
from jaxllm.devices import make_mesh  # noqa: E402
from jaxllm.finetune.trainable import student_of  # noqa: E402
from jaxllm.generate import Generator  # noqa: E402
from jaxllm.model import Model  # noqa: E402
from jaxllm.models import load_model, save_model, stack_layers  # noqa: E402
from jaxllm.ops import (  # noqa: E402
    Unembedding,
    adapt_kl_coef,
    gae,
    init_moments,
    policy_terms,
    standard_deviation,
    token_kl,
    token_mean,
    token_rewards,
    token_statistics,
    update_moments,
    value_terms,
    whiten,
)
from jaxllm.ops.policy import PolicySettings  # noqa: E402
from jaxllm.rl import Learner, RlConfig, init_agent  # noqa: E402
from jaxllm.rl.config import KlConfig, PolicyConfig, RlTrainConfig  # noqa: E402
from jaxllm.rl.rollouts import rollout_shape  # noqa: E402
from jaxllm.text import load_tokenizer  # noqa: E402
from scripts.parity_networks import GROUPED, Network, torch_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".cache" / "wheels"
LIMIT, BATCH, ITERATIONS, PASSES, TEMPERATURE = 6, 8, 10, 3, 0.7
# With the usual eps Adam's first steps have the size of the rate wherever a gradient is rounding.
LR, EPS, COEF, VALUE_COEF = 3e-4, 1e-5, 0.3, 0.1


@pytest.fixture(scope="module")
def classic(tmp_path_factory):
    """Random arrays, and what TRL 0.11.4 computes from them."""
    wheel = next(WHEELS.glob("trl-0.11.4-*.whl"), None)
    if wheel is None:
        pytest.skip(f"the wheel of trl 0.11.4 is not at hand ({WHEELS}); `make test-oracle` fetches it")
    random = np.random.default_rng(0)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    count, length, vocab = 5, 7, 11
    mask = (np.arange(length) < np.array([7, 5, 1, 3, 6])[:, None]).astype(np.float32)
    log_softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    logprobs = -np.abs(normal(count, length))
    arrays = dict(mask=mask, scores=normal(count), logprobs=logprobs, reference=-np.abs(normal(count, length)),
                  logprobs_full=log_softmax(normal(count, length, vocab)),
                  reference_full=log_softmax(normal(count, length, vocab)), values=normal(count, length),
                  new_logprobs=logprobs + 0.3 * normal(count, length), new_values=normal(count, length),
                  kls=np.abs(normal(6)) * 6, batches=normal(4, 9))
    folder = tmp_path_factory.mktemp("classic")
    np.savez(folder / "arrays.npz", **arrays)
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("classic_ppo.py")), str(wheel),
                           str(folder / "arrays.npz")], capture_output=True, text=True,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: np.array(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    return {name: jnp.asarray(value) for name, value in arrays.items()}, found


@pytest.mark.parametrize(("theirs", "kind"), [("kl", "k1"), ("abs", "abs"), ("mse", "k2"), ("full", "full")])
def test_rewards_of_the_classic_trainer(classic, theirs, kind):
    arrays, found = classic
    if kind == "full":
        identity = Unembedding(jnp.eye(arrays["logprobs_full"].shape[-1]))
        zeros = jnp.zeros(arrays["mask"].shape, jnp.int32)
        kl = token_statistics(arrays["logprobs_full"], identity, arrays["reference_full"], identity, zeros)["kl"]
    else:
        kl = token_kl(kind, arrays["logprobs"], arrays["reference"])
    assert_allclose(kl, found[f"kl_{theirs}"], atol=1e-6)
    rewards = token_rewards(arrays["scores"], kl, arrays["mask"], 0.3)
    mask = np.asarray(arrays["mask"])
    assert_allclose(rewards, found[f"rewards_{theirs}"] * mask, atol=1e-6)


@pytest.mark.parametrize("whitened", [False, True])
def test_advantages_of_the_classic_trainer(classic, whitened):
    arrays, found = classic
    mask = jnp.ones_like(arrays["mask"]) if whitened else arrays["mask"]
    rewards = jnp.asarray(found["rewards_kl"], jnp.float32)
    rewards = whiten(rewards, mask, shift_mean=False) if whitened else rewards
    advantages, returns = gae(rewards, arrays["values"], mask)
    assert_allclose(whiten(advantages, mask), found[f"advantages_{whitened}"] * np.asarray(mask), atol=2e-5)
    assert_allclose(returns, found[f"returns_{whitened}"] * np.asarray(mask), atol=1e-5)


def test_losses_of_the_classic_trainer(classic):
    arrays, found = classic
    mask = arrays["mask"]
    advantages, returns = (jnp.asarray(found[f"{name}_False"], jnp.float32) for name in ("advantages", "returns"))
    losses, measures = policy_terms(PolicySettings(), arrays["new_logprobs"], arrays["logprobs"], advantages, mask)
    errors, clipped = value_terms(arrays["new_values"], arrays["values"] * mask, returns, mask)
    for values, name in ((losses, "policy_loss"), (errors, "value_loss"), (measures["clipped"], "policy/clipfrac"),
                         (clipped["clipped"], "val/clipfrac"),
                         (measures["approx_kl"], "policy/approxkl"), (measures["policy_kl"], "policy/policykl")):
        total, weight = token_mean(values, mask)
        assert_allclose(total / weight, found[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_controllers_of_the_classic_trainer(classic):
    arrays, found = classic
    coef, moments = jnp.float32(0.3), init_moments()
    for kl, expected in zip(arrays["kls"], found["coefs"], strict=True):
        coef = adapt_kl_coef(coef, kl, 256)
        assert_allclose(coef, expected, rtol=1e-6)
    for batch, (mean, deviation) in zip(arrays["batches"], found["moments"], strict=True):
        moments = update_moments(moments, batch)
        assert_allclose([moments["mean"], standard_deviation(moments)], [mean, deviation], rtol=1e-5, atol=1e-6)


class TorchAgent:
    """PPO as plainly as torch allows: one padded batch, full logits, one pass after the other."""

    def __init__(self, network):
        self.policy, self.reference = torch_model(network).eval(), torch_model(network).eval()
        # Responses are sampled, and may hold the padding token as a real one; torch would not train its embedding.
        self.policy.model.embed_tokens.padding_idx = None
        self.value = torch.nn.Linear(GROUPED["hidden_size"], 1)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)
        self.trained = [*self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.Adam(self.trained, LR, eps=EPS)

    def forward(self, model, rollout):
        """Log-probabilities of the response's tokens, of all tokens before them, and values: `[B, T, ...]`."""
        rows, logits, values = [], [], []
        for prompt, ids, size in zip(rollout.prompts, rollout.ids, rollout.lengths, strict=True):
            text = torch.tensor(np.concatenate([prompt, ids[:size]]), dtype=torch.long)[None]
            hidden = model.model(text).last_hidden_state[0, len(prompt) - 1:-1]
            own = (model.lm_head(hidden) / TEMPERATURE).log_softmax(-1)
            pad = lambda x, size=size: torch.nn.functional.pad(x, (0, 0) * (x.ndim - 1) + (0, LIMIT - size))
            logits.append(pad(own))
            rows.append(pad(own.gather(1, torch.tensor(ids[:size], dtype=torch.long)[:, None])[:, 0]))
            values.append(pad(self.value(hidden)[:, 0]))
        return torch.stack(rows), torch.stack(logits), torch.stack(values)

    def iterate(self, rollout, scores):
        mask = torch.tensor(rollout.mask)
        mean = lambda x: x[mask].mean()
        with torch.no_grad():
            old, logits, old_values = self.forward(self.policy, rollout)
            _, reference, _ = self.forward(self.reference, rollout)
            kl = (logits.exp() * (logits - reference)).sum(-1) * mask
            rewards = -COEF * kl
            for row, size in enumerate(rollout.lengths):
                rewards[row, size - 1] += float(scores[row])
            advantages, last = torch.zeros_like(rewards), torch.zeros(len(scores))
            for t in reversed(range(LIMIT)):
                after = old_values[:, t + 1] if t + 1 < LIMIT else 0.0
                delta = rewards[:, t] + after - old_values[:, t]
                last = (delta + 0.95 * last) * mask[:, t]
                advantages[:, t] = last
            returns = advantages + old_values
            own = advantages[mask]
            advantages = (advantages - own.mean()) / torch.sqrt(own.var() + 1e-8)
        lines = []
        for _ in range(PASSES):
            new, _, values = self.forward(self.policy, rollout)
            ratio = (new - old).exp()
            policy = mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)))
            near = old_values + (values - old_values).clamp(-0.2, 0.2)
            value = 0.5 * mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2))
            loss = policy + VALUE_COEF * value
            self.optimizer.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad ** 2).sum() for p in self.trained if p.grad is not None))
            self.optimizer.step()
            lines.append((float(loss), float(norm), 0.5 * float(mean((new - old) ** 2))))
        loss, norm, approx_kl = np.mean(lines, axis=0)
        return {"loss": loss, "grad_norm": norm, "approx_kl": approx_kl, "kl": float(kl.sum(1).mean())}


def test_ten_iterations_equal_a_loop_in_torch(tmp_path):
    """All weights, a shared value head, full KL in the reward, temperature 0.7, responses of different lengths."""
    network = Network(transformers.LlamaConfig(**GROUPED))
    torch_model(network).save_pretrained(tmp_path)
    spec, params = load_model(tmp_path, jnp.float32)
    base = Generator(Model(spec, params, load_tokenizer("tiny")))
    config = RlConfig(iterations=ITERATIONS, sampling=SamplingConfig(max_tokens=LIMIT, temperature=TEMPERATURE),
                      lora=None, kl=KlConfig(kind="full", coef=COEF), policy=PolicyConfig(value_coef=VALUE_COEF),
                      train=RlTrainConfig(batch_size=BATCH, passes=PASSES, lr=LR, eps=EPS))
    random, mesh = np.random.default_rng(0), make_mesh(1)
    prompts = [random.integers(3, spec.vocab_size, size).astype(np.int32) for size in (2, 5, 3, 7, 4, 1, 6, 2)]
    learner = Learner.make(spec, config, rollout_shape([len(p) for p in prompts], LIMIT, BATCH, 1, packed=True), mesh)
    state, other = init_agent(base, config, learner.optimizer, mesh, 0), TorchAgent(network)
    groups = np.arange(BATCH, dtype=np.int32)
    for iteration in range(ITERATIONS):
        rollout = learner.sample(base, state, prompts, int(random.integers(2, LIMIT + 1)), iteration)
        scores = (rollout.ids % 3 == 0).sum(1).astype(np.float32) / 2
        experience = learner.evaluate(base, state, rollout, iteration)
        state, numbers = learner.update(base, state, experience, scores, groups, iteration)
        theirs = other.iterate(rollout, scores)
        assert experience.kl.mean() == pytest.approx(theirs["kl"], rel=1e-4, abs=1e-5), iteration
        for name in ("loss", "grad_norm", "approx_kl"):
            assert numbers[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), (iteration, name)
    assert experience.kl.mean() > 0.01
    save_model(tmp_path / "trained", spec, stack_layers(student_of(state.params, {}, None)[0]), str(tmp_path))
    trained = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "trained")
    for (name, one), two in zip(trained.named_parameters(), other.policy.parameters(), strict=True):
        assert_allclose(one.detach(), two.detach(), atol=1e-4, err_msg=name)
    head = jax.device_get(state.params["value_head"]["kernel"])
    assert_allclose(head[:, 0], other.value.weight.detach()[0], atol=1e-4)
