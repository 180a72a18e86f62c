"""What a fine-tuning run would do: its rows, and the memory of a step, without reading weights."""

from __future__ import annotations

import jax
import numpy as np

from jaxllm.devices import open_mesh
from jaxllm.finetune.inputs import abstract_base
from jaxllm.finetune.memory import abstract_adapter, device_bytes, memory_table
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.data import read
from jaxllm.finetune.tune.run import make_step, padding
from jaxllm.finetune.tune.tuning import plan, scoring_model
from jaxllm.models.mesh import batch_sharding
from jaxllm.train import abstract_state, row_indices


def dry_run(config: Config) -> str:
    """Encodes the rows, compiles a step, and describes both.

    Raises:
        UserError: as the run itself, before its first step.
    """
    mesh = open_mesh(config.mesh)
    base = abstract_base(config, mesh)
    spec = base.spec
    rows, held_back = read(config, None)
    model = scoring_model(config, base, rows.labels)
    made = plan(config, model, rows, held_back, limit_bad=config.data.limit_bad)
    settings, runner, data, objective = made.settings, made.runner, made.train.data, config.objective
    trained = model.params if config.lora is None else abstract_adapter(spec, config.lora, mesh)
    if config.lora is not None and objective.scores:
        trained = {"adapter": trained, "score": model.params["score"]}
    state, frozen = abstract_state(trained, made.optimizer), {} if config.trains_in_place else model.params
    if objective.reference == "extra":
        state.extra["reference"] = trained
    if objective.shifted:
        state.extra["earlier_rewards"] = jax.ShapeDtypeStruct((2,), np.float32, sharding=state.step.sharding)
    values = [f"reference_{text}" for text in range(objective.texts)] if objective.reference == "values" else []
    batch = runner.batch(data, row_indices(config.seed, 0, settings.batch_size, len(data)).tolist())
    batch |= {name: np.zeros(batch["group"].shape, np.float32) for name in values}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), batch)
    dropout = 0.0 if config.lora is None else config.lora.dropout
    step = make_step(runner, settings, made.optimizer, dropout)
    with jax.set_mesh(mesh):
        temporary = step.lower(state, frozen, abstract).compile().memory_analysis().temp_size_in_bytes
    parts = {"weights": device_bytes(frozen),
             "adapter" if config.lora else "trained weights": device_bytes(state.params),
             "optimizer": device_bytes(state.opt_state),
             "reference model": device_bytes(state.extra.get("reference", {})), "temporary, one step": temporary}
    lines = [f"{config.model}: {spec.family}, {spec.layers} layers, width {spec.width}, vocabulary {spec.vocab_size:,}",
             f"rows                  {len(rows.rows):,} in {config.data.path}, {len(rows.rejected):,} rejected, "
             f"{len(made.train.dropped):,} dropped",
             f"trained on            {len(data):,}, of these {made.train.truncated:,} truncated; "
             f"held back {len(made.held_back.data) if made.held_back else 0:,}",
             f"batch                 {settings.batch_size} of these in {len(batch['row'])} x {runner.shape.length} "
             f"tokens, {padding(runner, data, settings, config.seed):.1%} padding",
             f"steps                 {settings.steps:,}",
             f"trained               {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters",
             *memory_table({name: size for name, size in parts.items() if size}, mesh)]
    return "\n".join(lines)
