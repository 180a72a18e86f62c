"""Torch as the oracle: networks, gradients, training, adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jaxllm.generate.sampling import truncate  # noqa: E402
from jaxllm.models import LoraConfig, compute_logits, forward, init_adapter, load_model, unembedding  # noqa: E402
from jaxllm.models.adapters import Adapter  # noqa: E402
from jaxllm.models.peft import load_adapter, save_adapter  # noqa: E402
from jaxllm.ops import cross_entropy, kl_distillation  # noqa: E402
from jaxllm.train import OptimizerConfig, init_state, make_optimizer, make_train_step  # noqa: E402
from scripts.parity import LIMIT, compare, relative  # noqa: E402
from scripts.parity_networks import networks, torch_model  # noqa: E402


@pytest.mark.parametrize("name", networks())
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parity(name, tmp_path):
    network = networks()[name]
    row = compare(network, tmp_path)
    assert row.pop("load") and row.pop("export")
    assert row.pop("greedy") is (None if network.scores else True)
    cached = row.pop("cached")
    assert cached is None or cached <= 1e-5
    assert max(row.values()) <= LIMIT, row


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same network here and in torch."""
    folder = tmp_path_factory.mktemp("pair") / "model"
    theirs = torch_model(networks()["llama 2, grouped heads"])
    theirs.save_pretrained(folder)
    return theirs, *load_model(folder), folder


def test_left_padded_rows_agree_with_torch(pair):
    theirs, spec, params, _ = pair
    tokens = np.random.default_rng(1).integers(3, 160, (2, 12))
    mask = np.ones((2, 12), int)
    mask[1, :5] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    expected = theirs(torch.tensor(tokens), attention_mask=torch.tensor(mask),
                      position_ids=torch.tensor(positions)).logits.detach().numpy()
    ours = compute_logits(spec, params, forward(spec, params, jnp.asarray(tokens), segments=jnp.asarray(mask)).hidden)
    assert relative(ours[0], expected[0]) < LIMIT
    assert relative(ours[1, 5:], expected[1, 5:]) < LIMIT


@pytest.mark.parametrize("top_k, top_p", [(0, 0.7), (5, 1.0), (5, 0.7), (2, 0.6), (40, 0.3), (500, 0.9), (1, 0.01)])
def test_top_k_and_top_p_keep_the_tokens_that_transformers_keeps(top_k, top_p):
    logits = np.random.default_rng(4).normal(0, 2, (50, 200)).astype(np.float32)
    warpers = [transformers.TopKLogitsWarper(top_k)] if top_k else []
    theirs = torch.tensor(logits)
    for warper in (*warpers, transformers.TopPLogitsWarper(top_p)):
        theirs = warper(None, theirs)
    ours = truncate(jnp.asarray(logits), jnp.full(50, top_k), jnp.full(50, top_p))
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_kl_distillation_agrees_with_torch(pair):
    """Value and gradient of torch's `kl_div` (summed, over tokens, times T^2) at temperature 2."""
    theirs, spec, params, _ = pair
    tokens = np.random.default_rng(2).integers(3, 160, (2, 9))
    teacher = jax.tree.map(lambda leaf: leaf * 1.3, params)
    teacher_hidden = forward(spec, teacher, jnp.asarray(tokens)).hidden
    teacher_logits = torch.tensor(np.asarray(compute_logits(spec, teacher, teacher_hidden)))
    theirs.zero_grad()
    student_logits = theirs(torch.tensor(tokens)).logits
    expected = 4 * torch.nn.functional.kl_div(torch.log_softmax(student_logits / 2, -1),
                                              torch.softmax(teacher_logits / 2, -1), reduction="sum")
    expected.backward()

    def loss(params):
        hidden = forward(spec, params, jnp.asarray(tokens)).hidden
        return kl_distillation(hidden, unembedding(spec, params), teacher_hidden, unembedding(spec, teacher),
                               jnp.ones((2, 9)), temperature=2.0, block=50)[0]

    value, gradient = jax.value_and_grad(loss)(params)
    assert relative(value, expected.item()) < LIMIT
    assert relative(gradient["head"], theirs.lm_head.weight.grad.numpy()) < LIMIT
    assert relative(gradient["layers"]["mlp"]["down"]["kernel"][0].T,
                    theirs.model.layers[0].mlp.down_proj.weight.grad.numpy()) < LIMIT


def test_five_steps_of_adamw_follow_torch(tmp_path):
    theirs = torch_model(networks()["llama 2, grouped heads"])
    theirs.save_pretrained(tmp_path / "model")
    spec, params = load_model(tmp_path / "model")
    batches = np.random.default_rng(3).integers(3, 160, (5, 4, 17))
    settings = dict(lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    optimizer, expected = torch.optim.AdamW(theirs.parameters(), **settings), []
    for tokens in batches:
        loss = theirs(torch.tensor(tokens), labels=torch.tensor(tokens)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        expected.append(loss.item())

    def loss_fn(params, frozen, batch, key, extra):
        hidden = forward(spec, params, batch["ids"]).hidden[:, :-1]
        targets = batch["ids"][:, 1:]
        return cross_entropy(hidden, unembedding(spec, params), targets, jnp.ones_like(targets)), {}

    config = OptimizerConfig(lr=3e-3, schedule="constant", b2=0.99, clip_norm=0.5)
    tx = make_optimizer(config, 5)
    step, state, ours = make_train_step(loss_fn, tx), init_state(params, tx, 0), []
    for tokens in batches:
        state, metrics = step(state, None, {"ids": jnp.asarray(tokens, jnp.int32)})
        ours.append(float(metrics["loss"]))
    assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_travel_both_ways(pair, tmp_path):
    peft = pytest.importorskip("peft")
    _, spec, params, folder = pair
    tokens = np.random.default_rng(4).integers(3, 160, (2, 9))
    ours = lambda adapter: compute_logits(
        spec, params, forward(spec, params, jnp.asarray(tokens), adapter=adapter).hidden)
    fresh = lambda: transformers.AutoModelForCausalLM.from_pretrained(folder)

    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=4, alpha=6.0))
    noisy = Adapter(jax.tree.map(lambda leaf: leaf + 0.1, adapter.params), adapter.scale)
    save_adapter(tmp_path / "ours", spec, noisy)
    loaded = peft.PeftModel.from_pretrained(fresh(), tmp_path / "ours").eval()
    assert relative(ours(noisy), loaded(torch.tensor(tokens)).logits.detach()) < LIMIT

    config = peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, init_lora_weights=False,
                             target_modules=["q_proj", "o_proj", "up_proj"])
    made = peft.get_peft_model(fresh(), config).eval()
    made.save_pretrained(tmp_path / "theirs")
    assert relative(ours(load_adapter(tmp_path / "theirs", spec)), made(torch.tensor(tokens)).logits.detach()) < LIMIT


@pytest.mark.filterwarnings("ignore")
def test_fused_adapters_of_gpt2(tmp_path):
    """q, k and v share a tensor in GPT-2's checkpoints; their adapters have to be fused and cut apart."""
    peft = pytest.importorskip("peft")
    torch_model(networks()["gpt2"]).save_pretrained(tmp_path / "model")
    spec, params = load_model(tmp_path / "model")
    tokens = np.random.default_rng(5).integers(3, 160, (2, 9))
    fresh = lambda: transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ours = lambda adapter: compute_logits(
        spec, params, forward(spec, params, jnp.asarray(tokens), adapter=adapter).hidden)
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2, targets=("q", "v", "down")))
    noisy = Adapter(jax.tree.map(lambda leaf: leaf + 0.1, adapter.params), adapter.scale)
    save_adapter(tmp_path / "ours", spec, noisy)
    loaded = peft.PeftModel.from_pretrained(fresh(), tmp_path / "ours").eval()
    assert relative(ours(noisy), loaded(torch.tensor(tokens)).logits.detach()) < LIMIT
    made = peft.get_peft_model(fresh(), peft.LoraConfig(r=3, init_lora_weights=False,
                                                        target_modules=["c_attn", "c_proj"])).eval()
    made.save_pretrained(tmp_path / "theirs")
    assert relative(ours(load_adapter(tmp_path / "theirs", spec)), made(torch.tensor(tokens)).logits.detach()) < LIMIT
