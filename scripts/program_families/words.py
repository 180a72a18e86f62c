"""Families of programs on words and lists of words."""

from program_families.family import Family

WORDS = [
    Family(
        "reverse_words", "s: str", "str",
        ("Put the words of a string in reverse order. Words are separated by one or more spaces; the result has one "
         "space between words and none at its ends.",
         "Return the words of a text from the last to the first, joined by single spaces; additional spaces are "
         "dropped.",
         "Split a string at whitespace and join the words again, with one space each, in the opposite order."),
        ('return " ".join(s.split()[::-1])',
         """
         out = []
         for w in s.split():
             out.insert(0, w)
         return " ".join(out)
         """,
         """
         words = s.split()
         words.reverse()
         return " ".join(words)
         """),
        (("wrong_return", 0, '" ".join(s.split()[::-1])', "s[::-1]"),
         ("wrong_operator", 1, "out.insert(0, w)", "out.append(w)"),
         ("wrong_return", 2, '" ".join(words)', "words"),
         ("off_by_one", 0, "[::-1]", "[:0:-1]"),
         ("wrong_return", 1, '" ".join(out)', '"".join(out)'),
         ("missed_edge_case", 0, "s.split()", 's.split(" ")'),
         ("off_by_one", 1, "insert(0,", "insert(1,"),
         ("missed_edge_case", 2, "words.reverse()\n", "words.sort()\n")),
        ((("one two three",), "three two one"), (("",), ""), (("a  b",), "b a"), (("solo",), "solo"),
         ((" x y ",), "y x"))),
    Family(
        "capitalize_words", "s: str", "str",
        ("Make the first character of every word upper case and leave all others as they are. Words are separated by "
         "spaces, and the spaces stay.",
         "Return a text with a capital at the start of each word; the remaining letters and the spaces do not change.",
         "Given a string, convert every letter at its start or directly after a space to a capital and nothing else."),
        ('return " ".join(w[:1].upper() + w[1:] for w in s.split(" "))',
         """
         out = ""
         last = " "
         for ch in s:
             out += ch.upper() if last == " " else ch
             last = ch
         return out
         """,
         """
         words = s.split(" ")
         for i in range(len(words)):
             if words[i]:
                 words[i] = words[i][0].upper() + words[i][1:]
         return " ".join(words)
         """),
        (("wrong_return", 0, "+ w[1:]", "+ w[1:].lower()"),
         ("wrong_initial_value", 1, 'last = " "', 'last = ""'),
         ("off_by_one", 0, "w[1:]", "w[2:]"),
         ("wrong_operator", 1, '== " "', '!= " "'),
         ("wrong_return", 0, "w[:1].upper() + w[1:]", "w.upper()"),
         ("missed_edge_case", 0, "w[:1]", "w[0]"),
         ("off_by_one", 2, "range(len(words))", "range(1, len(words))"),
         ("missed_edge_case", 2, "    if words[i]:\n        words[i] =", "    words[i] =")),
        ((("hello world",), "Hello World"), (("",), ""), (("a helLo",), "A HelLo"), (("x  yes",), "X  Yes"))),
    Family(
        "longest_word", "words: list[str]", "str",
        ("Return the longest string of a list, the first one where several have that length, and an empty string for "
         "an empty list.",
         "Find the word with the most characters; of equally long words the earliest wins, and no words give an empty "
         "text.",
         "From a list of words pick the one of greatest length. Ties go to the one that comes first. Without words "
         "return the empty string."),
        ("""
         best = ""
         for w in words:
             if len(w) > len(best):
                 best = w
         return best
         """,
         'return max(words, key=len, default="")',
         """
         if not words:
             return ""
         words = sorted(words, key=len, reverse=True)
         return words[0]
         """),
        (("wrong_operator", 0, ">", ">="),
         ("wrong_operator", 0, ">", "<"),
         ("missed_edge_case", 1, ', default=""', ""),
         ("wrong_return", 0, "return best", "return len(best)"),
         ("missed_edge_case", 2, 'if not words:\n    return ""\n', ""),
         ("off_by_one", 2, "words[0]", "words[-1]"),
         ("wrong_operator", 1, "key=len, ", ""),
         ("wrong_initial_value", 0, 'best = ""', "best = words[-1]")),
        (((["a", "bbb", "cc"],), "bbb"), (([],), ""), ((["ab", "cd"],), "ab"), ((["zoo", "apples"],), "apples"),
         ((["long", "i", "am"],), "long"))),
    Family(
        "common_prefix", "words: list[str]", "str",
        ("Return the longest string with which all strings of a list start; an empty list gives an empty string.",
         "Find the longest common prefix of a list of words. Without words, or without a common prefix, return the "
         "empty string.",
         "Given a list of texts, give as many of their first characters as all of them share; for no texts give an "
         "empty string."),
        ("""
         if not words:
             return ""
         best = words[0]
         for w in words:
             while not w.startswith(best):
                 best = best[:-1]
         return best
         """,
         """
         out = ""
         for p in zip(*words):
             if len(set(p)) > 1:
                 break
             out += p[0]
         return out
         """),
        (("missed_edge_case", 0, 'if not words:\n    return ""\n', ""),
         ("off_by_one", 0, "best[:-1]", "best[:-2]"),
         ("wrong_operator", 1, "len(set(p)) > 1", "len(set(p)) == 1"),
         ("missed_edge_case", 1, "        break\n", "        continue\n"),
         ("wrong_return", 1, "return out", "return len(out)"),
         ("wrong_initial_value", 1, 'out = ""', 'out = words[0]'),
         ("off_by_one", 1, "> 1", "> 2"),
         ("wrong_return", 2, "commonprefix(words)", "commonprefix(words)[::-1]")),
        (((["flow", "flag"],), "fl"), (([],), ""), ((["abc", "abd"],), "ab"), ((["abc", "xbc"],), ""),
         ((["solo"],), "solo")),
        odd=(("another_algorithm", """
              from os.path import commonprefix
              return commonprefix(words)
              """),)),
    Family(
        "initials", "s: str", "str",
        ("Return the first letters of the words of a string as capitals, without anything between them. Words are "
         "separated by one or more spaces.",
         "Build an abbreviation of a text: the upper-case initial of each word, joined. An empty text gives an empty "
         "string.",
         "Given words separated by spaces, possibly several, return the acronym of their first characters in upper "
         "case."),
        ('return "".join(w[0].upper() for w in s.split())',
         """
         out = ""
         for w in s.split():
             out += w[0]
         return out.upper()
         """),
        (("missed_edge_case", 0, ".upper()", ""),
         ("off_by_one", 0, "w[0]", "w[-1]"),
         ("wrong_return", 1, "out.upper()", "out.lower()"),
         ("missed_edge_case", 1, "s.split()", 's.split(" ")'),
         ("wrong_initial_value", 1, 'out = ""', "out = s[:1]"),
         ("missed_edge_case", 2, "i == 0 or ", ""),
         ("wrong_return", 0, '"".join', '".".join'),
         ("off_by_one", 2, "s[i - 1]", "s[i + 1]")),
        ((("world health group",), "WHG"), (("",), ""), (("a  b",), "AB"), (("Solo",), "S")),
        odd=(("another_algorithm",
              'return "".join(s[i] for i in range(len(s)) if s[i] != " " and (i == 0 or s[i - 1] == " ")).upper()'),)),
    Family(
        "squeeze_spaces", "s: str", "str",
        ("Replace every run of spaces of a string by a single space, at its ends as well.",
         "Shorten each group of neighbouring spaces in a text to one space and leave other characters alone. Spaces at "
         "the start and end are treated the same way.",
         "Return a string in which no two spaces follow each other: of each run of spaces one remains."),
        ("""
         out = ""
         for ch in s:
             if ch != " " or not out.endswith(" "):
                 out += ch
         return out
         """,
         """
         while "  " in s:
             s = s.replace("  ", " ")
         return s
         """,
         """
         import re
         return re.sub(" +", " ", s)
         """),
        (("missed_edge_case", 'return " ".join(s.split())'),
         ("missed_edge_case", 'return s.replace("  ", " ")'),
         ("wrong_return", 2, '" ", s', '"", s'),
         ("wrong_operator", 0, "or not", "and not"),
         ("wrong_initial_value", 0, 'out = ""', 'out = " "'),
         ("wrong_return", 1, 'replace("  ", " ")', 'replace("  ", "")'),
         ("wrong_operator", 0, "!=", "=="),
         ("off_by_one", 0, "for ch in s:", "for ch in s[1:]:")),
        ((("a  b",), "a b"), (("a    b",), "a b"), ((" x ",), " x "), (("",), ""), (("  ",), " "))),
    Family(
        "parse_settings", "s: str", "dict[str, int]",
        ("Read a string like a=1;b=2 into a dict from names to integers. An empty string gives an empty dict; later "
         "entries replace earlier ones.",
         "Given settings in the form name=integer, separated by semicolons, return them as a dict; an empty text has "
         "no settings, and of a repeated name the last value counts.",
         "Split a text at semicolons and every part at its equals sign, and return a dict of the left sides with the "
         "right sides as integers. No text means no entries."),
        ("""
         out = {}
         if not s:
             return out
         for p in s.split(";"):
             a, b = p.split("=")
             out[a] = int(b)
         return out
         """,
         'return {p.split("=")[0]: int(p.split("=")[1]) for p in s.split(";") if p}',
         """
         out = {}
         for p in filter(None, s.split(";")):
             i = p.index("=")
             out[p[:i]] = int(p[i + 1:])
         return out
         """),
        (("missed_edge_case", 0, "if not s:\n    return out\n", ""),
         ("wrong_return", 0, "int(b)", "b"),
         ("off_by_one", 1, 'int(p.split("=")[1])', 'int(p.split("=")[0])'),
         ("missed_edge_case", 1, " if p", ""),
         ("wrong_operator", 0, 'split(";")', 'split(",")'),
         ("wrong_return", 0, "out[a] = int(b)", "out[int(b)] = a"),
         ("off_by_one", 2, "p[:i]", "p[:i + 1]"),
         ("wrong_return", 2, "1:])\nreturn", "1:])\n    return")),
        ((("a=1;b=22",), {"a": 1, "b": 22}), (("",), {}), (("x=0",), {"x": 0}), (("k=5;k=6",), {"k": 6}))),
    Family(
        "count_words", "s: str", "int",
        ("Count the words of a string. Words are separated by one or more spaces; spaces at the ends do not count.",
         "Return the number of groups of characters that are not spaces in a text.",
         "How many words has a text if any number of spaces can come before, between and after them?"),
        ("return len(s.split())",
         """
         count = 0
         last = " "
         for ch in s:
             if ch != " " and last == " ":
                 count += 1
             last = ch
         return count
         """,
         'return len([w for w in s.split(" ") if w])'),
        (("missed_edge_case", 0, "s.split()", 's.split(" ")'),
         ("wrong_initial_value", 1, 'last = " "', 'last = "x"'),
         ("wrong_operator", 1, "and", "or"),
         ("missed_edge_case", 2, " if w", ""),
         ("off_by_one", 0, "len(s.split())", "len(s.split()) - 1"),
         ("missed_edge_case", 'return s.count(" ") + 1'),
         ("wrong_return", 1, "return count", "return len(s) - count"),
         ("wrong_return", 2, 'len([w for w in s.split(" ") if w])', '[w for w in s.split(" ") if w]')),
        ((("one two",), 2), (("",), 0), (("a  b c",), 3), ((" x ",), 1))),
    Family(
        "word_positions", "s: str", "dict[str, list[int]]",
        ("Return a dict from each word of a string to the ascending list of its positions. Words are separated by "
         "spaces, and the first word has position 0.",
         "Build an index of a text: for every word, the numbers of the places at which it occurs, counted from 0 in "
         "words.",
         "Split a string at whitespace and map each word to the list of all its indices among the words."),
        ("""
         out = {}
         for i, w in enumerate(s.split()):
             out.setdefault(w, []).append(i)
         return out
         """,
         """
         words = s.split()
         return {w: [i for i in range(len(words)) if words[i] == w] for w in words}
         """,
         """
         out = {}
         i = 0
         for w in s.split():
             if w not in out:
                 out[w] = []
             out[w].append(i)
             i += 1
         return out
         """),
        (("missed_edge_case", 0, "out.setdefault(w, []).append(i)", "out[w] = [i]"),
         ("wrong_return", 1, "[i for i in range(len(words)) if words[i] == w]", "words.index(w)"),
         ("off_by_one", 1, "range(len(words))", "range(len(words) - 1)"),
         ("missed_edge_case", 2, "    if w not in out:\n        out[w] = []\n", "    out[w] = []\n"),
         ("wrong_initial_value", 2, "i = 0", "i = 1"),
         ("wrong_operator", 1, "==", "!="),
         ("wrong_return", 0, "setdefault(w, []).append(i)", "setdefault(i, []).append(w)"),
         ("off_by_one", 0, "append(i)", "append(i + 1)")),
        ((("a b a",), {"a": [0, 2], "b": [1]}), (("",), {}), (("one",), {"one": [0]}), (("x x",), {"x": [0, 1]}))),
    Family(
        "count_longer", "words: list[str], k: int", "int",
        ("Count the strings of a list that have more than k characters.",
         "Return how many words of a list are longer than a given length.",
         "Given words and a limit, return the number of words with a length that exceeds the limit."),
        ("return sum(len(w) > k for w in words)",
         """
         count = 0
         for w in words:
             if len(w) > k:
                 count += 1
         return count
         """,
         "return len([w for w in words if w[k:]])"),
        (("wrong_operator", 0, ">", ">="),
         ("wrong_initial_value", 1, "count = 0", "count = 1"),
         ("wrong_operator", 1, "len(w) > k", "len(w) < k"),
         ("wrong_return", 2, "len([w for w in words if w[k:]])", "[w for w in words if w[k:]]"),
         ("off_by_one", 2, "w[k:]", "w[k + 1:]"),
         ("wrong_return", 1, "count += 1\nreturn", "count += 1\n    return"),
         ("off_by_one", 1, "for w in words:", "for w in words[1:]:"),
         ("missed_edge_case", 0, "for w in words", "for w in set(words)")),
        (((["a", "bbb", "cc"], 1), 2), (([], 3), 0), ((["abcd", "abcd"], 2), 2), ((["xy"], 2), 0),
         ((["long", "i"], 3), 1))),
    Family(
        "cut_words", "words: list[str], k: int", "list[str]",
        ("Shorten every string of a list to its first k characters; shorter strings stay. The number k is 0 or more.",
         "Return a list in which each word is cut off after at most k characters.",
         "Give the prefixes of length k of all words of a list, or the whole word where it is not that long."),
        ("return [w[:k] for w in words]",
         """
         out = []
         for w in words:
             if len(w) > k:
                 w = w[:k]
             out.append(w)
         return out
         """,
         'return ["".join(ch for i, ch in enumerate(w) if i < k) for w in words]'),
        (("off_by_one", 0, "w[:k]", "w[:k + 1]"),
         ("wrong_operator", 0, "w[:k]", "w[k:]"),
         ("wrong_operator", 1, "len(w) > k", "len(w) < k"),
         ("missed_edge_case", 1, "        w = w[:k]\n", "        continue\n"),
         ("wrong_operator", 2, "i < k", "i <= k"),
         ("wrong_return", 1, "return out", "return w"),
         ("wrong_initial_value", 1, "out = []", "out = words[:1]"),
         ("off_by_one", 0, "w[:k]", "w[1:k + 1]"),
         ("missed_edge_case", 2, "if i < k) for w in words]", "if i < k) for w in words if w]")),
        (((["abc", "de"], 2), ["ab", "de"]), (([], 4), []), ((["", "xyz"], 1), ["", "x"]), ((["one"], 0), [""]))),
    Family(
        "join_with_and", "words: list[str]", "str",
        ("Write a list of words as text: with commas between them, but with the word and before the last one, as in "
         "a, b and c. No words give an empty string.",
         "Join words like an English enumeration without a comma before and: two words become x and y, three become "
         "x, y and z, one stays as it is, none gives an empty text.",
         "Turn a list of strings into one string, separated by comma and space, except that the last two are joined by "
         "and with spaces around it. Handle lists of length 0 and 1."),
        ("""
         if len(words) < 2:
             return "".join(words)
         return ", ".join(words[:-1]) + " and " + words[-1]
         """,
         """
         out = ""
         for i, w in enumerate(words):
             if i > 0:
                 out += " and " if i == len(words) - 1 else ", "
             out += w
         return out
         """,
         'return " and ".join(", ".join(words).rsplit(", ", 1))'),
        (("missed_edge_case", 0, 'if len(words) < 2:\n    return "".join(words)\n', ""),
         ("off_by_one", 0, "words[:-1]", "words[:-2]"),
         ("off_by_one", 1, "len(words) - 1", "len(words) - 2"),
         ("missed_edge_case", 1, '    if i > 0:\n        out +=', '    out +='),
         ("wrong_return", 2, ', 1))', "))"),
         ("wrong_operator", 1, "i == len", "i != len"),
         ("wrong_initial_value", 1, 'out = ""', 'out = " "'),
         ("off_by_one", 0, "words[-1]", "words[0]")),
        (((["a", "b", "c"],), "a, b and c"), (([],), ""), ((["solo"],), "solo"), ((["x", "y"],), "x and y"))),
]
