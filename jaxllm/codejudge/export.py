"""Rows of judged programs as fine-tuning data for a judge, for `jaxllm tune`.

The verdict on a row with a label shows whether an answer was right. `sft` writes the prompts with right answers;
`preference` writes prompts with a right and a wrong answer. Answers are those of the first step, which decides; of
methods that answer Yes or No both words are known without the judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jaxllm.codejudge.data import Item
from jaxllm.codejudge.judging import YES_NO, CodeJudge, is_right

Kind = Literal["sft", "preference"]


def export_rows(judge: CodeJudge, items: Sequence[Item], rows: Sequence[Mapping[str, Any]], kind: Kind
                ) -> Iterator[dict[str, Any]]:
    """Yields fine-tuning rows: `{id, prompt, completion}`, or `{id, prompt, chosen, rejected}`.

    Args:
        judge: builds the prompts.
        items, rows: the programs with their rows; those without a label are left out.
        kind: form of the rows.
    """
    step = judge.steps[0]
    for item, row in zip(items, rows, strict=True):
        if item.label is None:
            continue
        prompt = judge.prompt(step, item).content
        right, wrong = _answers(judge, item, row)
        turn = (lambda text: text) if isinstance(prompt, str) else (
            lambda text: [{"role": "assistant", "content": text}])
        if isinstance(prompt, str):
            right, wrong = ([f" {text.strip()}" for text in texts] for texts in (right, wrong))
        if kind == "sft":
            for number, text in enumerate(right):
                yield {"id": f"{item.id}/{number}", "prompt": prompt, "completion": turn(text)}
        elif right and wrong:
            for number, (chosen, rejected) in enumerate(zip(right, wrong, strict=False)):
                yield {"id": f"{item.id}/{number}", "prompt": prompt, "chosen": turn(chosen),
                       "rejected": turn(rejected)}


def _answers(judge: CodeJudge, item: Item, row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns right and wrong answers of the first step, each text once; none that was both."""
    if judge.steps[0].value == "yes_no":
        right, wrong = (YES_NO if item.label else YES_NO[::-1])
        return [right], [wrong]
    texts = row["texts"].get(judge.steps[0].name, [])
    verdicts = _verdicts(judge, item, row, len(texts))
    found: tuple[dict[str, None], dict[str, None]] = {}, {}
    for text, verdict in zip(texts, verdicts, strict=True):
        if text is not None and text.strip() and verdict is not None:
            found[verdict != bool(item.label)][text] = None
    return [text for text in found[0] if text not in found[1]], [text for text in found[1] if text not in found[0]]


def _verdicts(judge: CodeJudge, item: Item, row: Mapping[str, Any], count: int) -> list[bool | None]:
    """The verdict of every sample; None where it is invalid."""
    values = row.get("values") or [None] * count
    return [None if value is None else is_right(judge.config, float(value)) for value in values]
