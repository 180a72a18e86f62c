"""What a run of reinforcement learning would do, and the memory of an update, without reading weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cory.config import Config
from jaxllm.cory.job import read
from jaxllm.cory.team import ROLES, prompt_lengths, row_shapes
from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.finetune.inputs import abstract_base
from jaxllm.finetune.memory import abstract_adapter, device_bytes, memory_table
from jaxllm.generate import Completion
from jaxllm.models import init_value_head, load_spec, native
from jaxllm.models.loading import loaded_scheme, stored_dtype
from jaxllm.models.mesh import batch_sharding, replicated
from jaxllm.ops import init_moments
from jaxllm.rl.agent import Learner
from jaxllm.rl.rollouts import make_rollout, response_batches
from jaxllm.train import abstract_state


def dry_run(config: Config) -> str:
    """Encodes the prompts, compiles an update for each role, and describes them. Rewards are not opened; the memory of
    a judge is not counted, nor that of a reward model that cannot be read.

    Raises:
        UserError: as the run itself, before it opens its rewards.
    """
    mesh = open_mesh(config.mesh)
    model = abstract_base(config, mesh)
    spec, weights = model.spec, model.params
    rows, held_back = read(config, model, None)
    lengths = prompt_lengths(config, model, [*rows, *held_back])
    body = weights if config.lora is None else abstract_adapter(spec, config.lora, mesh)
    trained: Any = body
    home = replicated(mesh)
    whole = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=home)
    if config.own.has_values:
        trained = {"params" if config.lora is None else "adapter": body,
                   "value_head": jax.tree.map(whole, jax.eval_shape(lambda: init_value_head(spec)))}
        if config.policy.value == "separate":
            trained["critic"] = body
    texts, temporary, state = [], 0, None
    for role, shape, own in zip(ROLES, row_shapes(config, spec, lengths, mesh), lengths, strict=False):
        learner = Learner.make(spec, config, shape, mesh)
        state = abstract_state(trained, learner.optimizer)
        state.extra.update(jax.tree.map(whole, {"kl_coef": np.float32(0), "moments": init_moments()}))
        sizes = [own[i * len(own) // config.minibatch_size] if len(own) > config.minibatch_size else own[i % len(own)]
                 for i in range(config.minibatch_size)]
        longest = Completion("", [0] * config.limit, 0.0, "length", np.zeros(config.limit, np.float32))
        rollout = make_rollout([np.zeros(size, np.int32) for size in sizes], [longest] * len(sizes), config.limit)
        [batch] = response_batches(rollout, shape, [np.arange(len(sizes))])
        names = ["mask", "old_logprobs", "advantages"]
        names += ["old_values", "returns"] if config.own.has_values else []
        names += ["reference_logprobs"] if config.kl_in_loss else []
        names += ["importance"] if config.policy.importance_cap is not None else []
        batch |= {name: np.zeros(batch["places"].shape, np.float32) for name in names}
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), batch)
        with jax.set_mesh(mesh):
            compiled = learner.step.lower(state, weights, abstract).compile()
        temporary = max(temporary, compiled.memory_analysis().temp_size_in_bytes)
        used = sum(sizes) + len(sizes) * config.limit
        texts.append(f"{role:<22}{len(sizes)} responses of an update in {len(batch['row'])} x {shape.length} tokens, "
                     f"{1 - used / batch['tokens'].size:.1%} padding")
    assert state is not None
    copies = config.agents
    parts = {"weights": device_bytes(weights), "trained, all agents": copies * device_bytes(state.params),
             "optimizer, all agents": copies * device_bytes(state.opt_state), "temporary, one update": temporary}
    if {"classifier", "reward_model"} & set(config.reward_names):
        try:
            parts["reward model"] = _reward_model_bytes(config)
        except UserError:  # the sizes of the policy are of use without it
            texts.append(f"reward model          not counted, since {config.rewards.model} cannot be read")
    lines = [f"{config.model}: {spec.family}, {spec.layers} layers, width {spec.width}, vocabulary {spec.vocab_size:,}",
             f"algorithm             {config.algorithm}, {config.agents} agent{'s' * (config.agents > 1)}",
             f"prompts               {len(rows):,}, held back {len(held_back):,}",
             f"iteration             {config.train.batch_size} prompts x {config.group_size} responses of at most "
             f"{config.limit} tokens, {config.passes} passes in updates of {config.minibatch_size}",
             f"iterations            {config.iterations:,}, {config.updates:,} updates of an agent", *texts,
             f"trained               {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters of an agent",
             *memory_table(parts, mesh)]
    return "\n".join(lines)


def _reward_model_bytes(config: Config) -> int:
    """Counts the bytes of the weights of the classifier or reward model; its adapter is small."""
    model = config.rewards.model
    assert model is not None
    dtype = jnp.dtype(config.device.param_dtype or stored_dtype(model))
    return device_bytes(native.abstract(load_spec(model), dtype, None, loaded_scheme(model, None)))
