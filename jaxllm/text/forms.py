"""Forms of the rows of fine-tuning data, and their normalized rows: pairs, labeled completions, texts, classes.

| form | columns |
|---|---|
| paired | `prompt`, `chosen`, `rejected`; or `chosen`, `rejected` with an implicit prompt (`implicit`) |
| unpaired | `prompt`, `completion`, `label`: true for a desirable completion |
| scored | `prompt`, `completions`, `scores`: more is better |
| ranked | `prompt`, `completions`, `ranks`: 1 is best |
| sft | `prompt`, `completion`; or `messages`; or `text` |
| classify | `text` or `messages`, perhaps `text_pair`, and `label`: a number from 0 or the name of a class |

A prompt is a text or a list of messages; an answer a text or the messages after the prompt. The prompt of an unpaired
row may be an empty text, as an implicit one may. Columns that are carried along where present: `id`, `weight`,
`label_probability`, `margin`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

from jaxllm.errors import UserError
from jaxllm.text.chat import ROLES
from jaxllm.text.conversions import (
    Pairing,
    as_number,
    from_cell,
    pairs_from_ranks,
    pairs_from_scores,
    unpaired_from_pairs,
)
from jaxllm.text.implicit import split_conversations, split_texts
from jaxllm.text.schema import Message

Text: TypeAlias = str | list[Message]
Kind = Literal["paired", "unpaired", "sft", "classify"]
# Columns that have a form's rows, as messages name them.
FORMS = {
    "paired": "{prompt, chosen, rejected} or {chosen, rejected}",
    "unpaired": "{prompt, completion, label}",
    "scored": "{prompt, completions, scores}",
    "ranked": "{prompt, completions, ranks}",
    "sft": "{prompt, completion}, {messages} or {text}",
    "classify": "{text, label}",
}
# Forms that rows of a kind can be made of.
_ACCEPTED = {"paired": ("paired", "scored", "ranked"), "unpaired": ("unpaired", "paired"),
             "sft": ("sft", "paired"), "classify": ("classify",)}
ORDERED: dict[str, tuple[Any, Any]] = {"scored": ("score", pairs_from_scores), "ranked": ("rank", pairs_from_ranks)}
NUMBERS = ("weight", "label_probability", "margin")


@dataclass(frozen=True)
class PairRow:
    """A prompt with two answers.

    Attributes:
        prompt: text, empty if it is implicit and the answers have no word in common; or messages.
        chosen, rejected: the answers; a list of messages if an answer to messages has several turns.
        label_probability: probability that `chosen` is the better one.
        weight: weight in the loss.
        margin: margin of a reward model's loss.
        id: id of the row, by default its line.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    label_probability: float = 1.0
    weight: float = 1.0
    margin: float = 0.0
    id: Any = None


@dataclass(frozen=True)
class UnpairedRow:
    """A prompt with an answer that is desirable or not.

    Attributes:
        prompt, completion: as in `PairRow`.
        label: the answer is desirable.
        label_probability: probability that `label` is right.
        weight, id: as in `PairRow`.
    """

    prompt: Text
    completion: Text
    label: bool
    label_probability: float = 1.0
    weight: float = 1.0
    id: Any = None


@dataclass(frozen=True)
class SftRow:
    """A text to imitate.

    Attributes:
        prompt: text or messages before the completion; None if `completion` is a whole text or conversation.
        completion: the answer, or the whole.
        weight, id: as in `PairRow`.
    """

    prompt: Text | None
    completion: Text
    weight: float = 1.0
    id: Any = None


@dataclass(frozen=True)
class ClassifyRow:
    """A text with its class.

    Attributes:
        text: text or conversation.
        pair: second text, or None.
        label: number of the class, from 0, or its name.
        weight, id: as in `PairRow`.
    """

    text: Text
    pair: str | None
    label: int | str
    weight: float = 1.0
    id: Any = None


def class_number(label: Any, names: Sequence[str], count: int) -> int | None:
    """Returns the number of the class that a label names, or of which it is the number; None where there is none.

    Args:
        label: a name, or a number from 0 on, as a text too. Where a name is a number itself, labels are names alone.
        names: names of the classes in order; empty where they have none.
        count: number of classes.
    """
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    text = str(label)
    if text in names:
        return names.index(text)
    numbered = text.isdecimal() and not any(name.isdecimal() for name in names)
    return int(text) if numbered and int(text) < count else None


AnyRow: TypeAlias = PairRow | UnpairedRow | SftRow | ClassifyRow


def form_of(row: Mapping[str, Any]) -> str:
    """Returns the form of a row, a key of `FORMS`, by its columns; null counts as absent.

    Raises:
        UserError: the columns fit no form.
    """
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return "paired"
    has = {name for name, value in row.items() if value is not None}
    if "completions" in has and has & {"scores", "ranks"}:
        return "scored" if "scores" in has else "ranked"
    if "completion" in has:
        return "unpaired" if "label" in has else "sft"
    if has & {"messages", "text"}:
        return "classify" if "label" in has else "sft"
    listed = ", ".join(FORMS.values())
    raise UserError(f"the columns ({', '.join(sorted(has)[:8]) or 'none'}) fit none of {listed}")


def rows_of(row: Mapping[str, Any], kind: Kind, line: int = 0, pairing: Pairing = "all") -> list[Any]:
    """Makes the rows of a kind of one line.

    Args:
        row: columns of the line.
        kind: see `preference_rows`.
        line: number of the line, the default of `id`.
        pairing: see `preference_rows`.

    Raises:
        UserError: the line has another form, or it cannot be used.
    """
    form = form_of(row)
    if kind == "sft" and form == "classify":
        row, form = {name: value for name, value in row.items() if name != "label"}, "sft"
    if form not in _ACCEPTED[kind]:
        needed = " or ".join(FORMS[name] for name in _ACCEPTED[kind])
        raise UserError(f"a row of the form {FORMS[form]}, where {needed} is needed")
    known = {"id": row.get("id", line)} | _numbers(row)
    if form in ORDERED:
        name, pairs_of = ORDERED[form]
        pairs, _ = pairs_of(row, pairing)
        if not pairs:
            raise UserError(f"no two answers have different {name}s")
        return [_pair_row(pair, known | {"id": f"{known['id']}/{pair['chosen_index']}-{pair['rejected_index']}"})
                for pair in pairs]
    if form == "paired":
        pair = _pair_row(row, known)
        if kind == "paired":
            return [pair]
        if kind == "sft":
            better = pair.chosen if pair.label_probability >= 0.5 else pair.rejected
            return [SftRow(pair.prompt or None, better, pair.weight, pair.id)]
        return [UnpairedRow(half["prompt"], half["completion"], half["label"], pair.label_probability, pair.weight,
                            pair.id) for half in unpaired_from_pairs([asdict(pair)])]
    make = {"unpaired": _unpaired_row, "sft": _sft_row, "classify": _classify_row}[form]
    return [make(row, known)]


def split_pair(row: Mapping[str, Any]) -> tuple[Text, Text, Text]:
    """Returns prompt, chosen and rejected answer of a paired row: three texts, or messages with answers to them.

    Without a `prompt` it is the common start of both answers; see `implicit`. Where one of the three is a list of
    messages, a text as prompt is the user's turn, and an answer may start with the turns of the prompt.

    Raises:
        UserError: a column is missing or of another type, a prompt or an answer is empty, the answers are equal, or no
            prompt can be recognized.
    """
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    prompt: Text
    if row.get("prompt") is not None:
        prompt, chosen, rejected = _after_prompt(_prompt(row), chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = split_texts(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = split_conversations(chosen, rejected)
    else:
        raise UserError("one of chosen and rejected is a text, the other a conversation")
    chosen, rejected = _answer(chosen, "chosen"), _answer(rejected, "rejected")
    if _stripped(chosen) == _stripped(rejected):
        raise UserError("chosen equals rejected")
    return prompt, chosen, rejected


def _after_prompt(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Separates answers from a given prompt that they may start with."""
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return prompt, chosen, rejected
    if isinstance(prompt, str):
        if all(isinstance(answer, list) and answer[0]["role"] != "assistant" for answer in (chosen, rejected)):
            turns, first, second = split_conversations(cast(list[Message], chosen), cast(list[Message], rejected))
            if turns[-1]["content"].strip() != prompt.strip():
                raise UserError("the conversations of chosen and rejected have another prompt than 'prompt'")
            return turns, first, second
        prompt = [Message(role="user", content=prompt)]
    return prompt, _turns_after(prompt, chosen), _turns_after(prompt, rejected)


def _turns_after(prompt: list[Message], answer: Text) -> Text:
    """Returns an answer without the turns of the prompt, if it starts with them."""
    starts = isinstance(answer, list) and answer[:len(prompt)] == prompt
    return answer[len(prompt):] if starts else answer


def _unpaired_row(row: Mapping[str, Any], known: dict[str, Any]) -> UnpairedRow:
    label = row["label"]
    if isinstance(label, str):
        label = {"true": True, "false": False, "1": True, "0": False}.get(label.strip().lower(), label)
    if label not in (0, 1) or isinstance(label, str):
        raise UserError("label must be true or false")
    known.pop("margin", None)
    if row.get("prompt") == "" and isinstance(row.get("completion"), str):  # of a pair without a common start
        return UnpairedRow("", _answer(row["completion"], "completion"), label=bool(label), **known)
    return UnpairedRow(*_completed(row), label=bool(label), **known)


def _sft_row(row: Mapping[str, Any], known: dict[str, Any]) -> SftRow:
    known = {name: known[name] for name in ("weight", "id") if name in known}
    if row.get("completion") is not None:
        return SftRow(*_completed(row), **known)
    if row.get("messages") is None:
        text = _text(row, "text")
        if not isinstance(text, str) or not text.strip():
            raise UserError("text is empty" if isinstance(text, str) else "text must be a text")
        return SftRow(None, text, **known)
    messages = _messages(row["messages"], "messages")
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in messages):
        raise UserError("messages have no turn of the assistant with text")
    return SftRow(None, messages, **known)


def _classify_row(row: Mapping[str, Any], known: dict[str, Any]) -> ClassifyRow:
    known = {name: known[name] for name in ("weight", "id") if name in known}
    text, pair = _text(row, "text" if row.get("text") is not None else "messages"), row.get("text_pair")
    if pair is not None and not (isinstance(pair, str) and isinstance(text, str)):
        raise UserError("text_pair must be a text, and so must text")
    if not _stripped(text) and not (pair or "").strip():
        raise UserError("text is empty")
    return ClassifyRow(text, pair, _class(row["label"]), **known)


def _class(label: Any) -> int | str:
    """Returns the number or the name of a class; a text of at most 15 digits is a number."""
    if isinstance(label, str) and label.strip():
        return int(label) if label.isdecimal() and len(label) <= 15 and label == str(int(label)) else label
    if isinstance(label, int | float) and not isinstance(label, bool) and 0 <= label < math.inf and label == int(label):
        return int(label)
    raise UserError("label must be a whole number from 0 or the name of a class")


def _completed(row: Mapping[str, Any]) -> tuple[Text, Text]:
    """Returns prompt and completion of a row: two texts, or messages and an answer to them."""
    if row.get("prompt") is None:
        raise UserError("field 'prompt' is missing")
    prompt, completion = _prompt(row), _text(row, "completion")
    if isinstance(prompt, str) and isinstance(completion, list):
        prompt = [Message(role="user", content=prompt)]
    if isinstance(prompt, list):
        completion = _turns_after(prompt, completion)
    return prompt, _answer(completion, "completion")


def _prompt(row: Mapping[str, Any]) -> Text:
    """Returns the prompt of a row, which must not be empty."""
    prompt = _text(row, "prompt")
    if not _stripped(prompt):
        raise UserError("the prompt is empty")
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise UserError("the prompt ends with the assistant's turn")
    return prompt


def _answer(answer: Text, name: str) -> Text:
    """Checks an answer; returns the text of one that is a single turn."""
    if isinstance(answer, list):
        if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
            raise UserError(f"{name} must start (after the prompt) and end with the assistant's turn")
        if len(answer) == 1:
            answer = answer[0]["content"]
    if not (answer if isinstance(answer, str) else answer[-1]["content"]).strip():
        raise UserError(f"the {name} answer is empty" if name != "completion" else "the completion is empty")
    return answer


def _stripped(text: Text) -> Any:
    """Returns a text, or the roles and texts of messages, without outer blanks; empty without any text."""
    if isinstance(text, str):
        return text.strip()
    turns = [(turn["role"], turn["content"].strip()) for turn in text]
    return turns if any(content for _, content in turns) else []


def _text(row: Mapping[str, Any], name: str) -> Text:
    value = row.get(name)
    if value is None:
        raise UserError(f"field {name!r} is missing")
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _messages(value, name)
    raise UserError(f"field {name!r} must be a text or a list of messages")


def _messages(value: Any, name: str) -> list[Message]:
    """Checks a list of messages; returns their roles and contents."""
    value = from_cell(value)
    if not isinstance(value, list) or not value:
        raise UserError(f"field {name!r} must be a list of messages, and not empty")
    turns = []
    for i, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise UserError(f"field {name!r}: message {i} must be an object with the texts role and content")
        if turn.get("role") not in ROLES:
            raise UserError(f"field {name!r}: the role of message {i} must be one of {', '.join(ROLES)}")
        if extra := sorted(key for key, more in turn.items() if key not in ("role", "content") and more is not None):
            raise UserError(f"field {name!r}: message {i} has the unknown field {extra[0]!r}")
        turns.append(Message(role=turn["role"], content=turn["content"]))
    return turns


def _pair_row(row: Mapping[str, Any], known: dict[str, Any]) -> PairRow:
    return PairRow(*split_pair(row), **known)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the columns of numbers that a row has, checked."""
    numbers = {name: float(as_number(row[name], name)) for name in NUMBERS if row.get(name) not in (None, "")}
    if not 0 <= numbers.get("label_probability", 1) <= 1:
        raise UserError("label_probability must be between 0 and 1")
    if not numbers.get("weight", 1) > 0:
        raise UserError("weight must be above 0")
    return numbers
