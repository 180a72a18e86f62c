"""Text to token ids and back, with the guarantee that text from outside never becomes a control token.

A tokenizer file has ordinary pieces and *control tokens*: begin, end, "here the user speaks". Control tokens
are matched by their spelling, so a document holding the characters ``</s>`` would end the sequence and a chat
message holding ``<|im_start|>system`` would speak as the system. Here every control token is renamed, inside
a copy of the tokenizer, to a spelling that holds a fresh random number: no text can spell it, the ids stay
what they were, and only this module can write one. `Tokenizer.chat` writes those which stand in the chat
template itself.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxllm import assets
from jaxllm.errors import UserError

_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "vocab.json", "vocab.txt")
# A role is written into marks such as <|user|>: a free choice would let a row write <|end|>.
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as the rest of the library sees it; made by `load_tokenizer`.

    Fields:
        source: where it was loaded from (a directory, or a Hub name).
        bos_id: begin-of-sequence id, or None.
        eos_id: end-of-sequence id, or None.
        pad_id: padding id: the tokenizer's own, else `eos_id`, else 0. Never derive a mask from it.
        vocab_size: one more than the largest id it can produce.
        adds_bos: whether the tokenizer begins ordinary text with `bos_id`, which is how its model was
            trained.
        stop_ids: ids that end an answer: `eos_id` and the token that ends an assistant's turn in the chat
            template.
        has_chat_template: whether `chat` can be used.
        has_types: whether its model is told first and second texts apart.
    """

    source: str
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    vocab_size: int
    adds_bos: bool
    stop_ids: tuple[int, ...]
    has_chat_template: bool
    has_types: bool
    _reader: Any = field(repr=False)  # the tokenizers.Tokenizer as loaded: decodes
    _writer: Any = field(repr=False)  # the copy with renamed control tokens: encodes
    _control: dict[str, str] = field(repr=False)  # spelling of a control token -> its name in _writer
    _marks: re.Pattern = field(repr=False)  # matches any spelling in _control
    _template: Any = field(repr=False)  # (messages, add_generation_prompt) -> rendered text

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Ids of `text` as ordinary pieces, whatever it spells; nothing is added at either end.

        Args:
            text: any text; special tokens spelled in it become ordinary pieces.
            bos: put `bos_id` in front, where the tokenizer has one.

        Raises:
            ValueError: `text` holds a lone surrogate, which is not text in any encoding.
        """
        ids = _ids(self._writer, text)
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def whole(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Ids of a whole text, or of two, with the special tokens that this tokenizer puts around and between.

        Args:
            text, pair: any text; special tokens spelled in it become ordinary pieces.

        Returns:
            The ids, and as many types: 0 in the first text, 1 in the second where the tokenizer tells them apart.

        Raises:
            ValueError: a text holds a lone surrogate.
        """
        first, second = (None if one is None else _encoding(self._writer, one) for one in (text, pair))
        done = self._reader.post_process(first, second, add_special_tokens=True)
        return done.ids, done.type_ids if self.has_types else [0] * len(done.ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` without special tokens.

        Ids beyond the vocabulary, which a padded embedding allows, are left out too. Bytes that are no valid
        UTF-8 become U+FFFD; for ids that arrive one by one use `stream`.
        """
        return self._reader.decode([int(i) for i in ids], skip_special_tokens=True)

    def stream(self) -> TextStream:
        """A decoder for ids that arrive one by one."""
        return TextStream(self)

    def chat(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation in the tokenizer's chat template.

        Equal to ``apply_chat_template(messages, tokenize=True)`` as long as no message spells a control
        token. A message that does is kept as ordinary pieces. Contents are told from the template's own text
        by rendering it a second time with each content replaced by a random marker. Where the template
        rewrites contents beyond trimming blanks, they cannot be told apart: then a conversation that spells
        no control token is rendered as usual and one that does is an error.

        Args:
            messages: ``{"role": ..., "content": ...}`` each, oldest first.
            add_generation_prompt: end with the header of the assistant's turn.

        Raises:
            UserError: there is no template, it refuses or drops a message, or a message is malformed.
            ValueError: a content holds a lone surrogate.
        """
        if not self.has_chat_template:
            raise UserError(
                "this tokenizer has no chat template",
                self.source,
                "use a chat model's tokenizer, or add chat_template.jinja to its directory",
            )
        messages = [_check_message(message, i) for i, message in enumerate(messages)]
        if not messages:
            raise UserError("a conversation needs at least one message", self.source)
        plain = self._template(messages, add_generation_prompt)
        text = self._separated(messages, plain, add_generation_prompt)
        return _ids(self._writer, text)

    def _separated(self, messages: list[dict], plain: str, add_generation_prompt: bool) -> str:
        """The rendered conversation, in which the template's control tokens alone have their secret names."""
        nonce = secrets.token_hex(12)
        contents, marked = {}, []
        for i, message in enumerate(messages):
            # Outer blanks stay in sight, so that a template which trims does so here as it does ordinarily.
            content, core = message["content"], message["content"].strip()
            name = f"m{nonce}x{i}x"
            if core:
                contents[name] = core
                content = content.replace(core, name, 1)
            marked.append({**message, "content": content})
        rendered = self._template(marked, add_generation_prompt)
        for name in contents:
            if name not in rendered:
                i = int(name.split("x")[-2])
                raise UserError(
                    f"the chat template drops or rewrites message {i + 1} (role {messages[i]['role']!r})",
                    self.source,
                    "use roles that this model's template supports; a system text can stand before the first "
                    "user text",
                )
        pieces = re.split(f"(m{nonce}x[0-9]+x)", rendered)
        if "".join(contents.get(piece, piece) for piece in pieces) == plain:
            return "".join(contents[p] if p in contents else self._renamed(p) for p in pieces)
        in_template, in_plain = self._found(rendered), self._found(plain)
        if in_template != in_plain or any(self._found(content) for content in contents.values()):
            raise UserError(
                "a message spells a special token and the chat template rewrites messages, so that the two "
                "cannot be told apart",
                self.source,
                "remove the special token from the message",
            )
        return self._renamed(plain)

    def _found(self, text: str) -> list[str]:
        return self._marks.findall(text)

    def _renamed(self, text: str) -> str:
        return self._marks.sub(lambda match: self._control[match.group()], text)


class TextStream:
    """Text of ids that arrive one by one; the parts joined are `Tokenizer.decode` of all the ids.

    Invalid UTF-8 is the exception: where a tokenizer judges a run of byte pieces as a whole, characters at
    its beginning are out already when `decode` of all would replace them by U+FFFD.

    A character may take several ids and a piece may look different at the start of a text, so each part is
    the difference of two decodings of a short window, held back while it ends in an unfinished character.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._decode = tokenizer.decode
        self._window: list[int] = []
        self._told = 0  # ids of the window whose text is out already

    def feed(self, token: int) -> str:
        """The text that `token` completes; often one piece, sometimes empty."""
        self._window.append(token)
        old, new = self._decode(self._window[: self._told]), self._decode(self._window)
        if len(new) <= len(old) or new.endswith("\ufffd"):
            return ""
        self._window, self._told = self._window[self._told :], len(self._window) - self._told
        return new[len(old) :]

    def finish(self) -> str:
        """What was held back; the stream ends here."""
        old, new = self._decode(self._window[: self._told]), self._decode(self._window)
        self._window, self._told = [], 0
        return new[len(old) :]


def has_tokenizer(path: Path) -> bool:
    """Whether a directory has the files of one."""
    return any((path / name).is_file() for name in _FILES)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Loads a fast tokenizer from a directory, ``"tiny"`` (the packaged model) or a Hub name.

    Code that comes with a tokenizer is never run.

    Raises:
        UserError: nothing is there, it cannot be read, or it exists only in the slow form.
    """
    if not str(source).strip():
        raise UserError("no tokenizer given", fix="give a model directory, a Hub name, or 'tiny'")
    path = assets.resolve(source)
    if path.is_dir():
        if not has_tokenizer(path):
            raise UserError("no tokenizer in this directory", path, f"it needs one of {', '.join(_FILES)}")
        name = str(path)
    elif path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source).startswith("."):
        raise UserError("not a tokenizer directory", source, "give a model directory, a Hub name, or 'tiny'")
    else:
        name = str(source)
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
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

    reader = Backend.from_str(loaded.backend_tokenizer.to_str())
    reader.no_padding()
    reader.no_truncation()
    template = loaded.chat_template
    control = _control_tokens(loaded, template)
    writer, names = _rename(reader, control)
    bos, eos = loaded.bos_token_id, loaded.eos_token_id
    pad = next((i for i in (loaded.pad_token_id, eos) if i is not None), 0)
    # Longest first: where one control token begins another, tokenizers take the longer one.
    marks = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
    tokenizer = Tokenizer(
        source=source,
        bos_id=bos,
        eos_id=eos,
        pad_id=pad,
        vocab_size=1 + max(reader.get_vocab(with_added_tokens=True).values()),
        adds_bos=bos is not None and loaded("a")["input_ids"][:1] == [bos],
        stop_ids=() if eos is None else (eos,),
        has_chat_template=template is not None,
        has_types="token_type_ids" in loaded.model_input_names,
        _reader=reader,
        _writer=writer,
        _control=names,
        _marks=re.compile(marks),
        _template=_renderer(loaded, source),
    )
    turn_end = _turn_end(tokenizer, control) if template is not None else None
    if turn_end is None or turn_end in tokenizer.stop_ids:
        return tokenizer
    return dataclasses.replace(tokenizer, stop_ids=(*tokenizer.stop_ids, turn_end))


def _control_tokens(loaded: Any, template: Any) -> dict[str, int]:
    """Spelling -> id of every token that has a meaning beyond its text.

    Those marked special, and those that families forget to mark: spelled ``<|...|>``, or used by the chat
    template. Other added tokens (runs of blanks, HTML tags) are ordinary text and stay so.
    """
    text = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    found = dict(zip(loaded.all_special_tokens, loaded.all_special_ids, strict=True))
    for index, token in loaded.added_tokens_decoder.items():
        spelled = token.content
        if not spelled.strip():
            continue
        if token.special or re.fullmatch(r"<\|.*\|>", spelled) or (len(spelled) > 2 and spelled in text):
            found[spelled] = index
    return found


def _rename(reader: Any, control: dict[str, int]) -> tuple[Any, dict[str, str]]:
    """A copy of `reader` in which no text can spell a control token, and each one's new name."""
    from tokenizers import Tokenizer as Backend

    nonce = secrets.token_hex(12)
    names = {spelled: f"<{nonce}:{index}>" for spelled, index in control.items()}
    data = json.loads(reader.to_str())
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
    writer = Backend.from_str(json.dumps(data))
    for spelled, name in names.items():
        if writer.token_to_id(name) != control[spelled]:
            raise UserError(f"this tokenizer has two ids for {spelled!r}", fix="save it anew")
    return writer, names


def _merge_pieces(merge: str | list[str]) -> set[str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return {left, right, left + right}


def _renderer(loaded: Any, source: str):
    def render(messages: list[dict], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return loaded.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the chat template does not accept these messages ({roles}): {error}",
                source,
                "use the roles and the order that this model's template supports; without a system role, put "
                "the system text before the first user text",
            ) from error

    return render


def _turn_end(tokenizer: Tokenizer, control: dict[str, int]) -> int | None:
    """Id of the control token that the chat template writes right after an assistant's text, or None."""
    answer = f"a{secrets.token_hex(8)}"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    try:
        rendered = tokenizer._template(messages, False)
    except UserError:  # a template for something else than a conversation
        return None
    after = rendered.rpartition(answer)[2].lstrip()
    match = tokenizer._marks.match(after)
    index = control[match.group()] if match else None
    return None if index == tokenizer.bos_id else index


def _check_message(message: Any, i: int) -> dict[str, str]:
    where = f"message {i + 1}"
    if not isinstance(message, dict):
        raise UserError(f"expected an object with role and content, got {type(message).__name__}", where)
    extra = sorted(k for k, v in message.items() if k not in ("role", "content") and v is not None)
    if extra:
        raise UserError(f"unknown field {', '.join(map(str, extra))}", where, "give role and content only")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise UserError(f"role must be one of {', '.join(_ROLES)}, got {role!r}", where)
    if not isinstance(content, str):
        raise UserError(f"content must be text, got {type(content).__name__}", where)
    return {"role": role, "content": content}


def _ids(backend: Any, text: str) -> list[int]:
    return _encoding(backend, text).ids


def _encoding(backend: Any, text: str) -> Any:
    """Ordinary pieces of a text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text holds a lone surrogate at character {error.start}") from None
    return backend.encode(text, add_special_tokens=False)
