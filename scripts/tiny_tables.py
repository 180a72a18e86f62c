"""Words, facts, phrasings and programs of a small invented world. All of it is made up."""

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

# Types of values, with the noun phrase that a choice question has for each.
KINDS = {"animal": "an animal", "colour": "a colour", "food": "a food", "trade": "a trade", "season": "a season",
         "instrument": "an instrument", "number": "a number", "name": "a name", "place": "a place"}

# type of entity -> relation -> (type of value, statements, questions). {e} entity, {v} value, {a} with article.
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

# Judgements by strength; all sentences of a review have the same sign.
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
# Names of arguments, those to learn from and those of held-out programs.
NUMBER_NAMES = "a b c m n p q x y z".split(), "d e f g h j k s t u v w".split()
LIST_NAMES = "items values numbers data xs rows".split(), "lists goods parts words marks stars".split()
