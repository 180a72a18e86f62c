"""Memory of an injection, from shapes alone: compiles a training step without reading weights."""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.memory import abstract_adapter, device_bytes, memory_table
from jaxllm.finetune.run import TrainPlan, make_plan
from jaxllm.finetune.targets import build_target, collate, common_lengths, continuation
from jaxllm.finetune.teacher_cache import teacher_top_k
from jaxllm.model import Model
from jaxllm.models import ModelSpec, Params, load_spec, native
from jaxllm.models.adapters import linear_shapes
from jaxllm.models.loading import stored_dtype
from jaxllm.models.mesh import batch_sharding, model_shardings
from jaxllm.self_param.config import Config
from jaxllm.self_param.experiment import two_teachers, weight_dtype
from jaxllm.self_param.injection import OBJECTIVES
from jaxllm.train import abstract_state


def dry_run(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Compiles a step for documents of `config.dry_run` tokens and describes the memory of a device.

    With train.packing the step is compiled for padded rows all the same, which take more memory than packed ones.

    Raises:
        UserError: the model has a scoring head, or the document does not fit the context window.
    """
    spec = load_spec(config.model)
    if spec.head is not None:
        raise UserError("has a scoring head", config.model, "use a language model")
    lengths = _lengths(config, spec.max_positions)
    dtype = jnp.dtype(weight_dtype(config) or stored_dtype(config.model))
    weights = native.abstract(spec, dtype, model_shardings(spec, mesh), config.device.quantize)
    trained = weights if config.lora is None else abstract_adapter(spec, config.lora, mesh)
    teachers = two_teachers(config, "self_param")
    plan = make_plan(Model(spec, weights, cast(Any, None)), OBJECTIVES["self_param"], config.train, config.lora,
                     config.divergence, lengths, config.device.compute_dtype, mesh, two_teachers=teachers)
    state = abstract_state(trained, plan.optimizer)
    temporary = _temporary(config, spec, plan, state, weights, lengths, mesh)
    parts = {"weights": device_bytes(weights)}
    if config.setting == "sequential":  # next to the base model, which stays for evaluation and as a teacher
        parts["merged weights"] = _merged_layers(spec, config, weights)
    parts |= {"adapter" if config.lora else "trained weights": device_bytes(state.params),
              "optimizer": device_bytes(state.opt_state), "temporary, one step": temporary}
    lines = [f"{config.model}: {spec.family}, {spec.layers} layers, width {spec.width}, vocabulary {spec.vocab_size:,}",
             f"trained               {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters",
             f"step                  {config.train.batch_size} targets, student {lengths[0]} tokens, "
             f"teacher {lengths[1]} tokens",
             f"steps                 {plan.train.steps} per injection",
             *memory_table(parts, mesh)]
    return "\n".join(lines)


def _temporary(config: Config, spec: ModelSpec, plan: TrainPlan, state, weights: Params, lengths: tuple[int, int],
               mesh: jax.sharding.Mesh) -> int:
    """Compiles the step, and the teacher's pass where its output is cached; returns the larger temporary size."""
    rows, top_k = config.train.batch_size, config.divergence.top_k
    with jax.set_mesh(mesh):
        if top_k is None:
            frozen = (weights, weights) if plan.two_teachers else weights
            programs = [plan.step.lower(state, frozen, _batch(rows, lengths, mesh))]
        else:
            programs = [plan.step.lower(state, weights, _batch(rows, lengths, mesh, top_k)),
                        teacher_top_k.lower(spec, weights, _batch(rows // config.train.accumulate, lengths, mesh),
                                            k=top_k, temperature=config.divergence.temperature,
                                            dtype=plan.dtype)]
        return max(program.compile().memory_analysis().temp_size_in_bytes for program in programs)


def _batch(rows: int, lengths: tuple[int, int], mesh: jax.sharding.Mesh, top_k: int | None = None
           ) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of targets; with `top_k` tokens per position of the teacher cache."""
    batch = collate([build_target((), (), (0, 0), "qa")] * rows, *lengths)
    if top_k is not None:
        ids = np.zeros((rows, lengths[0], top_k), np.int32)
        batch |= {"teacher_ids": ids, "teacher_logprobs": ids.astype(np.float32)}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), batch)


def _merged_layers(spec: ModelSpec, config: Config, weights: Params) -> int:
    """Bytes on one device of all layers after adapters were merged into them, which dequantizes their kernels."""
    size = device_bytes(weights["layers"])
    for (module, name), shape in linear_shapes(spec).items():
        if config.lora is not None and name in config.lora.targets:
            kernel = jax.tree.leaves(weights["layers"][module][name]["kernel"])
            share = math.prod(kernel[0].sharding.shard_shape(kernel[0].shape)) / math.prod(kernel[0].shape)
            merged = int(spec.layers * math.prod(shape) * share * weights["embed"].dtype.itemsize)
            size += merged - device_bytes(kernel)
    return size


def _lengths(config: Config, window: int) -> tuple[int, int]:
    """Batch lengths for a document of `config.dry_run` tokens, a prefix of one token and QA pairs of maximum length."""
    document, prefix = (0,) * (config.dry_run or 0), (0,)
    pair = (0,) * (config.qa_pairs.max_tokens + config.sampling.max_tokens + 16)
    unrelated = document if config.unrelated.with_document else ()
    targets = {"qa": build_target(prefix, document, pair, "qa"),
               "continuation": continuation(prefix, document, 1),
               "unrelated": build_target(prefix, unrelated, (0,) * config.unrelated.tokens, "unrelated"),
               "rehearsal": build_target(prefix, (), pair, "rehearsal")}
    wanted = [targets[name] for name in config.mixture.cycle]
    if (longest := max(len(target.teacher) for target in wanted)) > window:
        raise UserError(f"a document of {config.dry_run} tokens and the longest target have {longest} tokens; the "
                        f"context window is {window}", "dry_run", "use fewer tokens: longer documents are chunked")
    return common_lengths(wanted, window)
