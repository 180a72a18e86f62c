"""Model families: the maps between `config.json` and `ModelSpec`, and between tensor names and parameters."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.families import bert, gemma, gpt, llama
from jaxllm.models.families.table import Family, Keys, TensorMap, linear, read_head
from jaxllm.models.spec import LM_HEAD, Head, ModelSpec

FAMILIES: dict[str, Family] = llama.FAMILIES | gemma.FAMILIES | gpt.FAMILIES | bert.FAMILIES

__all__ = ["FAMILIES", "Family", "TensorMap", "is_classifier", "tensor_maps", "read_all_keys", "read_config",
           "write_config"]

CLASSIFIER, REWARD = "ForSequenceClassification", "ForRewardModel"
# Endings of the names of classes that predict the next token.
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
# Endings of the names of transformers' classes with labels of something else than whole texts.
_OTHER_LABELS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
# What follows the name of a family in the names of transformers' classes.
_LIBRARY_CLASS = "(?:Text)?(?:For[A-Z][A-Za-z]*|(?:LMHead|DoubleHeads|PreTrained)?Model)"
# The quantization method that is supported: 8-bit floats with one scale per block of a tensor.
_READ_METHOD = "fp8"
# Keys that describe quantized weights in files of MLX and of earlier versions of compressed-tensors.
_OTHER_QUANTIZATION = ("quantization", "compression_config")


def read_config(config: dict[str, Any], where: Path | str) -> ModelSpec:
    """Reads the spec of a network from its `config.json`; raises as `read_all_keys` does."""
    return read_all_keys(config, where)[0]


def read_all_keys(config: dict[str, Any], where: Path | str) -> tuple[ModelSpec, dict[str, Any]]:
    """Reads the spec of a network from its `config.json`, and returns the keys that were passed over with their values.

    Raises:
        UserError: an unknown architecture, a missing key, or one with an unsupported meaning.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"architecture {family!r} is not supported (have: {', '.join(FAMILIES)})", where)
    keys = Keys(config, where)
    quantized = keys.get("quantization_config")
    if any(keys.get(name) for name in _OTHER_QUANTIZATION) or quantized is not None and (
            not isinstance(quantized, dict) or quantized.get("quant_method") != _READ_METHOD):
        raise UserError("the checkpoint is quantized", where, "use the unquantized checkpoint")
    keys.only("pruned_heads", {})
    try:
        spec = FAMILIES[family].read(keys)
        if spec.encoder is None and is_classifier(config):
            head = dataclasses.replace(read_head(keys, "last"), before_padding=True)
            spec = dataclasses.replace(spec, head=head)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"the configuration does not describe a network: {error}", where) from error
    if spec.encoder is not None and not is_classifier(config):
        raise UserError(f"an encoder is read as a classifier only, and this one is {architecture(config)!r}", where,
                        f"use a checkpoint with a class that ends in {CLASSIFIER}")
    _check_class(config, spec, where)
    return spec, keys.finish(spec)


def _check_class(config: dict[str, Any], spec: ModelSpec, where: Path | str) -> None:
    """Raises a `UserError` for a class with other labels than texts', or of the repository's own code (`auto_map`)."""
    if (architecture(config) or "").endswith(_OTHER_LABELS):
        raise UserError(f"class {architecture(config)!r} is not supported; of classifiers, only those of whole texts",
                        where, f"use a checkpoint with a class that ends in {CLASSIFIER}")
    own = config.get("auto_map")
    own = {auto: name for auto, name in own.items() if auto.startswith("AutoModel")} if isinstance(own, dict) else {}
    if not own:
        return
    stem = FAMILIES[spec.family].write(spec)["architectures"][0]
    stem = re.split(f"{_LIBRARY_CLASS}$", stem, maxsplit=1)[0]
    code = [name.split("--")[-1] for names in own.values() for name in (names if isinstance(names, list) else [names])
            if isinstance(name, str)]
    for name in [architecture(config) or "", *(name.rpartition(".")[2] for name in code)]:
        if name and not re.fullmatch(f"{stem}{_LIBRARY_CLASS}", name, re.IGNORECASE):
            raise UserError(f"class {name!r} is the repository's own code ({', '.join(code)}), which is not run", where,
                            "use a checkpoint of one of transformers' classes")


def architecture(config: dict[str, Any]) -> str | None:
    """Returns the class name in a `config.json`, the first of several; None without one.

    Raises:
        UserError: the value is no list of names.
    """
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"config key 'architectures' must be a list of names, found {names!r}", "config.json")
    return next(iter(names or ()), None)


def is_classifier(config: dict[str, Any]) -> bool:
    """Whether the class name is that of a classifier."""
    return (architecture(config) or "").endswith(CLASSIFIER)


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether the class name is that of a language model; true where no class is named."""
    name = architecture(config)
    return name is None or name.endswith(_LANGUAGE_MODELS)


def write_config(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """Builds the `config.json` of a network with weights of `dtype`; transformers 4 and 5 read it."""
    end = spec.eos_ids[0] if len(spec.eos_ids) == 1 else list(spec.eos_ids) or None
    # Without the key, transformers takes the class's default, which may be outside of this vocabulary.
    written = FAMILIES[spec.family].write(spec) | {
        "torch_dtype": dtype, "bos_token_id": spec.bos_id, "eos_token_id": end, "pad_token_id": spec.pad_id}
    if spec.head is not None:
        stem = next(written["architectures"][0].removesuffix(end) for end in (*_LANGUAGE_MODELS, CLASSIFIER)
                    if written["architectures"][0].endswith(end))
        usual = spec.encoder is not None or spec.head.name == "score" and not spec.head.bias and not spec.head.hidden
        # The classifier's class of these decoders is named after their model type.
        stem = {"gemma3_text": "Gemma3Text"}.get(spec.family, stem) if usual else stem
        names = spec.head.label_names or [f"LABEL_{i}" for i in range(spec.head.labels)]
        written |= {"architectures": [stem + (CLASSIFIER if usual else REWARD)], "num_labels": spec.head.labels,
                    "id2label": {str(i): name for i, name in enumerate(names)},
                    "label2id": {name: i for i, name in enumerate(names)}}
    return written


def tensor_maps(spec: ModelSpec) -> list[TensorMap]:
    """Returns the maps of all parameters of a network to the tensors of a checkpoint."""
    leaves = FAMILIES[spec.family].leaves(spec)
    if spec.head is None or spec.encoder is not None:
        return leaves
    return [leaf for leaf in leaves if leaf.path[0] not in LM_HEAD] + score_leaves(spec.head)


def score_leaves(head: Head) -> list[TensorMap]:
    """Returns the maps of a decoder's scoring head; a hidden layer makes it a torch `Sequential`."""
    if head.hidden is None:
        return linear(("score", "out"), head.name, head.bias)
    return [*linear(("score", "hidden"), f"{head.name}.0", head.hidden_bias),
            *linear(("score", "out"), f"{head.name}.2", head.bias)]
