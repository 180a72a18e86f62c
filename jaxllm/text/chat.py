"""Chat templates: conversations as text in which only the template can write control tokens.

A template is rendered twice: once as it is, and once with every content replaced by a random marker, which separates
the template's own text from the contents. Control tokens in the template's text get secret names (see `ControlTokens`);
those spelled in a content stay ordinary text.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jaxllm import clock
from jaxllm.errors import UserError

# A role is written into control tokens such as <|user|>: a free choice would let a row write <|end|>.
ROLES = ("system", "developer", "user", "assistant", "tool")
# Markers of contents: unknown to all texts, and of digits, which templates leave alone.
_NONCE = secrets.randbits(96)
_MARKER = re.compile(f"(m{_NONCE}x[0-9]+x)")


@dataclasses.dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer: spelling, id and secret name of each.

    Attributes:
        ids: spelling -> id.
        names: spelling -> secret name, which the encoding tokenizer has in place of the spelling.
        pattern: matches any spelling.
        own: matches, as a group, those that assistants write in their texts, such as <think>.
    """

    ids: dict[str, int]
    names: dict[str, str]
    pattern: re.Pattern
    own: re.Pattern

    @classmethod
    def of(cls, ids: dict[str, int], names: dict[str, str], own: Iterable[str] = ()) -> ControlTokens:
        """Makes the patterns: where one spelling is the start of another, tokenizers match the longer one.

        Args:
            ids, names: see the class.
            own: spellings that assistants write in their texts.
        """
        any_of = lambda names: "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
        return cls(ids, names, re.compile(any_of(names)), re.compile(f"({any_of(own)})"))

    def in_text(self, text: str) -> list[str]:
        """Lists the spellings in a text."""
        return self.pattern.findall(text)

    def rename(self, text: str) -> str:
        """Replaces the spellings in a text by their secret names."""
        return self.pattern.sub(lambda match: self.names[match.group()], text)

    def rename_own(self, text: str) -> str:
        """Replaces the spellings that assistants write in their texts."""
        return self.own.sub(lambda match: self.names[match.group()], text)


class _Piece(NamedTuple):
    """A text in a message that is replaced by a marker: a whole content, or what is between an assistant's own tokens.

    Fields:
        message: index of the message.
        before: the content between the piece before and this one: blanks, and an assistant's own tokens.
        core: the text, without outer blanks.
        after: the content after the last piece, likewise; empty for the others.
    """

    message: int
    before: str
    core: str
    after: str = ""


class Rendered(NamedTuple):
    """A rendered conversation.

    Fields:
        text: the conversation, with secret names for the template's control tokens.
        turns: for each message the characters `(start, stop)` of its content and of the end token after it, if there is
            one; None where the content is empty or cannot be located because the template rewrites it.
        content_stop: the character after the last message's content; None where that cannot be located.
    """

    text: str
    turns: list[tuple[int, int] | None]
    content_stop: int | None


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer.

    Attributes:
        source: directory or Hub name of the tokenizer, for messages.
        template: (messages, add_generation_prompt) -> rendered text; raises a `UserError` if it refuses the messages.
        control: control tokens of the tokenizer.
        stop_ids: ids of tokens that can end a turn.
        dates: the dates that the template writes.
    """

    source: str
    template: Callable[[list[dict], bool], str]
    control: ControlTokens
    stop_ids: tuple[int, ...]
    dates: tuple[str, ...]

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> Rendered:
        """Renders a conversation.

        Args:
            messages: ``{"role": ..., "content": ...}`` each, oldest first.
            add_generation_prompt: end with the header of the assistant's turn.

        Raises:
            UserError: the template refuses or drops a message, a message is malformed, or a content spells a control
                token and the template rewrites contents.
        """
        turns = [_check_message(message, i) for i, message in enumerate(messages)]
        if not turns:
            raise UserError("a conversation needs at least one message", self.source)
        plain = self.template(turns, add_generation_prompt)
        contents_of = [self._pieces(i, message) for i, message in enumerate(turns)]
        cores = {f"m{_NONCE}x{k}x": piece for k, piece in enumerate(itertools.chain(*contents_of))}
        # Outer blanks are not replaced, so that a template that trims contents does so here as well.
        marked = self.template(self._marked(turns, cores), add_generation_prompt)
        for i, own in enumerate(contents_of):
            written = [name in marked for name, piece in cores.items() if piece.message == i]
            # Of an assistant's text with tokens of its own, templates may leave out a part, such as earlier thoughts,
            # which are all of it where nothing follows the last of these tokens.
            assistant = turns[i]["role"] == "assistant"
            optional = assistant and not self.control.own.split(turns[i]["content"])[-1].strip()
            if own and not optional and not (any(written) if assistant else all(written)):
                raise UserError(
                    f"the chat template drops or rewrites message {i + 1} (role {turns[i]['role']!r})", self.source,
                    "use roles that this model's template supports; a system text can be put in front of the first "
                    "user text")
        pieces = re.split(_MARKER, marked)  # template text, marker, template text, marker, ...
        found = [cores[marker] for marker in pieces[1::2]]
        contents = [piece.core for piece in found]
        if "".join(map("".join, zip(pieces[::2], [*contents, ""], strict=True))) != plain:
            spelled = [self.control.in_text(piece.core) for piece in cores.values()]
            if any(spelled) or self.control.in_text(marked) != self.control.in_text(plain):
                raise UserError(
                    "a message spells a special token and the chat template rewrites messages, so that the two "
                    "cannot be distinguished", self.source, "remove the special token from the message")
            rewritten = self._rewritten(pieces[::2], plain)
            if rewritten is None:
                return Rendered(self.control.rename(plain), [None] * len(turns), None)
            contents = rewritten
        return self._joined(turns, found, pieces[::2], contents,
                            self._leading(turns, cores, found, pieces, add_generation_prompt))

    def _pieces(self, i: int, message: dict[str, str]) -> list[_Piece]:
        """Returns the texts of a message that are replaced by markers."""
        pieces, before = [], ""
        parts = self.control.own.split(message["content"]) if message["role"] == "assistant" else [message["content"]]
        for text, token in itertools.zip_longest(parts[::2], parts[1::2], fillvalue=""):
            if core := text.strip():
                pieces.append(_Piece(i, before + _blanks(text), core))
                before = text[len(text.rstrip()):]
            else:
                before += text
            before += token
        if pieces:
            pieces[-1] = pieces[-1]._replace(after=before)
        return pieces

    def _marked(self, messages: list[dict[str, str]], names: Mapping[str, _Piece]) -> list[dict[str, str]]:
        """Replaces the pieces of all messages by their markers."""
        marked = []
        for i, message in enumerate(messages):
            text = "".join(piece.before + name + piece.after for name, piece in names.items() if piece.message == i)
            marked.append({**message, "content": text or message["content"]})
        return marked

    def _rewritten(self, literals: list[str], plain: str) -> list[str] | None:
        """Contents as the template rewrote them, between its own texts; None where these cannot be located.

        A text of the template is searched for only if it has a control token: no content spells one.
        """
        if not plain.startswith(literals[0]) or not all(map(self.control.in_text, literals[1:-1])):
            return None
        contents, position = [], len(literals[0])
        for literal in literals[1:-1]:
            if (stop := plain.find(literal, position)) < 0:
                return None
            contents.append(plain[position:stop])
            position = stop + len(literal)
        stop = len(plain) - len(literals[-1])
        return [*contents, plain[position:stop]] if stop >= position and plain.endswith(literals[-1]) else None

    def _leading(self, messages: list[dict], cores: Mapping[str, _Piece], found: Sequence[_Piece], pieces: list[str],
                 add_generation_prompt: bool) -> list[str]:
        """Returns for each marker what precedes its piece in the content, as far as the template left it there: blanks,
        and an assistant's own tokens."""
        first = {piece.message: piece for piece in reversed(list(cores.values()))}
        before = [piece.before if first[piece.message] is piece else "" for piece in found]
        if not any(before):
            return before
        stripped = [{**message, "content": message["content"].strip()} for message in messages]
        bare = re.split(_MARKER, self.template(self._marked(stripped, {
            name: piece._replace(before=piece.before.lstrip() if first[piece.message] is piece else piece.before,
                                 after=piece.after.rstrip())
            for name, piece in cores.items()}), add_generation_prompt))[::2]
        if len(bare) != 1 + len(before):
            return [""] * len(before)
        leading = []
        for text, literal, own in zip(before, pieces[::2], bare, strict=False):
            tokens, blanks = text.lstrip(), _blanks(text)
            if tokens:  # the template may write other blanks after an own token
                at = literal.rstrip().rfind(tokens.rstrip()) if literal.rstrip().endswith(tokens.rstrip()) else -1
                leading.append(literal[at:] if at >= 0 else "")
            else:
                leading.append(blanks if literal.endswith(own + blanks) else "")
        return leading

    def _trailing(self, after: str, literal: str) -> str:
        """Returns what follows a text in its content, as far as the template left it at the start of `literal`: an
        assistant's own tokens, between which it may write other blanks, and blanks."""
        own = re.match("".join(rf"\s*{re.escape(token)}" for token in self.control.own.findall(after)), literal)
        text = own.group() if own else ""
        blanks = after[len(after.rstrip()):]
        return text + blanks if literal.startswith(text + blanks) else text

    def _joined(self, messages: list[dict], found: Sequence[_Piece], literals: list[str], contents: list[str],
                leading: list[str]) -> Rendered:
        last = len(messages) - 1
        if (at := self._only_own(messages[last], literals[-1])) is not None:  # an empty piece in front of the tokens
            found = [*found, _Piece(last, "", "", messages[last]["content"])]
            literals = [*literals[:-1], literals[-1][:at], literals[-1][at:]]
            contents, leading = [*contents, ""], [*leading, ""]
        text = self.control.rename(literals[0])
        turns: list[tuple[int, int] | None] = [None] * len(messages)
        content_stop = None
        for piece, content, before, literal in zip(found, contents, leading, literals[1:], strict=True):
            start = len(text) - len(self.control.rename(before))
            text += content
            after = self._trailing(piece.after, literal)
            if piece.message == last:
                content_stop = len(text) + len(self.control.rename(after))
            known = turns[piece.message]
            turns[piece.message] = (start if known is None else known[0],
                                    len(text) + len(self.control.rename(self._turn_end(literal, after))))
            text += self.control.rename(literal)
        return Rendered(text, turns, content_stop)

    def _only_own(self, message: dict[str, str], literal: str) -> int | None:
        """Returns where the content of a message of own tokens only, which has no piece, is last in a text of the
        template; None for other messages, and where the template left it out."""
        tokens = self.control.own.findall(message["content"])
        if message["role"] != "assistant" or not tokens or self.control.own.sub("", message["content"]).strip():
            return None
        return max((match.start() for match in re.finditer(r"\s*".join(map(re.escape, tokens)), literal)), default=None)

    def _turn_end(self, literal: str, after: str) -> str:
        """Returns the text from the last piece of a content, which `after` continues, to the end of the token that ends
        its turn; without such a token, to the last own token."""
        match = self.control.pattern.match(literal, len(after) + len(_blanks(literal[len(after):])))
        return literal[:match.end()] if match and self.control.ids[match.group()] in self.stop_ids else after.rstrip()

    def turn_end(self) -> int | None:
        """Returns the id of the control token that the template writes right after an assistant's text, or None."""
        answer = f"a{secrets.token_hex(8)}"
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
        try:
            rendered = self.template(messages, False)
        except UserError:  # a template for something else than a conversation
            return None
        match = self.control.pattern.match(rendered.rpartition(answer)[2].lstrip())
        return self.control.ids[match.group()] if match else None


def load_template(loaded: Any, source: str) -> tuple[Callable[[list[dict], bool], str], tuple[str, ...]]:
    """Makes the `ChatTemplate.template` and `dates` of a tokenizer of transformers; now is when it is loaded."""
    named = loaded.chat_template
    text = named.get("default") if isinstance(named, dict) else named
    dates: tuple[str, ...] = ()
    if text is not None and "strftime_now" in text:
        moment = clock.now()
        formats = re.findall(r"strftime_now\(\s*(?:format\s*=\s*)?[\"']([^\"']+)", text) or ["%Y-%m-%d"]
        text, dates = _dated(text, moment), tuple(dict.fromkeys(map(moment.strftime, formats)))

    def render(messages: list[dict], add_generation_prompt: bool) -> str:
        try:
            return loaded.apply_chat_template(
                messages, chat_template=text, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except Exception as error:  # a template is a program, and may raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the chat template does not accept these messages ({roles}): {error}",
                source,
                "use the roles and the order that this model's template supports; without a system role, put "
                "the system text in front of the first user text",
            ) from error

    return render, dates


def _dated(text: str, moment: datetime) -> str:
    """Puts a macro in front of a template that replaces the function for the current time by one for `moment`."""
    values = json.dumps({f"{flag}{letter}": moment.strftime(f"%{flag}{letter}") for letter in string.ascii_letters
                         for flag in ("", *"-_0^#EO")})
    # The newline is not part of the text: templates are rendered with `trim_blocks`.
    return ("{% macro strftime_now(format) %}{% set date = namespace(text='', plain=true) %}"
            "{% for part in format.split('%') %}"
            "{% if date.plain %}{% set date.text = date.text + part %}{% set date.plain = false %}"
            "{% elif not part %}{% set date.text = date.text + '%' %}{% set date.plain = true %}"
            f"{{% else %}}{{% set values = {values} %}}{{% set size = 2 if part[:2] in values else 1 %}}"
            "{% set date.text = date.text + values.get(part[:size], '%' + part[:size]) + part[size:] %}{% endif %}"
            "{% endfor %}{{ date.text }}{% endmacro %}\n"
            ) + text


def _blanks(text: str) -> str:
    return text[:len(text) - len(text.lstrip())]


def _check_message(message: Any, i: int) -> dict[str, str]:
    where = f"message {i + 1}"
    if not isinstance(message, dict):
        raise UserError(f"expected an object with role and content, got {type(message).__name__}", where)
    extra = sorted(k for k, v in message.items() if k not in ("role", "content") and v is not None)
    if extra:
        raise UserError(f"unknown field {', '.join(map(str, extra))}", where, "give role and content only")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"role must be one of {', '.join(ROLES)}, got {role!r}", where)
    if not isinstance(content, str):
        raise UserError(f"content must be text, got {type(content).__name__}", where)
    return {"role": role, "content": content}
