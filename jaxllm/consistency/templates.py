"""Prompts that compare two items: questions with declared negations, and items in fences that they cannot close.

The context comes first, then the item that is shown first, then the other one, then the question: all prompts of an
instance share the context, and those with the same first item share that too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.files import expanded, read_yaml
from jaxllm.judge.protocol import check_options
from jaxllm.text.fences import fence_for, fenced

SLOTS = ("A", "B")
"""Labels of the item that is shown first and of the other one."""
FIELDS = ("context", "first", "second", "question", "form")
"""What a prompt of one's own may show: the texts, the question, and how to answer."""
_KEYS = {"context", "item", "question", "negated", "options", "paraphrases", "system", "fences", "prompt"}
_FIELD = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")


@dataclass(frozen=True)
class Template:
    """A question about two items.

    Attributes:
        questions: the question and its paraphrases, each with its negation.
        options: answers; the first one picks the item that is shown first.
        context: label of the context, such as "Article".
        item: label of an item, such as "Summary".
        system: system message; none by default.
        fences: context and items are put in fences; without them they can pose as parts of the prompt.
        prompt: text with `FIELDS` in braces in place of the usual layout; a base model continues it as it is.
        sha256: hash of the whole template.
    """

    questions: Sequence[tuple[str, str]]
    options: tuple[str, str]
    context: str
    item: str
    system: str | None
    fences: bool
    prompt: str | None
    sha256: str = field(repr=False)

    def builder(self, context: str, items: Sequence[str]) -> Callable[..., str | list[dict[str, str]]]:
        """Returns a function that builds the prompts of an instance.

        It takes the numbers of the item that is shown first and of the other one, and the names `negated` (False),
        `paraphrase` (0 is the question itself), `reasons` (False; True demands reasons before the answer) and `chat`
        (True; False makes one text that a base model continues with the answer).
        """
        fence = fence_for(context, *items)
        quoted = lambda text: fenced(text, fence) if self.fences else text
        block = lambda label, text: f"{label}:\n{quoted(text)}"
        head = f"{block(self.context, context)}\n\n" if context.strip() else ""
        named = " or ".join(self.options)

        def build(first: int, second: int, *, negated: bool = False, paraphrase: int = 0, reasons: bool = False,
                  chat: bool = True) -> str | list[dict[str, str]]:
            form = (f"Think about it step by step. Then write {named} alone on the last line." if reasons else
                    f"Answer with {named} only.")
            question = self.questions[paraphrase][negated]
            if self.prompt is None:
                shown = "\n\n".join(block(f"{self.item} {slot}", items[number])
                                    for slot, number in zip(SLOTS, (first, second), strict=True))
                text = f"{head}{shown}\n\n{question} {form}"
                cue = "\n\nReasons:" if reasons else "\n\nAnswer:"
            else:
                texts = {"context": quoted(context), "first": quoted(items[first]), "second": quoted(items[second]),
                         "question": question, "form": form}
                text, cue = _FIELD.sub(lambda match: texts[match[1]], self.prompt), ""
            if not chat:
                return (f"{self.system}\n\n" if self.system else "") + text + cue
            return [{"role": "system", "content": self.system}, {"role": "user", "content": text}] if self.system \
                else text

        return build


@cache
def _packaged() -> Mapping[str, Any]:
    return read_yaml(Path(__file__).parent / "templates.yaml", "the templates")


def template_names() -> tuple[str, ...]:
    """Lists the packaged templates."""
    return tuple(_packaged())


def load_template(name: str) -> Template:
    """Returns a packaged template, or reads one from a YAML file.

    A file has the keys question, negated and options, and perhaps context and item (labels), paraphrases (each
    {question, negated}), system, fences (true) and prompt (a layout; see `Template`).

    Raises:
        UserError: there is no such template or file, or it has another form.
    """
    if name in _packaged():
        return _template(_packaged()[name], name)
    path = expanded(name)
    if not path.is_file():
        raise UserError(f"there is no template {name!r}, and no such file", "template",
                        f"templates are {', '.join(_packaged())}")
    return _template(read_yaml(path, "the template"), path)


def _template(contents: Any, where: Any) -> Template:
    def demand(fine: bool, what: str, fix: str | None = None) -> None:
        if not fine:
            raise UserError(what, where, fix)

    demand(isinstance(contents, dict), "expected keys such as question, negated and options")
    unknown = [str(key) for key in contents if key not in _KEYS]
    demand(not unknown, f"there is no key {', '.join(unknown)}", f"keys are {', '.join(sorted(_KEYS))}")
    options = contents.get("options")
    demand(isinstance(options, list) and len(options) == 2 and all(isinstance(one, str) for one in options),
           f"options are not two texts: {options!r}", 'write ["A", "B"] or ["Yes", "No"]: YAML reads Yes as true')
    check_options(options)
    paraphrases = contents.get("paraphrases") or []
    demand(isinstance(paraphrases, list) and all(isinstance(one, dict) and set(one) == {"question", "negated"}
                                                 for one in paraphrases),
           "paraphrases are not a list of {question, negated}")
    questions = [(one.get("question"), one.get("negated")) for one in (contents, *paraphrases)]
    for pair in questions:
        demand(all(isinstance(text, str) and text.strip() for text in pair),
               f"a question without its negation: {pair[0]!r}", "declare both question and negated")
        demand(pair[0] != pair[1], f"a question is its own negation: {pair[0]!r}")
    for key in ("context", "item", "system", "prompt"):
        demand(isinstance(contents.get(key, ""), str), f"{key} is not a text")
    demand(isinstance(contents.get("fences", True), bool), "fences is not true or false")
    lacking = [name for name in ("first", "second", "question") if f"{{{name}}}" not in contents.get("prompt", "")]
    demand("prompt" not in contents or not lacking, f"the prompt does not show {{{''.join(lacking[:1])}}}",
           f"fields are {', '.join(FIELDS)}")
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return Template([(question.strip(), negated.strip()) for question, negated in questions],
                    (options[0].strip(), options[1].strip()), contents.get("context", "Context"),
                    contents.get("item", "Item"), contents.get("system"), contents.get("fences", True),
                    contents.get("prompt"), digest)
