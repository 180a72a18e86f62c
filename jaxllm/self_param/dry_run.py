"""Memory of an injection, from shapes alone: compiles a training step without reading weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.memory import abstract_adapter, device_bytes, memory_table
from jaxllm.finetune.packing import pack_targets, row_counts
from jaxllm.finetune.run import TrainPlan, make_plan
from jaxllm.finetune.targets import Target, build_target, collate, common_lengths, continuation
from jaxllm.finetune.teacher_cache import teacher_top_k
from jaxllm.model import Model
from jaxllm.models import ModelSpec, Params, load_spec, native
from jaxllm.models.adapters import linear_shapes
from jaxllm.models.loading import loaded_scheme, stored_dtype
from jaxllm.models.mesh import batch_sharding, model_shardings
from jaxllm.self_param.config import Config
from jaxllm.self_param.experiment import two_teachers, weight_dtype
from jaxllm.self_param.injection import OBJECTIVES
from jaxllm.self_param.targets import DocumentTargets, teacher_reads
from jaxllm.train import abstract_state


def dry_run(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Compiles a step for documents of `config.dry_run` tokens and describes the memory of a device.

    Raises:
        UserError: the model has a scoring head, or the document does not fit the context window.
    """
    spec = load_spec(config.model)
    if spec.head is not None:
        raise UserError("has a scoring head", config.model, "use a language model")
    targets = _targets(config, spec.max_positions)
    lengths = common_lengths(targets, spec.max_positions)
    dtype = jnp.dtype(weight_dtype(config) or stored_dtype(config.model))
    scheme = loaded_scheme(config.model, config.device.quantize)
    weights = native.abstract(spec, dtype, model_shardings(spec, mesh), scheme)
    trained = weights if config.lora is None else abstract_adapter(spec, config.lora, mesh)
    teachers = two_teachers(config, "self_param")
    plan = make_plan(Model(spec, weights, cast(Any, None)), OBJECTIVES["self_param"], config.train, config.lora,
                     config.divergence, lengths, config.device.compute_dtype, mesh, two_teachers=teachers,
                     on_policy=config.on_policy if config.on_policy.share else None,
                     batches=[targets[:config.train.batch_size]], teacher_reads=_reads(config))
    state = abstract_state(trained, plan.optimizer)
    if plan.averages_teacher:
        state = dataclasses.replace(state, extra={"teacher": trained})
    temporary = _temporary(spec, plan, state, weights, targets[:config.train.batch_size])
    parts = {"weights": device_bytes(weights)}
    # Next to the base model, which stays for evaluation and as a teacher; the last adapter is not merged.
    if config.setting == "sequential" and config.documents != 1:
        parts["merged weights"] = _merged_layers(spec, config, weights)
    parts |= {"adapter" if config.lora else "trained weights": device_bytes(state.params),
              "optimizer": device_bytes(state.opt_state),
              **({"average of the adapter": device_bytes(state.extra)} if state.extra else {}),
              "temporary, one step": temporary}
    lines = [f"{config.model}: {spec.family}, {spec.layers} layers, width {spec.width}, vocabulary {spec.vocab_size:,}",
             f"trained               {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters",
             f"step                  {config.train.batch_size} targets, student {lengths[0]} tokens, "
             f"teacher {lengths[1]} tokens",
             f"steps                 {plan.train.steps} per injection",
             *memory_table(parts, mesh)]
    return "\n".join(lines)


def _temporary(spec: ModelSpec, plan: TrainPlan, state, weights: Params, targets: list[Target]) -> int:
    """Compiles the step, and the teacher's pass where its output is cached; returns the larger temporary size."""
    top_k, mesh = plan.top_k, plan.mesh
    lengths = plan.student_length, plan.teacher_length
    batch = collate(targets, *plan.views) if plan.packing is None else plan.pack(targets).batch
    with jax.set_mesh(mesh):
        if top_k is None:
            frozen = (weights, weights) if plan.two_teachers else weights
            programs = [plan.step.lower(state, frozen, _shapes(batch, mesh))]
        else:
            ids = np.zeros((*batch["student" if plan.packing is None else "labels"].shape, top_k), np.int32)
            cached = batch | {"teacher_ids": ids, "teacher_logprobs": ids.astype(np.float32)}
            texts = targets[:plan.teacher_targets]
            if plan.teacher_packing is not None:
                counts = row_counts(plan.teacher_targets, mesh.shape["data"] * mesh.shape["fsdp"])
                batch = pack_targets(texts, plan.teacher_packing, counts).batch
            else:
                batch = collate(texts, *lengths)
            programs = [plan.step.lower(state, weights, _shapes(cached, mesh)),
                        teacher_top_k.lower(spec, weights, _shapes(batch, mesh), k=top_k,
                                            temperature=plan.divergence.temperature, dtype=plan.dtype)]
        return max(program.compile().memory_analysis().temp_size_in_bytes for program in programs)


def _reads(config: Config) -> Callable[[int], float]:
    """Estimates `teacher_reads` for documents of `config.dry_run` tokens, with as many texts as the settings allow."""
    document, pair = (1,) * (config.dry_run or 0), (1,) * (config.qa_pairs.max_tokens + config.sampling.max_tokens)
    questions = (build_target((), document, pair, "qa"),) * (config.qa_pairs.per_document + config.qa_pairs.cloze)
    one = DocumentTargets((), document, questions, ((1,) * config.unrelated.tokens,) * config.unrelated.train,
                          document if config.unrelated.with_document else (), config.mixture.cycle, 0,
                          (pair,) * config.rehearsal.texts)
    together = (config.documents or 1) if config.setting == "batch" else 1
    return lambda count: teacher_reads([one], count / together, config.on_policy.share)


def _shapes(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
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


def _targets(config: Config, window: int) -> list[Target]:
    """Builds a batch for a document of `config.dry_run` tokens, a prefix of one token and QA pairs of maximum length.

    Its ids differ where texts differ: what two of them have in common is computed once in packed rows.
    """
    document, prefix = tuple(range(1, (config.dry_run or 0) + 1)), (0,)
    cycle, cuts = config.mixture.cycle, np.random.default_rng(0)

    def target(number: int, target_type: str) -> Target:
        ids = lambda length: tuple(range(-number - 1, -number - 1 - length, -1))
        pair = ids(config.qa_pairs.max_tokens + config.sampling.max_tokens + 16)
        if target_type == "continuation":  # one is as long as any
            cut = 1 if number < len(cycle) else int(cuts.integers(1, len(document) - 1))
            return continuation(prefix, document, cut)
        if target_type == "unrelated":
            context = document if config.unrelated.with_document else ()
            return build_target(prefix, context, ids(config.unrelated.tokens), target_type)
        return build_target(prefix, document if target_type == "qa" else (), pair, target_type)

    wanted = [target(n, cycle[n % len(cycle)]) for n in range(max(config.train.batch_size, len(cycle)))]
    if (longest := max(len(target.teacher) for target in wanted)) > window:
        raise UserError(f"a document of {config.dry_run} tokens and the longest target have {longest} tokens; the "
                        f"context window is {window}", "dry_run", "use fewer tokens: longer documents are chunked")
    return wanted
