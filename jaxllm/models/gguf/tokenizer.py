"""From the vocabulary in a GGUF file to the tokenizer files of a checkpoint directory.

Byte-level BPE (`gpt2` in the file) has merges, and a way to split text that the file names. SentencePiece (`llama`)
has a score for each token, from which the merges follow: the token with the best score is made first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.gguf.header import Header, read_header

# Types of tokens that are matched as a whole in text; control tokens are special.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
SPACE = "\u2581"  # how SentencePiece spells a space

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
LETTERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{LETTERS[0]}*{LETTERS[1]}+|[^\r\n\p{{L}}\p{{N}}]?{LETTERS[0]}+{LETTERS[1]}*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Names of llama.cpp (src/llama-vocab.cpp) -> expressions that split text, one after the other.
SPLITS: dict[str, tuple[str, ...]] = {name: expressions for names, expressions in {
    "gpt-2 phi-2 gpt2 olmo jina-es jina-de mpt": (GPT2,),
    "smollm starcoder refact command-r codeshell": (r"\p{N}", GPT2),
    "llama-bpe llama3 llama-v3 falcon3 dbrx smaug-bpe": (LLAMA3,),
    "qwen2 deepseek-r1-qwen stablelm2": (QWEN2,),
    "tekken": (TEKKEN,),
}.items() for name in names.split()}
# A word that is a token is that token, regardless of merges; the same vocabularies begin every text with a token.
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
# The expressions of files that name none: the architecture's own vocabulary.
DEFAULT_SPLITS = {"gpt2": "gpt-2", "gptneox": "olmo", "phi2": "phi-2", "qwen2": "qwen2", "qwen3": "qwen2",
                  "qwen3moe": "qwen2"}
NFC = ("qwen2", "deepseek-r1-qwen", "stablelm2")


def has_tokenizer(path: Path) -> bool:
    """Whether a GGUF file has a vocabulary."""
    return "tokenizer.ggml.tokens" in read_header(path).metadata


def tokenizer_files(path: Path) -> dict[str, str]:
    """Builds tokenizer.json, tokenizer_config.json and the files of chat templates from a GGUF file.

    Returns:
        Path below the model's directory -> content.

    Raises:
        UserError: there is no vocabulary, or one of an unknown type.
    """
    try:
        return _build(read_header(path))
    except UserError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"its vocabulary is damaged: {error}", path) from error


def _build(header: Header) -> dict[str, str]:
    path = header.path
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()
             if key.startswith("tokenizer.")}
    tokens = about.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise UserError("holds no vocabulary", path, "give a file with tokenizer.ggml.tokens")
    build = {"gpt2": _byte_level, "llama": _sentence_piece}.get(about.get("model", ""))
    if build is None:
        raise UserError(f"a vocabulary of type {about.get('model')!r} is not supported (have: gpt2, llama)", path)
    if len(types := about.get("token_type") or [1] * len(tokens)) != len(tokens):
        raise UserError(f"has {len(tokens)} tokens and {len(types)} types of tokens", path)
    backend = build(header, about, tokens)
    _add_whole_tokens(backend, tokens, types)
    special = {name: tokens[index] for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"),
                                                     ("pad", "padding"))
               if isinstance(index := about.get(f"{key}_token_id"), int) and 0 <= index < len(tokens)}
    begins = about.get("add_bos_token", about["model"] == "llama" or about.get("pre") in WHOLE_WORDS)
    _add_around(backend, {name: (special[name], about[f"{name}_token_id"]) for name, added in (
        ("bos", begins), ("eos", about.get("add_eos_token", False))) if added and name in special})
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
              "model_input_names": ["input_ids", "attention_mask"],
              **{f"{name}_token": token for name, token in special.items()}}
    files = {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(config, indent=2) + "\n"}
    return files | _chat_templates(header)


def _chat_templates(header: Header) -> dict[str, str]:
    """Maps file to template: the default one, and named ones such as `tool_use`; never a path outside the directory."""
    files = {}
    for key, template in header.metadata.items():
        named = re.fullmatch(r"tokenizer\.chat_template(?:\.(\w+))?", key)
        if named and isinstance(template, str) and template:
            files[f"additional_chat_templates/{named[1]}.jinja" if named[1] else "chat_template.jinja"] = template
    return files


def _byte_level(header: Header, about: dict[str, Any], tokens: list[str]) -> Any:
    """Builds byte-level BPE, which splits text as the file names it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = about.get("pre", "default")
    if name == "default":
        name = DEFAULT_SPLITS.get(header.architecture, name)
    if name not in SPLITS:
        raise UserError(f"the way to split text {name!r} (tokenizer.ggml.pre) is not supported (have: "
                        f"{', '.join(SPLITS)})", header.path)
    merges = about.get("merges")
    if not isinstance(merges, list) or not all(merge.count(" ") == 1 for merge in merges):
        raise UserError("merges of its vocabulary are missing or damaged", header.path)
    vocabulary = _vocabulary(tokens)
    pairs = [left_right for merge in merges
             if {*(left_right := tuple(merge.split(" "))), "".join(left_right)} <= vocabulary.keys()]
    backend = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=name in WHOLE_WORDS))
    backend.normalizer = normalizers.NFC() if name in NFC else None
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[name]),
        pre_tokenizers.ByteLevel(add_prefix_space=bool(about.get("add_space_prefix", False)), use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(header: Header, about: dict[str, Any], tokens: list[str]) -> Any:
    """Builds SentencePiece's BPE, with bytes for characters that have no token."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = about.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise UserError("scores of its vocabulary are missing or damaged", header.path)
    # Runs of spaces are spelled as such; Gemma's merges follow the order of its tokens and not their scores.
    in_order = header.architecture.startswith("gemma")
    spelled = [SPACE * len(token) if in_order and token and not token.strip(" ") else token for token in tokens]
    vocabulary = _vocabulary(spelled)
    ranks = {token: index if in_order else -scores[index] for token, index in vocabulary.items()}
    unknown = about.get("unknown_token_id", 0)
    backend = Tokenizer(models.BPE(vocabulary, _merges(vocabulary, ranks), fuse_unk=True, byte_fallback=True,
                                   unk_token=tokens[unknown] if 0 <= unknown < len(tokens) else None))
    prefix = bool(about.get("add_space_prefix", not in_order))
    replace = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefix else replace
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return backend


def _merges(vocabulary: dict[str, int], ranks: dict[str, float]) -> list[tuple[str, str]]:
    """Returns all pairs of tokens that make a token, those that make one of the lowest rank first."""
    merges = [(rank, len(left), left, token[len(left):]) for token, rank in ranks.items()
              for left in (token[:end] for end in range(1, len(token)))
              if left in vocabulary and token[len(left):] in vocabulary]
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    """Returns token -> id; of several with one spelling the first."""
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        vocabulary.setdefault(token, index)
    return vocabulary


def _add_whole_tokens(backend: Any, tokens: list[str], types: list[int]) -> None:
    """Marks tokens that are matched as a whole; control tokens are special."""
    from tokenizers import AddedToken

    for special, wanted in ((True, (CONTROL, UNKNOWN)), (False, (USER_DEFINED,))):
        add = backend.add_special_tokens if special else backend.add_tokens
        add([AddedToken(token, normalized=False, special=special) for token, token_type in zip(
            tokens, types, strict=True) if token_type in wanted and backend.token_to_id(token) is not None])


def _add_around(backend: Any, added: dict[str, tuple[str, int]]) -> None:
    """Puts the begin and the end token around every text."""
    from tokenizers import processors

    if not added:
        return
    begin, end = (added[name][0] if name in added else None for name in ("bos", "eos"))
    single = [part for part in (begin, "$A", end) if part is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, *(part.replace("$A", "$B") for part in single)],
        special_tokens=list(dict.fromkeys(added.values())))
