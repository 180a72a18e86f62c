"""What an injection will take, from shapes alone: a training step is compiled, no weights are read."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.finetune.run import make_plan
from jaxllm.finetune.targets import build_target, collate, common_lengths, continuation
from jaxllm.finetune.teacher_cache import teacher_top_k
from jaxllm.model import Model
from jaxllm.models import ModelSpec, Params, init_adapter, load_spec, native
from jaxllm.models.adapters import adapter_axes, linear_shapes
from jaxllm.models.mesh import batch_sharding, model_shardings
from jaxllm.ops import Quantized
from jaxllm.self_param.config import Config
from jaxllm.self_param.study import OBJECTIVES, two_teachers
from jaxllm.train import abstract_state, shardings


def dry_run(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Compiles a step for documents of `config.dry_run` tokens; what it takes, in words."""
    spec = load_spec(config.model)
    if spec.head is not None:
        raise UserError("the model scores texts and does not write them", config.model, "use a language model")
    lengths = _lengths(config, spec.max_positions)
    weights = native.abstract(spec, config.device.param_dtype, model_shardings(spec, mesh), config.device.quantize)
    if config.lora is None:
        trained = weights
    else:
        adapter = jax.eval_shape(lambda: init_adapter(spec, jax.random.key(0), config.lora))
        trained = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), adapter.params,
                               shardings(adapter_axes(adapter), mesh, adapter.params))
    teachers = two_teachers(config, "after")
    recipe = make_plan(Model(spec, weights, None), OBJECTIVES["after"], config.train, config.lora, config.divergence,
                         lengths, config.device.compute_dtype, mesh, two_teachers=teachers)
    state = abstract_state(trained, recipe.optimizer)
    rows = config.train.batch_size
    with jax.set_mesh(mesh):
        if (k := config.divergence.top_k) is None:
            programs = [recipe.step.lower(state, (weights, weights) if teachers else weights,
                                          _batch(rows, lengths, mesh))]
        else:  # the teacher reads apart from the step
            some = _batch(rows // config.train.accumulate, lengths, mesh)
            programs = [recipe.step.lower(state, weights, _batch(rows, lengths, mesh, k)),
                        teacher_top_k.lower(spec, weights, weights if teachers else None, some, k=k,
                                          temperature=config.divergence.temperature, dtype=recipe.dtype)]
        temporary = max(program.compile().memory_analysis().temp_size_in_bytes for program in programs)
    size = lambda tree: sum(_bytes(x) for x in jax.tree.leaves(tree))
    parts = {"weights": size(weights)}
    if config.setting == "sequential":  # beside the first model's, which are compared with
        parts["those written into"] = _adapted(spec, config, weights)
    if config.on_policy.share:
        # Merged, and then every layer by itself: what the adapter does not change is copied too.
        parts["student, answering"] = _adapted(spec, config, weights) + size(weights["layers"])
    parts |= {"adapter" if config.lora else "trained weights": size(state.params),
             "optimizer": size(state.opt_state), "temporary, of a step": temporary}
    total = sum(parts.values())
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    lines = [f"{config.model}: {spec.family}, {spec.layers} layers, width {spec.width}, vocabulary {spec.vocab_size:,}",
             f"trained               {count(trained):,} parameters",
             f"a step                {config.train.batch_size} texts, student {lengths[0]} tokens, "
             f"teacher {lengths[1]} tokens",
             f"steps                 {config.train.steps} an injection",
             f"memory of a device ({jax.devices()[0].device_kind}, {mesh.size} in all)",
             *(f"  {name:<20}{size / 2**20:12,.1f} MiB" for name, size in parts.items()),
             f"  {'together':<20}{total / 2**20:12,.1f} MiB"]
    return "\n".join(lines)


def _batch(rows: int, lengths: tuple[int, int], mesh: jax.sharding.Mesh, likely: int | None = None
           ) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of `rows` targets; with what the teacher said, `likely` tokens of a position."""
    made = collate([build_target((), (), (0, 0), "qa")] * rows, *lengths)
    if likely is not None:
        ids = np.zeros((rows, lengths[0], likely), np.int32)
        made |= {"teacher_ids": ids, "teacher_logprobs": ids.astype(np.float32)}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), made)


def _adapted(spec: ModelSpec, config: Config, weights: Params) -> int:
    """Bytes on one device of the matrices that adapters are merged into, in full."""
    if config.lora is None:
        return 0
    size = 0
    for (module, name), shape in linear_shapes(spec).items():
        if name in config.lora.targets:
            kernel = weights["layers"][module][name]["kernel"]
            codes = kernel.codes if isinstance(kernel, Quantized) else kernel
            share = math.prod(codes.sharding.shard_shape(codes.shape)) / math.prod(codes.shape)
            size += int(spec.layers * math.prod(shape) * share * config.device.param_dtype.itemsize)
    return size


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    """Of an array's part on one device."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 0
    return int(jnp.dtype(x.dtype).itemsize * math.prod(x.sharding.shard_shape(x.shape)))


def _lengths(config: Config, window: int) -> tuple[int, int]:
    """Of batches for one document of `config.dry_run` tokens, a prefix of one token and questions of the longest."""
    document, prefix = (0,) * config.dry_run, (0,)
    asked = (0,) * (config.questions.max_tokens + config.sampling.max_tokens + 16)
    unrelated = document if config.unrelated.with_document else ()
    targets = {"qa": build_target(prefix, document, asked, "qa"),
               "continuation": continuation(prefix, document, 1),
               "unrelated": build_target(prefix, unrelated, (0,) * config.unrelated.tokens, "unrelated"),
               "recall": build_target(prefix, (), asked, "recall")}
    wanted = [targets[kind] for kind in config.mixture.turns]
    if (longest := max(len(target.teacher) for target in wanted)) > window:
        raise UserError(f"a document of {config.dry_run} tokens and what is read behind it have {longest}; the context "
                        f"window is {window}", "dry_run", "give fewer tokens: longer documents are read in windows")
    return common_lengths(wanted, window)
