"""A language model of a few hundred parameters, its loss, its data, and runs of it."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import train

VOCAB, WIDTH, LAYERS, LENGTH, ROWS, BATCH = 16, 8, 2, 6, 20, 8
SEED, TOTAL = 7, 12

AXES = {
    "embed": ("vocab", "embed"),
    "layers": {
        "mlp": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")},
        "norm": {"scale": ("layers", "embed")},
    },
    "head": {"kernel": ("embed", "vocab")},
}


@jax.jit
def init(key: jax.Array) -> dict:
    keys = jax.random.split(key, 3)

    def normal(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32) / math.sqrt(WIDTH)

    return {
        "embed": normal(keys[0], VOCAB, WIDTH),
        "layers": {
            "mlp": {
                "kernel": normal(keys[1], LAYERS, WIDTH, WIDTH),
                "bias": jnp.zeros((LAYERS, WIDTH), jnp.float32),
            },
            "norm": {"scale": jnp.ones((LAYERS, WIDTH), jnp.float32)},
        },
        "head": {"kernel": normal(keys[2], WIDTH, VOCAB)},
    }


def loss_fn(params, frozen, batch, key, extra):
    """Cross-entropy of the targets, with noise on the embeddings that depends on (key, row) only."""
    noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (WIDTH,)))(batch["row"])
    x = params["embed"][batch["tokens"]] + frozen["noise"] * noise[:, None]

    def layer(x, p):
        return x + jnp.tanh((x * p["norm"]["scale"]) @ p["mlp"]["kernel"] + p["mlp"]["bias"]), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    logprobs = jax.nn.log_softmax(x @ params["head"]["kernel"])
    picked = jnp.take_along_axis(logprobs, batch["targets"][..., None], -1)[..., 0]
    mask = batch["mask"].astype(jnp.float32)
    right = logprobs.argmax(-1) == batch["targets"]
    weight = mask.sum()
    return (-(picked * mask).sum(), weight), {"accuracy": ((right * mask).sum(), weight)}


FROZEN = {"noise": np.float32(0.1)}


@functools.cache
def corpus() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    text = rng.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (ROWS, 1))
    return {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "mask": mask,
        "row": np.arange(ROWS, dtype=np.int32),
    }


def batch_fn(step: int) -> dict[str, np.ndarray]:
    rows = train.row_indices(SEED, step, BATCH, ROWS)
    return {name: x[rows] for name, x in corpus().items()}


CONFIG = train.OptimizerConfig(lr=1e-2, schedule="cosine", warmup_steps=2, weight_decay=0.1)


@functools.cache
def optimizer():
    return train.make_optimizer(CONFIG, TOTAL)


@functools.cache
def step_fn(accumulate: int = 1) -> train.TrainStep:
    schedule = train.make_schedule(CONFIG, TOTAL)
    return train.make_train_step(loss_fn, optimizer(), schedule, accumulate)


def new_state() -> train.TrainState:
    return train.init_state(init(jax.random.key(1)), optimizer(), SEED, extra={"kl_coef": 0.2})


def run(folder: Path, **options) -> train.FitResult:
    """Runs or resumes the toy run in `folder`, as a job would."""
    state = new_state()
    with train.Checkpointer(folder / "checkpoints") as checkpointer:
        if checkpointer.latest_step() is not None:
            state = checkpointer.restore(state).tree
        with train.MetricsWriter(folder / "metrics.jsonl", int(state.step)) as metrics:
            return train.fit(
                state,
                step_fn(),
                batch_fn,
                TOTAL,
                frozen=FROZEN,
                log_every=2,
                checkpointer=checkpointer,
                metrics=metrics,
                sidecar={"lr": CONFIG.lr},
                **options,
            )


def leaves(tree) -> list[np.ndarray]:
    """Every array of a tree on the host, keys as their integers."""

    def raw(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if is_key else x)

    return [raw(x) for x in jax.tree.leaves(tree)]


def assert_equal(a, b) -> None:
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
