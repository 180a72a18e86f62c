"""Generates the training texts of the model `tiny`, about a small invented world, endlessly and reproducibly.

Everything is made up (`tiny_tables.py`): people, towns, ships, workshops, beasts and books with a few facts each,
reviews of things, small sums, tiny Python programs.

Training and held-out text do not overlap. A name, a sum, the thing and the judgement that open a review, a pair of
numbers to compare: each belongs to one side for good, by the hash of its spelling (`is_heldout`). Programs have names
for their arguments that the other side never uses.

A *lesson* is a list of `(text, role)` spans in reading order. Roles: `control` (one control token), `stop` (the
control token that ends an answer), `context` (passages, system turns), `text` (reviews, stories), `question` (with its
"Answer:"), `given` (random content, which cannot be predicted) and `answer`. Spans are tokenized one by one; the
tokenizer splits at every span boundary anyway, so this equals tokenizing the whole text.
"""

from __future__ import annotations

import dataclasses
import random
import string
import zlib

from tiny_tables import (
    ADJECTIVES,
    FACTS,
    FIRST,
    FUNCTION_NAMES,
    KINDS,
    LIST_NAMES,
    NUMBER_NAMES,
    OPENINGS,
    REMARKS,
    REST,
    TASKS,
    WORDS,
)

UNKNOWN = "unknown"

# Lesson -> its share of the tokens when all have the same accuracy (see `make_tiny_model.py`).
SHARES = {"reading": 38, "reading_choice": 10, "option": 12, "number_choice": 7, "review_choice": 7, "review": 4,
          "sum": 8, "program_judge": 8, "program_choice": 6, "program_writing": 3, "closed_book": 1.5, "story": 1}
# Accuracy of guessing, for the lessons with answers that are measured during training.
GUESSING = {"reading": 0.0, "reading_choice": 0.5, "option": 0.5, "number_choice": 0.5, "review_choice": 0.5,
            "sum": 0.1, "program_judge": 0.5, "program_choice": 0.5}


def is_heldout(*parts) -> bool:
    """Whether the text of these parts belongs to the held-out eighth of the world."""
    return zlib.crc32(" ".join(map(str, parts)).encode()) % 8 == 0


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


@dataclasses.dataclass(frozen=True)
class Fact:
    """A fact of a passage. `questions` are all its phrasings; `kind` is the type of its value (`animal`, `name`)."""
    entity: str
    relation: str
    kind: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def fill(patterns, entity: str, value: str) -> tuple[str, ...]:
    words = dict(e=entity, v=value, a=article(value), A=article(value).capitalize())
    return tuple(pattern.format(**words) for pattern in patterns)


def ask(question: str, answer: str, role: str = "question"):
    """Returns the two spans of one target sequence `Question: {q} Answer: {a}\\n`."""
    return [(f"Question: {question} Answer:", role), (f" {answer}\n", "answer")]


class World:
    """Generator of texts of one side of the world; the same seed gives the same texts in the same order."""

    def __init__(self, seed: int, heldout: bool = False):
        self.rng = random.Random(f"{seed} {heldout}")
        self.heldout = heldout
        self.number_names, self.list_names = NUMBER_NAMES[heldout], LIST_NAMES[heldout]

    def _ours(self, make, key=lambda made: made):
        """Draws until the draw belongs to our side."""
        while True:
            made = make()
            if is_heldout(key(made)) == self.heldout:
                return made

    # --- passages and questions --------------------------------------------------------------------------------

    def name(self) -> str:
        pick = self.rng.choice
        return self._ours(lambda: pick(FIRST) + "".join(pick(REST) for _ in range(pick((1, 1, 2)))))

    def value(self, kind: str, taken=()) -> str:
        """Draws a value of this type that is not in `taken`."""
        while True:
            if kind == "name":
                value = self.name()
            else:
                value = str(self.rng.randint(2, 99)) if kind == "number" else self.rng.choice(WORDS[kind])
            if value not in taken:
                return value

    def facts(self, kind: str, relations, taken=()) -> list[Fact]:
        """Draws a new entity with these relations; no value is in `taken`."""
        made, entity = [], self.name()
        for relation in relations:
            value_kind, statements, questions = FACTS[kind][relation]
            value = self.value(value_kind, {entity, *taken, *(fact.value for fact in made)})
            made.append(Fact(entity, relation, value_kind, value, fill(statements, entity, value),
                             fill(questions, entity, value)))
        return made

    def document(self, size: int, others: int = 0, even: bool = False):
        """Generates a passage of `size` facts, some of them about `others` further entities of the same type.

        The first entity has most of the facts, or with `even` about as many as the others have together.

        Returns (text, stated facts, questions without an answer in it)."""
        rng = self.rng
        kind = rng.choice(list(FACTS))
        relations = list(FACTS[kind])
        main = min(len(relations) - 1, (size + 1) // 2 if even and others else size - others)
        chosen = rng.sample(relations, main)
        groups = [self.facts(kind, chosen)]
        for _ in range(others):
            # Others mostly share relations with the main entity: only the name identifies the value in question.
            extra = max(1, (size - main) // others)
            pool = chosen if rng.random() < 0.8 and len(chosen) >= extra else relations
            groups.append(self.facts(kind, rng.sample(pool, extra), {f.value for g in groups for f in g}))
        stated = [fact for group in groups for fact in group]
        rng.shuffle(stated)
        sentences = [rng.choice(fact.statements) for fact in stated]
        missing = [rng.choice(fact.questions) for fact in self.facts(kind, relations)[:2]]
        absent = [r for r in relations if r not in chosen]
        entity = groups[0][0].entity
        missing += [rng.choice(FACTS[kind][r][2]).format(e=entity) for r in absent]
        return " ".join(sentences), stated, missing

    def passage_example(self, size: int, others: int, missing: float = 0.0, even: bool = False):
        """Generates a passage and shuffled questions on it, unanswerable ones added with probability `missing`."""
        text, facts, unanswerable = self.document(size, others, even)
        self.rng.shuffle(facts)
        spans = [(text + "\n", "context")]
        for fact in facts:
            if self.rng.random() < missing:
                spans += ask(self.rng.choice(unanswerable), UNKNOWN)
            spans += ask(self.rng.choice(fact.questions), fact.value)
        return spans

    def closed_book_example(self):
        """Generates a question without a passage, with the answer "unknown"."""
        kind = self.rng.choice(list(FACTS))
        fact = self.facts(kind, [self.rng.choice(list(FACTS[kind]))])[0]
        return ask(self.rng.choice(fact.questions), UNKNOWN)

    # --- choices --------------------------------------------------------------------------------------------------

    def choice(self, question: str, right: str, wrong: list[str], labels: str | None = None):
        """Generates options with letters; the letter of the correct one is the answer.

        Held-out choices are between A and B. Training choices often have other letters, which carry over: a correct
        letter among many teaches more about where to attend than one of two."""
        rng = self.rng
        if labels is None:
            plain = self.heldout or rng.random() < 0.5
            labels = "AB" if plain and len(wrong) == 1 else rng.sample(string.ascii_uppercase, len(wrong) + 1)
        options = rng.sample([right, *wrong], len(wrong) + 1)
        listed = " ".join(f"{label}: {option}" for label, option in zip(labels, options, strict=True))
        return ask(f"{question} {listed}", labels[options.index(right)], "given")

    def option(self, level: float = 1.0):
        """Generates choices that only train letters; at low `level` options differ in type, later in value."""
        rng = self.rng
        count = 2 if self.heldout else rng.choice((2, 2, 3))
        if not self.heldout and rng.random() < 0.6 - 0.4 * level:
            kinds = rng.sample(list(KINDS), count)
            right, *wrong = (self.value(kind) for kind in kinds)
            return self.choice(f"Which option is {KINDS[kinds[0]]}?", right, wrong)
        kind, values = rng.choice(["animal", "colour", "food", "goods"] + ["number", "name"] * (level > 0.3)), []
        while len(values) < count:
            values.append(self.value(kind, values))
        return self.choice(f"Which option is {values[0]}?", values[0], values[1:])

    def number_choice(self):
        low, high = sorted(self._ours(lambda: self.rng.sample(range(100), 2), key=lambda two: sorted(two)))
        if self.rng.random() < 0.5:
            return self.choice("Which number is larger?", str(high), [str(low)])
        return self.choice("Which number is smaller?", str(low), [str(high)])

    def review_choice(self):
        low, high = sorted(self.rng.sample((-2, -1, 1, 2), 2))
        bad, good = self.review(low, 1)[0], self.review(high, 1)[0]
        if self.rng.random() < 0.5:
            return self.choice("Which review is more positive?", good, [bad])
        return self.choice("Which review is more negative?", bad, [good])

    def reading_choice(self, size: int, others: int, questions: int = 3):
        text, facts, _ = self.document(size, others)
        spans = [(text + "\n", "context")]
        for fact in self.rng.sample(facts, min(questions, len(facts))):
            same_type = [f.value for f in facts if f.kind == fact.kind and f.value != fact.value]
            # Half the time the wrong option is in the passage too, if possible.
            stated = same_type and self.rng.random() < 0.5
            wrong = self.rng.choice(same_type) if stated else self.value(fact.kind, {fact.value})
            spans += self.choice(self.rng.choice(fact.questions), fact.value, [wrong])
        return spans

    # --- reviews, sums, programs, stories -------------------------------------------------------------------------

    def review(self, level: int | None = None, sentences: int | None = None):
        """Generates (text, level): level is -2, -1, 1 or 2 and its sign is the sentiment."""
        rng = self.rng
        level = level or rng.choice((-2, -1, 1, 2))
        thing, adjective = self._ours(lambda: (rng.choice(WORDS["thing"]), rng.choice(ADJECTIVES[level])))
        opening = rng.choice(OPENINGS).format(t=thing, n=self.name(), j=adjective, a=article(adjective))
        same_sign = [r for strength in (1, 2) for r in REMARKS[strength if level > 0 else -strength]]
        more = [f"The {other} was {rng.choice(ADJECTIVES[level])} too."
                for other in rng.sample(WORDS["thing"], 1) if other != thing]
        remarks = rng.sample(same_sign + more, rng.randint(1, 3) if sentences is None else sentences - 1)
        return " ".join([opening, *remarks]), level

    def review_lesson(self):
        text, level = self.review()
        spans = [("Review:", "question"), (f" {text}\n", "text")]
        return spans + self.sentiment_question(level) if self.rng.random() < 0.5 else spans

    def sentiment_question(self, level: int):
        return ask(self.rng.choice(["Is this review positive or negative?", "Is the review negative or positive?"]),
                   "positive" if level > 0 else "negative")

    def sum(self):
        """Generates a sum or difference of a number below 100 and a digit, as a formula or in a sentence."""
        rng = self.rng
        a, op, b = self._ours(lambda: (rng.randint(0, 90), rng.choice("+-"), rng.randint(0, 9)))
        if op == "-":
            a, b = a + b, b
        total = a + b if op == "+" else a - b
        if rng.random() < 0.6:
            return ask(f"What is {a} {op} {b}?", str(total), "given")
        who, what = self.name(), rng.choice(WORDS["goods"] + WORDS["food"])
        change = rng.choice(["buys {} more", "finds {} more"] if op == "+" else ["sells {}", "gives away {}"]).format(b)
        question = f"{who} has {a} crates of {what} and {change}. How many crates are there now?"
        return ask(question, str(total), "given")

    def program(self, count: int):
        """Generates (task, programs): the first does the task, the others take the same arguments and do not."""
        rng = self.rng
        arguments = rng.choice(list(TASKS))
        tasks = rng.sample(TASKS[arguments], count)
        a, b = rng.sample(self.number_names, 2)
        names = {"a": a, "b": b, "l": rng.choice(self.list_names)}
        head = f"def {rng.choice(FUNCTION_NAMES)}({arguments.format(**names)}):"
        programs = [rng.choice(bodies).format(**names).replace("\n", "\n    ") for _, bodies in tasks]
        return rng.choice(tasks[0][0]).format(**names), [f"{head}\n    {body}\n" for body in programs]

    def program_writing(self):
        task, (program,) = self.program(1)
        return [(f"Task: {task}\nProgram:\n", "given"), (program, "answer")]

    def program_choice(self):
        """Generates a choice between two programs for a task."""
        task, (right, wrong) = self.program(2)
        labels = "AB" if self.heldout or self.rng.random() < 0.5 else self.rng.sample(string.ascii_uppercase, 2)
        programs = self.rng.sample([right, wrong], 2)
        listed = "".join(f"{label}:\n{program}" for label, program in zip(labels, programs, strict=True))
        return [(f"Task: {task}\n{listed}", "given"),
                *ask("Which program does the task?", labels[programs.index(right)], "given")]

    def program_judge(self):
        """Generates a task, a program, and whether the program does the task."""
        yes = self.rng.random() < 0.5
        task, (right, wrong) = self.program(2)
        question = self.rng.choice(["Does the program do the task?", "Is the program correct?"])
        return [(f"Task: {task}\nProgram:\n{right if yes else wrong}", "given"),
                *ask(question, "Yes" if yes else "No", "given")]

    def story(self) -> str:
        rng = self.rng
        who, other, town = self.name(), self.name(), self.name()
        trade, animal, goods = self.value("trade"), self.value("animal"), self.value("goods")
        lines = [rng.choice([f"One {self.value('season')} the {trade} {who} left {town}.",
                             f"Once {who} the {trade} went to {town} to buy {goods}.",
                             f"On a cold night {who} walked to {town} with {article(animal)}."]),
                 rng.choice([f"On the way {article(animal)} ran across the road.",
                             f"At the gate {other} asked for some {self.value('food')}.",
                             f"The rain fell on the {self.value('place')} all day."]),
                 rng.choice([f"{other} laughed and played the {self.value('instrument')}.",
                             f"So they sat down and talked about {self.value('topic')}.",
                             f"The {animal} was {self.value('colour')} and would not move."]),
                 rng.choice(["In the end they became friends.", f"Nobody in {town} forgot that day.",
                             f"Then {who} went home with {goods}.", "And that was all."])]
        return " ".join(lines)

    # --- lessons ----------------------------------------------------------------------------------------------------

    def reading(self, level: float):
        """Generates a passage with questions; a higher `level` has more facts, further entities, missing answers."""
        size = self.rng.randint(2 if level < 1 else 1, 3 + round(5 * level))
        others = self.rng.choice((0, 1, 1, 2)) if size >= 2 and self.rng.random() < level else 0
        # Where entities share the facts evenly, only the name in a question identifies the value.
        return self.passage_example(size, min(others, size - 1), missing=0.06 * level, even=self.rng.random() < 0.6)

    def lesson(self, name: str, level: float = 1.0):
        """Generates one lesson without its begin and end tokens.

        Args:
            name: name of the lesson, one of `SHARES`.
            level: progress of the curriculum, 0 to 1. Reading starts with two or three facts, since looking up a fact
                by its entity has to be learned first; choices start with types of values.
        """
        rng = self.rng
        makers = {
            "reading": lambda: self.reading(level),
            "reading_choice": lambda: self.reading_choice(rng.randint(2, 6), rng.choice((0, 1))),
            "option": lambda: self.option(level),
            "number_choice": self.number_choice,
            "review_choice": self.review_choice,
            "review": self.review_lesson,
            "sum": self.sum,
            "program_judge": self.program_judge,
            "program_choice": self.program_choice,
            "program_writing": self.program_writing,
            "closed_book": self.closed_book_example,
            "story": lambda: [(self.story() + "\n", "text")],
        }
        return makers[name]()

    def chat(self, spans):
        """Formats the example as a conversation: prompts are user turns, answers are assistant turns."""
        turns, open_turn = [], False
        if self.rng.random() < 0.2:
            system = self.rng.choice(["You answer questions.", "Answer briefly.", "You are a helpful reader."])
            turns += [("<|system|>", "control"), (system, "context"), ("</s>", "control")]
        if spans[0][1] == "text":
            spans = [("Tell a story.", "question"), *spans]
        elif spans[0][0] == "Review:" and len(spans) == 2:
            spans = [("Write a review.", "question"), *spans[1:]]
        elif spans[0][0] == "Review:":
            spans = [("Review:" + spans[1][0], "context"), *spans[2:]]
        for text, role in spans:
            if role in ("answer", "text"):
                turns += [("</s>", "control"), ("<|assistant|>", "control"),
                          (" " + text.strip(), role), ("</s>", "stop")]
                open_turn = False
                continue
            if not open_turn:
                turns.append(("<|user|>", "control"))
                open_turn = True
            turns.append((text.removesuffix(" Answer:"), role))
        return turns
