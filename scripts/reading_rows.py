"""Conversations that teach a model to read: to answer questions about a passage, and to write such questions.

    python scripts/reading_rows.py OUT ROWS.jsonl [MORE.jsonl ...] [--held_back 50] [--words 100 190] [--others 300]
                                   [--validation 20] [--questions 5] [--seed 0]

Rows are {context, question, answers}. Of the first file's passages of --words words, --held_back are not taught, and
their rows are written to OUT/passages.jsonl for injection. All its others, and --others passages of the further files,
none of them twice, become OUT/rows.jsonl {messages}, and --validation of them OUT/validation.jsonl instead, in the
prompts of `jaxllm inject` for models with a chat template: of every passage one conversation in which its questions are
answered, one in which they are written, and one in which each is written for its answer (`qa_pairs.answer_first`). All
read the passage once, in the first turn. In further conversations the questions are written without a passage
(`mixture.rehearsal`). Answers are taught that the passage has literally, and questions are written that end with a
question mark.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.evaluate.qa import normalize
from jaxllm.files import write_jsonl
from jaxllm.self_param.data import QA_ROW
from jaxllm.self_param.phrases import in_turns
from jaxllm.self_param.prompts import ANSWER_REQUEST, CLOSED_BOOK_REQUEST, REQUEST, FormatConfig
from jaxllm.text.rows import read_rows

FORMAT = FormatConfig().resolve(has_chat_template=True)
Row = dict[str, Any]


def passages_of(path: Path) -> list[list[Row]]:
    """Reads the rows of every passage, in the order of the file."""
    passages: dict[str, list[Row]] = {}
    for row in read_rows(path, QA_ROW, None).rows:
        passages.setdefault(row["context"], []).append(row)
    return list(passages.values())


def without_repeated(passages: Sequence[list[Row]], others: Sequence[list[Row]]) -> list[list[Row]]:
    """Leaves out passages that repeat one of the others or an earlier one, up to case, punctuation and articles."""
    key = lambda rows: normalize(rows[0]["context"])
    seen, left = set(map(key, others)), {}
    for rows in passages:
        if key(rows) not in seen:
            left.setdefault(key(rows), rows)
    return list(left.values())


def conversation(context: str | None, pairs: Sequence[tuple[str, str]]) -> Row:
    """Makes a conversation {messages} of requests and replies; a passage is in its first turn."""
    messages = [{"role": role, "content": text} for pair in pairs
                for role, text in zip(("user", "assistant"), pair, strict=True)]
    if context is not None:
        messages[0]["content"] = FORMAT.context_text(context) + messages[0]["content"]
    return {"messages": messages}


def conversations(rows: Sequence[Row], limit: int) -> list[Row]:
    """Makes the conversations about a passage: its questions answered, written, and written for an answer.

    Each has at most `limit` questions, and one that would have none is left out.
    """
    context = rows[0]["context"]
    pairs = [(row["question"].strip(), row["answers"][0]) for row in rows]
    is_part = lambda answer: answer.lower() in context.lower()
    kinds = [
        [(FORMAT.question_text(question), FORMAT.answer_text(answer)) for question, answer in pairs if is_part(answer)],
        [(REQUEST, question) for question, _ in pairs if question.endswith("?")],
        [(ANSWER_REQUEST.replace("{answer}", answer), question) for question, answer in pairs
         if is_part(answer) and question.endswith("?")]]
    return [conversation(context, turns[:limit]) for turns in kinds if turns[:limit]]


def closed_book_conversations(passages: Sequence[Sequence[Row]], limit: int) -> list[Row]:
    """Makes the conversations without a passage: `limit` questions in each, at most `limit` about every passage."""
    written = [[question for row in rows if (question := row["question"].strip()).endswith("?")] for rows in passages]
    questions = [question for turn in in_turns(own[:limit] for own in written) for question in turn]
    return [conversation(None, [(CLOSED_BOOK_REQUEST, question) for question in questions[start:start + limit]])
            for start in range(0, len(questions), limit)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--held_back", type=int, default=50, help="passages of the first file for injection")
    parser.add_argument("--words", type=int, nargs=2, default=(100, 190), help="length of these passages")
    parser.add_argument("--others", type=int, default=300, help="passages of the further files")
    parser.add_argument("--validation", type=int, default=20, help="passages of which no conversation is taught")
    parser.add_argument("--questions", type=int, default=5, help="questions of a conversation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.questions < 1 or options.validation < 0:
        parser.error(f"--questions must be 1 or more and --validation 0 or more, got {options.questions} and "
                     f"{options.validation}")
    draw = random.Random(options.seed)
    first = passages_of(options.rows[0])
    draw.shuffle(first)
    low, high = options.words
    fitting = [number for number, rows in enumerate(first) if low <= len(rows[0]["context"].split()) <= high]
    if len(fitting) < options.held_back:
        parser.error(f"{options.rows[0]} has {len(fitting)} passages of {low} to {high} words, and --held_back is "
                     f"{options.held_back}")
    chosen = sorted(fitting[:options.held_back])
    taught = without_repeated(first, [first[number] for number in chosen])
    others = without_repeated([rows for path in options.rows[1:] for rows in passages_of(path)], first)
    taught += draw.sample(others, min(options.others, len(others)))
    if options.validation >= len(taught):
        parser.error(f"{len(taught)} passages are left to be taught, and --validation is {options.validation}")
    for rows in taught:
        draw.shuffle(rows)
    draw.shuffle(taught)
    made = {"validation": taught[:options.validation], "rows": taught[options.validation:]}
    held_back = [row for number in chosen for row in first[number]]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, passages in made.items():
        rows = [row for own in passages for row in conversations(own, options.questions)]
        rows += closed_book_conversations(passages, options.questions)
        draw.shuffle(rows)
        write_jsonl(options.out / f"{name}.jsonl", rows)
        print(f"{name}.jsonl: {len(rows)} conversations about {len(passages)} passages")
    write_jsonl(options.out / "passages.jsonl", held_back)
    print(f"passages.jsonl: {len(held_back)} questions about {len(chosen)} held-back passages")


if __name__ == "__main__":
    main()
