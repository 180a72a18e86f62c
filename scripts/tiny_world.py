"""A small invented world, and the texts of it that the model `tiny` learns from.

Everything here is made up: people, towns, ships, workshops, beasts and books with a few facts each, reviews of
things, small sums, tiny Python programs. `World(seed, heldout)` writes it, endlessly and reproducibly.

Training and held-out text do not overlap. A name, a sum, the thing and the judgement that open a review, a task with
its program: each belongs to one side for good, by the hash of its spelling (`is_heldout`).

An *example* is a list of `(text, role)` spans in reading order. Roles: `control` (one control token), `stop` (the
control token that ends an answer), `context` (passages, system turns), `text` (reviews, stories), `question` (with its
"Answer:") and `answer`. Spans are tokenised one by one; the tokenizer splits at every span boundary anyway, so this
equals tokenising the whole text.
"""

from __future__ import annotations

import dataclasses
import random
import zlib

UNKNOWN = "unknown"

# Names are 2 or 3 syllables. Every syllable is consonant-vowel(-consonant), so the tokenizer can give each one token.
FIRST = ("Ba Bel Bor Da Del Dor Fa Fen Ga Gil Ha Hel Ka Kel Kor La Lin Lo Ma Mir Mo Na Nel No Pa Pel Ra Rin Ro Sa "
         "Sel Sol Ta Til Tor Va Vel Vor Za Zel").split()
REST = ("ba bin da dan den do fa fin ga gor ka ker la len lo ma mar mi na nis no pa pel ra ren ri ro sa sen ta tan ti "
        "to va vin vo za zan zor lin").split()

WORDS = {kind: words.split() for kind, words in {
    "trade": "baker miller weaver potter smith tailor carpenter fisher hunter farmer sailor painter singer teacher "
             "doctor judge guard gardener cook brewer mason glazier printer clerk shepherd tanner barber diver",
    "animal": "goat fox owl cat dog horse crow hare otter badger goose duck swan bear wolf deer mole frog snake hawk "
              "pig sheep donkey parrot turtle rabbit heron lizard",
    "colour": "red blue green yellow white black brown grey purple orange pink silver golden violet",
    "food": "bread cheese soup honey plums apples pears nuts beans rice fish eggs mushrooms cabbage onions carrots "
            "berries cake butter porridge olives figs lentils turnips",
    "instrument": "flute drum harp fiddle horn lute bell pipe organ whistle",
    "goods": "salt wool silk copper timber glass paper candles soap rope barrels lamps knives carpets tea pepper iron "
             "marble oil leather clay pearls coal tin",
    "season": "spring summer autumn winter",
    "topic": "stars storms love war gardens ghosts kings bees trade music fishing dreams mountains medicine",
    "wood": "oak pine cedar elm ash birch willow maple",
    "place": "caves forests swamps hills rivers deserts meadows lakes cliffs islands",
    "thing": "soup bread coat boat book play knife lamp tea chair blanket room garden song meal clock saddle bed",
}.items()}

# kind -> relation -> (value kind, statements, questions). {e} entity, {v} value, {a} value with its article.
FACTS = {
    "person": {
        "trade": ("trade", ["{e} works as {a}.", "{e} earns a living as {a}.", "By trade {e} is {a}.",
                            "People know {e} as {a}."],
                  ["What is the trade of {e}?", "What does {e} work as?", "What job does {e} have?"]),
        "home": ("name", ["{e} lives in {v}.", "{e} has a house in {v}.", "The home of {e} is in {v}.",
                          "In {v} you can find the house of {e}."],
                 ["Where does {e} live?", "In which town is the home of {e}?", "Where is the house of {e}?"]),
        "birth": ("name", ["{e} was born in {v}.", "{e} comes from {v} by birth.", "The birthplace of {e} is {v}."],
                  ["Where was {e} born?", "What is the birthplace of {e}?"]),
        "pet": ("animal", ["{e} keeps {a}.", "{e} has {a} as a pet.", "The pet of {e} is {a}."],
                ["What animal does {e} keep?", "What pet does {e} have?", "What is the pet of {e}?"]),
        "coat": ("colour", ["{e} wears a {v} coat.", "The coat of {e} is {v}.", "{e} likes to wear {v}."],
                 ["What colour is the coat of {e}?", "What colour does {e} wear?"]),
        "meal": ("food", ["{e} likes to eat {v}.", "The favourite food of {e} is {v}.", "{e} eats {v} every day."],
                 ["What does {e} like to eat?", "What is the favourite food of {e}?"]),
        "age": ("number", ["{e} is {v} years old.", "The age of {e} is {v}.", "Last year {e} turned {v}."],
                ["How old is {e}?", "What is the age of {e}?"]),
        "plays": ("instrument", ["{e} plays the {v}.", "At night {e} plays the {v}.", "{e} is learning the {v}."],
                  ["What instrument does {e} play?", "Which instrument is {e} learning?"]),
        "friend": ("name", ["{e} is a friend of {v}.", "The best friend of {e} is {v}.",
                            "A good friend of {e} is {v}."],
                   ["Who is the best friend of {e}?", "Who is a friend of {e}?"]),
    },
    "town": {
        "mayor": ("name", ["The mayor of {e} is {v}.", "{e} has a mayor called {v}.", "{v} is the mayor of {e}."],
                  ["Who is the mayor of {e}?", "What is the mayor of {e} called?"]),
        "river": ("name", ["{e} lies on the river {v}.", "The river {v} flows past {e}.",
                           "{e} was built beside the river {v}."],
                  ["Which river flows past {e}?", "On which river does {e} lie?"]),
        "founder": ("name", ["{e} was founded by {v}.", "Long ago {v} founded {e}.", "The founder of {e} was {v}."],
                    ["Who founded {e}?", "Who was the founder of {e}?"]),
        "sells": ("goods", ["{e} sells {v}.", "{e} is known for its {v}.", "Traders come to {e} for {v}."],
                  ["What does {e} sell?", "What is {e} known for?", "What do traders buy in {e}?"]),
        "houses": ("number", ["{e} has {v} houses.", "There are {v} houses in {e}.", "{e} counts {v} houses."],
                   ["How many houses does {e} have?", "How many houses are there in {e}?"]),
        "roofs": ("colour", ["The roofs of {e} are {v}.", "{e} has {v} roofs.", "All roofs in {e} are {v}."],
                  ["What colour are the roofs of {e}?", "What colour are the roofs in {e}?"]),
        "flag": ("animal", ["The flag of {e} shows {a}.", "{e} has {a} on its flag."],
                 ["What animal is on the flag of {e}?", "What does the flag of {e} show?"]),
        "feast": ("season", ["{e} holds its feast in {v}.", "The feast of {e} is in {v}.",
                             "Every {v} there is a feast in {e}."],
                  ["When is the feast of {e}?", "In which season does {e} hold its feast?"]),
    },
    "ship": {
        "captain": ("name", ["The captain of the ship {e} is {v}.", "{v} is captain of the ship {e}.",
                             "The ship {e} obeys captain {v}."],
                    ["Who is the captain of the ship {e}?", "Who commands the ship {e}?"]),
        "port": ("name", ["The ship {e} sails from {v}.", "The home port of the ship {e} is {v}."],
                 ["What is the home port of the ship {e}?", "From where does the ship {e} sail?"]),
        "cargo": ("goods", ["The ship {e} carries {v}.", "The cargo of the ship {e} is {v}.",
                            "The ship {e} is loaded with {v}."],
                  ["What does the ship {e} carry?", "What is the cargo of the ship {e}?"]),
        "sails": ("colour", ["The ship {e} has {v} sails.", "The sails of the ship {e} are {v}."],
                  ["What colour are the sails of the ship {e}?", "What colour of sails does the ship {e} have?"]),
        "crew": ("number", ["The ship {e} has a crew of {v}.", "The crew of the ship {e} counts {v}."],
                 ["How large is the crew of the ship {e}?", "How many sailors are in the crew of the ship {e}?"]),
        "wood": ("wood", ["The ship {e} is made of {v}.", "The wood of the ship {e} is {v}."],
                 ["What wood is the ship {e} made of?", "Which wood was used for the ship {e}?"]),
        "mascot": ("animal", ["{A} lives on board the ship {e}.", "The ship {e} keeps {a} on board."],
                   ["What animal is on board the ship {e}?", "What animal lives on the ship {e}?"]),
    },
    "workshop": {
        "owner": ("name", ["The workshop {e} belongs to {v}.", "{v} owns the workshop {e}.",
                           "The owner of the workshop {e} is {v}."],
                  ["Who owns the workshop {e}?", "Who is the owner of the workshop {e}?"]),
        "seat": ("name", ["The workshop {e} stands in {v}.", "You find the workshop {e} in {v}."],
                 ["Where is the workshop {e}?", "In which town does the workshop {e} stand?"]),
        "makes": ("goods", ["The workshop {e} makes {v}.", "The workshop {e} is famous for {v}."],
                  ["What does the workshop {e} make?", "What is the workshop {e} famous for?"]),
        "workers": ("number", ["The workshop {e} employs {v} people.", "There are {v} people at the workshop {e}."],
                    ["How many people does the workshop {e} employ?", "How many people work at the workshop {e}?"]),
        "sign": ("animal", ["The sign of the workshop {e} shows {a}.", "The workshop {e} has {a} on its sign."],
                 ["What animal is on the sign of the workshop {e}?", "What does the sign of the workshop {e} show?"]),
        "door": ("colour", ["The door of the workshop {e} is {v}.", "The workshop {e} has a {v} door."],
                 ["What colour is the door of the workshop {e}?", "What colour of door has the workshop {e}?"]),
        "rest": ("season", ["The workshop {e} is closed in {v}.", "In {v} the workshop {e} is shut."],
                 ["When is the workshop {e} closed?", "In which season is the workshop {e} shut?"]),
    },
    "beast": {
        "lives": ("place", ["The beast {e} lives in {v}.", "In the {v} lives the beast {e}."],
                  ["Where does the beast {e} live?", "In what kind of place does the beast {e} live?"]),
        "eats": ("food", ["The beast {e} eats {v}.", "The beast {e} feeds on {v}."],
                 ["What does the beast {e} eat?", "What does the beast {e} feed on?"]),
        "fur": ("colour", ["The fur of the beast {e} is {v}.", "The beast {e} has {v} fur."],
                ["What colour is the fur of the beast {e}?", "What colour of fur does the beast {e} have?"]),
        "teeth": ("number", ["The beast {e} has {v} teeth.", "In its mouth the beast {e} has {v} teeth."],
                  ["How many teeth does the beast {e} have?", "How many teeth are in the mouth of the beast {e}?"]),
        "fears": ("animal", ["The beast {e} is afraid of any {v}.", "The beast {e} runs from any {v}."],
                  ["What animal does the beast {e} fear?", "What is the beast {e} afraid of?"]),
        "sleeps": ("season", ["The beast {e} sleeps in {v}.", "All {v} the beast {e} sleeps."],
                   ["When does the beast {e} sleep?", "In which season does the beast {e} sleep?"]),
        "seen": ("name", ["{v} was first to see the beast {e}.", "The beast {e} was first seen by {v}."],
                 ["Who first saw the beast {e}?", "By whom was the beast {e} first seen?"]),
    },
    "book": {
        "author": ("name", ["The book {e} was written by {v}.", "{v} wrote the book {e}.",
                            "The author of the book {e} is {v}."],
                   ["Who wrote the book {e}?", "Who is the author of the book {e}?"]),
        "topic": ("topic", ["The book {e} is about {v}.", "The book {e} tells of {v}."],
                  ["What is the book {e} about?", "What does the book {e} tell of?"]),
        "pages": ("number", ["The book {e} has {v} pages.", "There are {v} pages in the book {e}."],
                  ["How many pages does the book {e} have?", "How many pages are in the book {e}?"]),
        "cover": ("colour", ["The cover of the book {e} is {v}.", "The book {e} has a {v} cover."],
                  ["What colour is the cover of the book {e}?", "What colour of cover does the book {e} have?"]),
        "kept": ("name", ["The book {e} is kept in {v}.", "You can read the book {e} in {v}."],
                 ["Where is the book {e} kept?", "In which town is the book {e} kept?"]),
        "drawn": ("animal", ["The book {e} has a picture of {a}.", "{A} is drawn in the book {e}."],
                  ["What animal is drawn in the book {e}?", "What picture is in the book {e}?"]),
    },
}

# Judgements by strength; a review keeps to one side from its first sentence to its last.
ADJECTIVES = {2: ["superb", "wonderful", "perfect", "splendid"], 1: ["good", "nice", "pleasant", "fine"],
              -1: ["poor", "dull", "weak", "plain"], -2: ["awful", "terrible", "horrible", "dreadful"]}
REMARKS = {
    2: ["I loved every moment.", "Everyone should have one.", "It made my whole week.", "I was truly delighted."],
    1: ["I liked it.", "I would come back.", "It was worth the money.", "I was happy with it."],
    -1: ["I did not like it.", "I would not come back.", "It was not worth the money.", "I was not happy with it."],
    -2: ["I hated every moment.", "Nobody should have one.", "It ruined my whole week.", "I was truly angry."],
}
OPENINGS = ["The {t} from {n} was {j}.", "The {t} in {n} is {j}.", "I bought {a} {t} from {n}.",
            "What {a} {t} they have in {n}.", "We tried the {t} in {n} and it was {j}."]

# One argument list -> task -> (wordings, programs that do it). Within one argument list every two tasks differ on some
# input, so a program of another task is a wrong one.
TASKS = {
    "{a}, {b}": [
        (["Return the larger of {a} and {b}.", "Give the bigger of the numbers {a} and {b}."],
         ["return max({a}, {b})", "if {a} > {b}:\n    return {a}\nreturn {b}", "return {a} if {a} > {b} else {b}"]),
        (["Return the smaller of {a} and {b}.", "Give the lesser of the numbers {a} and {b}."],
         ["return min({a}, {b})", "if {a} < {b}:\n    return {a}\nreturn {b}", "return {a} if {a} < {b} else {b}"]),
        (["Return the sum of {a} and {b}.", "Add the numbers {a} and {b}."],
         ["return {a} + {b}", "total = {a}\ntotal += {b}\nreturn total"]),
        (["Return the product of {a} and {b}.", "Multiply the numbers {a} and {b}."],
         ["return {a} * {b}", "total = {a}\ntotal *= {b}\nreturn total"]),
        (["Return {a} minus {b}.", "Subtract {b} from {a}."],
         ["return {a} - {b}", "total = {a}\ntotal -= {b}\nreturn total"]),
        (["Tell whether {a} and {b} are equal.", "Check that {a} is the same as {b}."],
         ["return {a} == {b}", "return not {a} != {b}"]),
    ],
    "{a}": [
        (["Return twice the number {a}.", "Double {a}."], ["return 2 * {a}", "return {a} + {a}"]),
        (["Return the square of {a}.", "Multiply {a} by itself."], ["return {a} * {a}", "return {a} ** 2"]),
        (["Tell whether {a} is even.", "Check that two divides {a}."],
         ["return {a} % 2 == 0", "if {a} % 2:\n    return False\nreturn True"]),
        (["Tell whether {a} is odd.", "Check that two does not divide {a}."],
         ["return {a} % 2 == 1", "if {a} % 2:\n    return True\nreturn False"]),
        (["Return the number after {a}.", "Add one to {a}."], ["return {a} + 1", "{a} += 1\nreturn {a}"]),
        (["Return the number before {a}.", "Take one from {a}."], ["return {a} - 1", "{a} -= 1\nreturn {a}"]),
    ],
    "{l}": [
        (["Return the sum of the list {l}.", "Add up all numbers in {l}."],
         ["return sum({l})", "total = 0\nfor item in {l}:\n    total += item\nreturn total"]),
        (["Return the length of the list {l}.", "Count the items in {l}."],
         ["return len({l})", "total = 0\nfor item in {l}:\n    total += 1\nreturn total"]),
        (["Return the largest item of {l}.", "Find the maximum of the list {l}."],
         ["return max({l})", "return sorted({l})[-1]"]),
        (["Return the smallest item of {l}.", "Find the minimum of the list {l}."],
         ["return min({l})", "return sorted({l})[0]"]),
        (["Return the first item of {l}.", "Give the item at the start of the list {l}."],
         ["return {l}[0]", "for item in {l}:\n    return item"]),
        (["Return the last item of {l}.", "Give the item at the end of the list {l}."],
         ["return {l}[-1]", "return {l}[len({l}) - 1]"]),
        (["Return {l} in reverse order.", "Turn the list {l} around."],
         ["return {l}[::-1]", "return list(reversed({l}))"]),
    ],
}
FUNCTION_NAMES = "solve run work answer compute helper".split()
NUMBER_NAMES = "a b c m n p q x y z".split()
LIST_NAMES = "items values numbers data xs rows".split()


def is_heldout(*parts) -> bool:
    """Whether what these parts spell belongs to the held-out eighth of the world."""
    return zlib.crc32(" ".join(map(str, parts)).encode()) % 8 == 0


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


@dataclasses.dataclass(frozen=True)
class Fact:
    """One thing a passage says. `questions` are all its phrasings; `kind` is the kind of value (`animal`, `name`)."""
    entity: str
    relation: str
    kind: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def fill(patterns, entity: str, value: str) -> tuple[str, ...]:
    words = dict(e=entity, v=value, a=article(value), A=article(value).capitalize())
    return tuple(pattern.format(**words) for pattern in patterns)


def ask(question: str, answer: str):
    """The two spans of one target sequence `Question: {q} Answer: {a}\\n`."""
    return [(f"Question: {question} Answer:", "question"), (f" {answer}\n", "answer")]


class World:
    """Writes one side of the world. The same seed gives the same texts in the same order."""

    def __init__(self, seed: int, heldout: bool = False):
        self.rng = random.Random(f"{seed} {heldout}")
        self.heldout = heldout

    def _ours(self, make, key=lambda made: made):
        """Draw until the draw belongs to our side."""
        while True:
            made = make()
            if is_heldout(key(made)) == self.heldout:
                return made

    # --- passages and questions --------------------------------------------------------------------------------

    def name(self) -> str:
        pick = self.rng.choice
        return self._ours(lambda: pick(FIRST) + "".join(pick(REST) for _ in range(pick((1, 1, 2)))))

    def value(self, kind: str, taken=()) -> str:
        """A value of this kind that is none of `taken`."""
        while True:
            if kind == "name":
                value = self.name()
            else:
                value = str(self.rng.randint(2, 99)) if kind == "number" else self.rng.choice(WORDS[kind])
            if value not in taken:
                return value

    def facts(self, kind: str, relations, taken=()) -> list[Fact]:
        """One new entity with these relations; no value is one of `taken`."""
        made, entity = [], self.name()
        for relation in relations:
            value_kind, statements, questions = FACTS[kind][relation]
            value = self.value(value_kind, {entity, *taken, *(fact.value for fact in made)})
            made.append(Fact(entity, relation, value_kind, value, fill(statements, entity, value),
                             fill(questions, entity, value)))
        return made

    def document(self, size: int, others: int = 0, even: bool = False):
        """A passage of `size` facts, some of them about `others` further entities of the same kind.

        The first entity has most of the facts, or with `even` about as many as the others have together.

        Returns (text, stated facts, questions without an answer in it)."""
        rng = self.rng
        kind = rng.choice(list(FACTS))
        relations = list(FACTS[kind])
        main = min(len(relations) - 1, (size + 1) // 2 if even and others else size - others)
        chosen = rng.sample(relations, main)
        groups = [self.facts(kind, chosen)]
        for _ in range(others):
            # Others mostly share relations with the main entity: only the name tells whose value is asked for.
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
        """A passage and questions on it in any order; each is an unanswerable one with probability `missing`."""
        text, facts, unanswerable = self.document(size, others, even)
        self.rng.shuffle(facts)
        spans = [(text + "\n", "context")]
        for fact in facts:
            if self.rng.random() < missing:
                spans += ask(self.rng.choice(unanswerable), UNKNOWN)
            spans += ask(self.rng.choice(fact.questions), fact.value)
        return spans

    def closed_book_example(self):
        """A question with no passage before it."""
        kind = self.rng.choice(list(FACTS))
        fact = self.facts(kind, [self.rng.choice(list(FACTS[kind]))])[0]
        return ask(self.rng.choice(fact.questions), UNKNOWN)

    # --- reviews, choices, sums, programs, stories ----------------------------------------------------------------

    def review(self, level: int | None = None, sentences: int | None = None):
        """(text, level): level is -2, -1, 1 or 2 and its sign is the sentiment."""
        rng = self.rng
        level = level or rng.choice((-2, -1, 1, 2))
        thing, adjective = self._ours(lambda: (rng.choice(WORDS["thing"]), rng.choice(ADJECTIVES[level])))
        opening = rng.choice(OPENINGS).format(t=thing, n=self.name(), j=adjective, a=article(adjective))
        same_sign = [r for strength in (1, 2) for r in REMARKS[strength if level > 0 else -strength]]
        more = [f"The {other} was {rng.choice(ADJECTIVES[level])} too."
                for other in rng.sample(WORDS["thing"], 1) if other != thing]
        remarks = rng.sample(same_sign + more, rng.randint(1, 3) if sentences is None else sentences - 1)
        return " ".join([opening, *remarks]), level

    def review_example(self):
        text, level = self.review()
        spans = [("Review:", "question"), (f" {text}\n", "text")]
        if self.rng.random() < 0.5:
            spans += self.sentiment_question(level)
        return spans

    def sentiment_question(self, level: int):
        return ask(self.rng.choice(["Is this review positive or negative?", "Is the review negative or positive?"]),
                   "positive" if level > 0 else "negative")

    def choice(self, question: str, right: str, wrong: str):
        letter = self.rng.choice("AB")
        first, second = (right, wrong) if letter == "A" else (wrong, right)
        return ask(f"{question} A: {first} B: {second}", letter)

    def option_question(self):
        """What letters mean and nothing else; the other choices are learnt only after it."""
        kind = self.rng.choice(["animal", "colour", "food", "goods", "number", "name"])
        right = self.value(kind)
        return self.choice(f"Which option is {right}?", right, self.value(kind, {right}))

    def number_question(self):
        low, high = self._two_numbers()
        first, second = self.rng.sample((low, high), 2)
        word, right = self.rng.choice([("larger", high), ("smaller", low)])
        return ask(f"Which number is {word}, {first} or {second}?", str(right))

    def _two_numbers(self):
        return sorted(self._ours(lambda: self.rng.sample(range(100), 2), key=lambda two: sorted(two)))

    def number_choice(self):
        low, high = self._two_numbers()
        if self.rng.random() < 0.5:
            return self.choice("Which number is larger?", high, low)
        return self.choice("Which number is smaller?", low, high)

    def review_choice(self):
        low, high = sorted(self.rng.sample((-2, -1, 1, 2), 2))
        bad, good = self.review(low, 1)[0], self.review(high, 1)[0]
        if self.rng.random() < 0.5:
            return self.choice("Which review is more positive?", good, bad)
        return self.choice("Which review is more negative?", bad, good)

    def passage_choice(self, size: int, others: int, questions: int = 4):
        text, facts, _ = self.document(size, others)
        spans = [(text + "\n", "context")]
        for fact in self.rng.sample(facts, min(questions, len(facts))):
            wrong = self.value(fact.kind, {fact.value})
            spans += self.choice(self.rng.choice(fact.questions), fact.value, wrong)
        return spans

    def sum(self):
        """A sum or difference of small numbers, bare or told in a sentence."""
        rng = self.rng
        a, op, b = self._ours(lambda: (rng.randint(0, 12), rng.choice("+-"), rng.randint(0, 9)))
        if op == "-":
            a, b = a + b, b
        total = a + b if op == "+" else a - b
        if rng.random() < 0.5:
            return ask(f"What is {a} {op} {b}?", str(total))
        who, what = self.name(), rng.choice(WORDS["goods"] + WORDS["food"])
        change = rng.choice(["buys {} more", "finds {} more"] if op == "+" else ["sells {}", "gives away {}"]).format(b)
        return ask(f"{who} has {a} crates of {what} and {change}. How many crates are there now?", str(total))

    def program_example(self):
        """A task, a program, and whether the one does the other."""
        rng = self.rng
        yes = rng.random() < 0.5

        def draw():
            arguments = rng.choice(list(TASKS))
            task, other = rng.sample(TASKS[arguments], 2)
            a, b = rng.sample(NUMBER_NAMES, 2)
            names = {"a": a, "b": b, "l": rng.choice(LIST_NAMES)}
            body = rng.choice((task if yes else other)[1]).format(**names).replace("\n", "\n    ")
            head = f"def {rng.choice(FUNCTION_NAMES)}({arguments.format(**names)}):"
            return f"Task: {rng.choice(task[0]).format(**names)}\nProgram:\n{head}\n    {body}\n"

        question = rng.choice(["Does the program do the task?", "Is the program correct?"])
        return [(self._ours(draw), "context"), *ask(question, "Yes" if yes else "No")]

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

    # --- the mixture ------------------------------------------------------------------------------------------------

    def passage_of(self, level: float):
        """A passage with questions, as hard as `level` allows: more facts, further entities, missing answers."""
        size = self.rng.randint(2 + round(2 * level), 3 + round(5 * level))
        others = self.rng.choice((0, 1, 2)) if size >= 4 and self.rng.random() < level else 0
        # Where entities share the facts evenly, only the name in a question tells whose value is meant.
        return self.passage_example(size, others, missing=0.06 * level, even=self.rng.random() < 0.3)

    def several(self, make, most: int):
        return [span for _ in range(self.rng.randint(most // 2, most)) for span in make()]

    def drill(self):
        """An example of what is learnt by repetition: letters, sums, programs."""
        makers = {
            (lambda: self.several(self.option_question, 10)): 30,
            (lambda: self.several(self.sum, 10)): 30,
            (lambda: self.several(self.program_example, 3)): 25,
            (lambda: self.several(self.number_choice, 10)): 5,
            (lambda: self.several(self.review_choice, 5)): 8,
            (lambda: self.passage_of(1.0)): 8,
        }
        return self.rng.choices(list(makers), makers.values())[0]()

    def example(self, level: float = 1.0, long: bool = False):
        """One training example without its begin and end tokens.

        Args:
            level: 0 to 1, how far the curriculum has come. It begins with questions on two or three facts, since
                finding a fact by its name is what has to be learnt first and all else waits for it.
            long: several passages, each with its questions, in one sequence.
        """
        rng = self.rng
        if long:
            return [span for _ in range(rng.randint(2, 4)) for span in self.passage_of(level)]
        if rng.random() < 0.9 * (1 - level):
            return self.passage_of(level)
        makers = {
            (lambda: self.passage_of(level)): 46,
            (lambda: self.passage_choice(rng.randint(2, 6), rng.choice((0, 1)))): 7,
            (lambda: self.several(self.closed_book_example, 2)): 2 * level,
            self.review_example: 5,
            (lambda: self.several(self.option_question, 8)): 6,
            (lambda: self.several(self.review_choice, 5)): 6,
            (lambda: self.several(self.number_choice, 8)): 5,
            (lambda: self.several(self.number_question, 8)): 4,
            (lambda: self.several(self.sum, 10)): 12,
            (lambda: self.several(self.program_example, 3)): 10,
            (lambda: [(self.story() + "\n", "text")]): 1,
        }
        spans = rng.choices(list(makers), makers.values())[0]()
        return self.chat(spans) if rng.random() < 0.18 else spans

    def chat(self, spans):
        """The same example as a conversation: what is asked is the user's turn, the answer the assistant's."""
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
