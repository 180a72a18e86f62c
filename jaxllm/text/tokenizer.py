"""Text to token ids and back; text from outside never becomes a control token.

A tokenizer file has ordinary pieces and *control tokens*: begin, end, start of a user's turn. Control tokens are
matched by their spelling, so a document that contains ``</s>`` would end the sequence, and a chat message that contains
``<|im_start|>system`` would act as the system. Here every control token is renamed, inside a copy of the tokenizer, to
a spelling with a fresh random number: no text can spell it, the ids do not change, and only this package can write one.
`Tokenizer.chat` writes those of the chat template itself.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import json
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxllm import assets
from jaxllm.errors import UserError
from jaxllm.progress import notice
from jaxllm.text.chat import ROLES, ChatTemplate, ControlTokens, load_template

_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "vocab.json", "vocab.txt")



@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its chat template; made by `load_tokenizer`.

    Fields:
        source: directory or Hub name that it was loaded from.
        bos_id: begin-of-sequence id, or None.
        eos_id: end-of-sequence id, or None.
        pad_id: padding id: the tokenizer's own, else `eos_id`, else 0. Never derive a mask from it.
        vocab_size: one more than the largest id it can produce.
        adds_bos: the tokenizer puts `bos_id` in front of ordinary text, as in its model's training.
        stop_ids: ids that end an answer: `eos_id` and the token that ends an assistant's turn in the chat
            template.
        has_types: its model distinguishes first and second texts (token type ids).
        unk_id: token of characters that the vocabulary lacks, or None.
        rows: rows of its model's embedding; a text with an id beyond them is refused. None accepts all ids.
    """

    source: str
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    vocab_size: int
    adds_bos: bool
    stop_ids: tuple[int, ...]
    has_types: bool
    _decoder: Any = field(repr=False)  # the tokenizers.Tokenizer as loaded
    _encoder: Any = field(repr=False)  # the copy with renamed control tokens
    _control: ControlTokens = field(repr=False)
    _chat: ChatTemplate | None = field(repr=False)
    unk_id: int | None = None
    rows: int | None = None

    @property
    def has_chat_template(self) -> bool:
        """True if `chat` can be used."""
        return self._chat is not None

    @property
    def dates(self) -> tuple[str, ...]:
        """Dates that the chat template writes into prompts: those of a job's first start, else of the loading."""
        return () if self._chat is None else self._chat.dates

    @property
    def beyond_rows(self) -> int:
        """Number of ids that have no row in the model's embedding."""
        return 0 if self.rows is None else max(self.vocab_size - self.rows, 0)

    def encode(self, text: str, bos: bool = False, completion: str = "") -> list[int]:
        """Encodes a text as ordinary pieces, without begin or end token.

        Args:
            text: any text; control tokens spelled in it become ordinary pieces.
            bos: put `bos_id` in front, where the tokenizer has one.
            completion: a model's text after `text`, tokenized with it; tokens that are part of decoded texts, such as
                <think>, are themselves in it.

        Raises:
            UserError: a token has no row in the model's embedding.
            ValueError: `text` holds a lone surrogate, which is not text in any encoding.
        """
        ids = self.check_rows(_encoding(self._encoder, text + self._control.rename_own(completion)).ids)
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def whole(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Encodes a whole text, or a pair, with the special tokens that this tokenizer adds around and between.

        Args:
            text, pair: any text; special tokens spelled in it become ordinary pieces.

        Returns:
            The ids, and a token type id for each: 1 in the second text if the tokenizer distinguishes them, else 0.

        Raises:
            UserError: a token has no row in the model's embedding.
            ValueError: a text holds a lone surrogate.
        """
        first, second = (None if part is None else _encoding(self._encoder, part) for part in (text, pair))
        done = self._decoder.post_process(first, second, add_special_tokens=True)
        return self.check_rows(done.ids), done.type_ids if self.has_types else [0] * len(done.ids)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Spelling -> id of the tokens that `decode` leaves out."""
        return {token.content: index for index, token in self._decoder.get_added_tokens_decoder().items()
                if token.special}

    @cached_property
    def classifier_pad_id(self) -> int | None:
        """A special token that no text ends in, for models that score a text at the last token that is not padding.

        The tokenizer's own padding token where it is such a one, else the begin token, else the first. None without
        any, as where the end token is the only special token.
        """
        ends = {*self.stop_ids, self.unk_id}
        with contextlib.suppress(UserError):  # without a template, or with one for something else
            ends.add(self.chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}], False)[-1])
        special = sorted(i for i in self.special_tokens.values() if self.rows is None or i < self.rows)
        return next((i for i in (self.pad_id, self.bos_id, *special) if i in special and i not in ends), None)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Decodes ids to text, without special tokens unless `special` is set.

        Ids beyond the vocabulary, which a padded embedding allows, are left out too. Invalid UTF-8 becomes U+FFFD.
        """
        return self._decoder.decode([int(i) for i in ids], skip_special_tokens=not special)

    def chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[int]:
        """Encodes a conversation in the tokenizer's chat template.

        Equal to ``apply_chat_template(messages, tokenize=True)`` as long as no message spells a control token; a
        message that does is encoded as ordinary pieces, except that an assistant's text may spell tokens that are part
        of decoded texts, such as <think>. If the template rewrites contents beyond trimming blanks, such
        a conversation is an error.

        Args:
            messages: ``{"role": ..., "content": ...}`` each, oldest first.
            add_generation_prompt: end with the header of the assistant's turn.

        Raises:
            UserError: there is no template, it refuses or drops a message, a message is malformed, or a token has no
                row in the model's embedding.
            ValueError: a content holds a lone surrogate.
        """
        text = self._template().render(messages, add_generation_prompt).text
        return self.check_rows(_encoding(self._encoder, text).ids)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Encodes a conversation that a model is to continue: with the header of the assistant's turn or, if the last
        message is the assistant's, up to the end of its text, as the pipelines of transformers do.

        Raises:
            UserError: as `chat`, or the template rewrites the last message, so that its end cannot be located.
        """
        if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "assistant":
            return self.chat(messages)
        rendered = self._template().render(messages, False)
        if rendered.content_stop is None:
            raise UserError("the last message is the assistant's, and the end of its text cannot be located",
                            self.source, "end with a user's message, or give the text as the template writes it")
        notice("conversations that end with the assistant's text are continued from there")
        return self.check_rows(_encoding(self._encoder, rendered.text[:rendered.content_stop]).ids)

    def chat_turns(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[tuple[int, int] | None]]:
        """Encodes a whole conversation as `chat` does, and locates every message in the ids.

        Returns:
            The ids, and for each message `(start, stop)`: the tokens of its content and of the end-of-turn token after
            it, if there is one. A token that spans the border of a content belongs to it. None where the content is
            empty, or the template rewrites it and it cannot be located.
        """
        rendered = self._template().render(messages, False)
        encoding = _encoding(self._encoder, rendered.text)
        starts, ends = ([offset[i] for offset in encoding.offsets] for i in (0, 1))  # characters of each token
        tokens = lambda start, stop: (bisect.bisect_right(ends, start), bisect.bisect_left(starts, stop))
        return self.check_rows(encoding.ids), [turn and tokens(*turn) for turn in rendered.turns]

    def control_tokens_in(self, text: str) -> list[str]:
        """Lists the control tokens that a text spells, which are encoded as ordinary pieces."""
        return self._control.in_text(text)

    def check_rows(self, ids: list[int]) -> list[int]:
        """Returns the ids; raises a `UserError` for one without a row in the model's embedding."""
        if self.rows is not None and self.beyond_rows and (
                beyond := next((i for i in ids if i >= self.rows), None)) is not None:
            raise UserError(f"the text has the token {self._decoder.id_to_token(beyond)!r} with the id {beyond}, for "
                            f"which the model's embedding of {self.rows} rows has none", self.source,
                            "remove the token from the text or from the chat template")
        return ids

    def _template(self) -> ChatTemplate:
        if self._chat is None:
            raise UserError("this tokenizer has no chat template", self.source,
                            "use a chat model's tokenizer, or add chat_template.jinja to its directory")
        return self._chat


def has_tokenizer(path: Path) -> bool:
    """Returns whether a directory has the files of a tokenizer, or a GGUF file a vocabulary."""
    if (gguf := _gguf(path)) is not None:
        return gguf.has_tokenizer(path)
    return any((path / name).is_file() for name in _FILES)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Loads a fast tokenizer from a directory, a GGUF file, ``"tiny"`` (the packaged model) or a Hub name.

    Code that comes with a tokenizer is never run.

    Raises:
        UserError: there is no tokenizer, it cannot be read, or only its slow form exists.
    """
    if not str(source).strip():
        raise UserError("no tokenizer given", fix="give a model directory, a Hub name, or 'tiny'")
    path = assets.resolve(source)
    if (gguf := _gguf(path)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            for file, content in gguf.tokenizer_files(path).items():
                (Path(folder) / file).parent.mkdir(exist_ok=True)
                (Path(folder) / file).write_text(content, encoding="utf-8")
            return _load(folder, str(path))
    if path.is_dir():
        if not has_tokenizer(path):
            raise UserError("no tokenizer in this directory", path, f"it needs one of {', '.join(_FILES)}")
        name = str(path)
    elif path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source).startswith("."):
        raise UserError("not a tokenizer directory", source, "give a model directory, a Hub name, or 'tiny'")
    else:
        name = str(source)
    return _load(name, name)


def _gguf(path: Path) -> ModuleType | None:
    """Returns the module that reads the tokenizer of a GGUF file; None for another path.

    Imported here: reading rows needs no network.
    """
    from jaxllm.models.gguf import header, tokenizer

    return tokenizer if header.is_gguf(path) else None


def _load(folder: str, name: str) -> Tokenizer:
    """Loads the tokenizer of a directory or Hub name that messages call `name`."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise anything, plain Exception included
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the tokenizer cannot be loaded: {reason}",
            name,
            "check the directory or the Hub name; a Hub name needs a network or a copy in the Hub cache",
        ) from error
    if not loaded.is_fast:
        raise UserError("only fast tokenizers are supported", name, "save it with a tokenizer.json")
    return _wrap(loaded, name)


def _wrap(loaded: Any, source: str) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    decoder = Backend.from_str(loaded.backend_tokenizer.to_str())
    decoder.no_padding()
    decoder.no_truncation()
    ids, own = _control_tokens(loaded, loaded.chat_template)
    encoder, names = _rename(decoder, ids)
    control = ControlTokens.of(ids, names, own)
    bos, eos = loaded.bos_token_id, loaded.eos_token_id
    stop_ids, chat = () if eos is None else (eos,), None
    if loaded.chat_template is not None:
        template, dates = load_template(loaded, source)
        chat = ChatTemplate(source, template, control, stop_ids, dates)
        turn_end = chat.turn_end()
        if turn_end is not None and turn_end not in (bos, *stop_ids):
            stop_ids = (*stop_ids, turn_end)
            chat = dataclasses.replace(chat, stop_ids=stop_ids)
    return Tokenizer(
        source=source,
        bos_id=bos,
        eos_id=eos,
        pad_id=next((i for i in (loaded.pad_token_id, eos) if i is not None), 0),
        vocab_size=1 + max(decoder.get_vocab(with_added_tokens=True).values()),
        adds_bos=bos is not None and loaded("a")["input_ids"][:1] == [bos],
        stop_ids=stop_ids,
        has_types="token_type_ids" in loaded.model_input_names,
        unk_id=loaded.unk_token_id,
        _decoder=decoder,
        _encoder=encoder,
        _control=control,
        _chat=chat,
    )


def _control_tokens(loaded: Any, template: Any) -> tuple[dict[str, int], list[str]]:
    """Maps spelling to id for every control token; and lists those that models write in their texts.

    Those marked special, and those that model families forget to mark: spelled ``<|...|>``, or used by the chat
    template. Other added tokens (runs of blanks, HTML tags) are ordinary text. Tokens that are not special are part of
    a decoded text, such as ``<think>``, so an assistant's text may spell them, except for ``<|...|>`` with a role or in
    the template, which separates turns.
    """
    text = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    control = dict(zip(loaded.all_special_tokens, loaded.all_special_ids, strict=True))
    for index, token in loaded.added_tokens_decoder.items():
        spelled = token.content
        if not spelled.strip():
            continue
        if token.special or re.fullmatch(r"<\|.*\|>", spelled) or (len(spelled) > 2 and spelled in text):
            control[spelled] = index
    special = {*loaded.all_special_tokens, *(t.content for t in loaded.added_tokens_decoder.values() if t.special)}
    separates = lambda spelled: re.fullmatch(r"<\|.*\|>", spelled) and (spelled in text or spelled[2:-2] in ROLES)
    return control, [spelled for spelled in control if spelled not in special and not separates(spelled)]


def _rename(decoder: Any, control: dict[str, int]) -> tuple[Any, dict[str, str]]:
    """Copies `decoder` so that no text can spell a control token; returns the copy and each token's secret name."""
    from tokenizers import Tokenizer as Backend

    nonce = secrets.token_hex(12)
    names = {spelled: f"<{nonce}:{index}>" for spelled, index in control.items()}
    data = json.loads(decoder.to_str())
    for token in data["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    data["post_processor"] = None  # it only adds special tokens
    model = data["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:  # "a b" in older files, ["a", "b"] in newer ones
        model["merges"] = [merge for merge in model["merges"] if not control.keys() & _merge_pieces(merge)]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    encoder = Backend.from_str(json.dumps(data))
    for spelled, name in names.items():
        if encoder.token_to_id(name) != control[spelled]:
            raise UserError(f"this tokenizer has two ids for {spelled!r}", fix="save it again")
    return encoder, names


def _merge_pieces(merge: str | list[str]) -> set[str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return {left, right, left + right}


def _encoding(backend: Any, text: str) -> Any:
    """Encodes a text without special tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text holds a lone surrogate at character {error.start}") from None
    return backend.encode(text, add_special_tokens=False)
