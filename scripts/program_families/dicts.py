"""Families of programs on mappings and named numbers."""

from program_families.family import Family

DICTS = [
    Family(
        "keys_by_value", "d: dict[str, int]", "dict[int, list[str]]",
        ("Turn a dict round: map each value to the list of all keys that have it, in alphabetical order.",
         "From a dict of names to numbers make a dict of each number to the sorted list of its names.",
         "Invert a dict with string keys. Several keys may share a value, so every value leads to an ascending list of "
         "keys."),
        ("""
         out = {}
         for w, v in d.items():
             out.setdefault(v, []).append(w)
         return {v: sorted(out[v]) for v in out}
         """,
         "return {v: sorted(w for w in d if d[w] == v) for v in d.values()}",
         """
         out = {}
         for w in sorted(d):
             out[d[w]] = out.get(d[w], []) + [w]
         return out
         """),
        (("wrong_return", "return {v: w for w, v in d.items()}"),
         ("missed_edge_case", 0, "sorted(out[v])", "out[v]"),
         ("missed_edge_case", 0, "out.setdefault(v, []).append(w)", "out[v] = [w]"),
         ("wrong_operator", 1, "d[w] == v", "d[w] != v"),
         ("wrong_operator", 1, "d[w] == v", "d[w] >= v"),
         ("wrong_return", 0, "out.setdefault(v, []).append(w)", "out.setdefault(w, []).append(v)"),
         ("missed_edge_case", 2, "sorted(d)", "d"),
         ("wrong_initial_value", 2, "out.get(d[w], [])", 'out.get(d[w], [""])')),
        ((({},), {}), (({"a": 1, "b": 2},), {1: ["a"], 2: ["b"]}),
         (({"z": 1, "a": 1, "m": 2},), {1: ["a", "z"], 2: ["m"]})),
        kin="values of a dict"),
    Family(
        "value_counts", "d: dict[str, int]", "dict[int, int]",
        ("Count for every value of a dict how many keys have it. Return a dict from value to number of keys.",
         "Given a dict of names to numbers, map each number to the count of names that it belongs to.",
         "How often does each value occur in a dict? Return the counts as a dict."),
        ("""
         out = {}
         for v in d.values():
             out[v] = out.get(v, 0) + 1
         return out
         """,
         "return {v: list(d.values()).count(v) for v in d.values()}",
         """
         from collections import Counter
         return dict(Counter(d.values()))
         """),
        (("wrong_initial_value", 0, "out.get(v, 0)", "out.get(v, 1)"),
         ("missed_edge_case", 0, "out.get(v, 0) + 1", "1"),
         ("wrong_return", 2, "d.values()", "d"),
         ("missed_edge_case", 0, "out.get(v, 0)", "out[v]"),
         ("off_by_one", 1, "count(v) for", "count(v) - 1 for"),
         ("wrong_operator", 0, ") + 1", ") - 1"),
         ("wrong_return", 2, "dict(Counter(d.values()))", "len(Counter(d.values()))"),
         ("wrong_return", 0, ") + 1\nreturn", ") + 1\n    return")),
        ((({},), {}), (({"a": 1, "b": 2, "c": 1},), {1: 2, 2: 1}), (({"x": 5},), {5: 1})),
        kin="values of a dict"),
    Family(
        "add_counts", "d: dict[str, int], e: dict[str, int]", "dict[str, int]",
        ("Merge two dicts of counts; the counts of keys that both have are added.",
         "Return a dict with all keys of two dicts, where each key has the sum of its numbers, a missing key counting "
         "as 0.",
         "Combine two tables of name to number into a new one and add the numbers of names that occur in both."),
        ("""
         out = dict(d)
         for w in e:
             out[w] = out.get(w, 0) + e[w]
         return out
         """,
         "return {w: d.get(w, 0) + e.get(w, 0) for w in {**d, **e}}",
         """
         out = {}
         for p in (d, e):
             for w, n in p.items():
                 out[w] = out.get(w, 0) + n
         return out
         """),
        (("missed_edge_case", 0, "out.get(w, 0) + e[w]", "e[w]"),
         ("missed_edge_case", 1, "{**d, **e}", "d"),
         ("wrong_operator", 1, "+ e.get", "- e.get"),
         ("wrong_initial_value", 2, "out.get(w, 0)", "out.get(w, 1)"),
         ("missed_edge_case", 0, "out.get(w, 0)", "out[w]"),
         ("wrong_return", 0, "return out", "return e"),
         ("wrong_initial_value", 0, "dict(d)", "{}"),
         ("wrong_operator", 2, ") + n", ") * n")),
        ((({"a": 1}, {"a": 2, "b": 3}), {"a": 3, "b": 3}), (({}, {}), {}), (({"x": 4}, {}), {"x": 4}),
         (({}, {"y": 5}), {"y": 5}))),
    Family(
        "shared_items", "d: dict[str, int], e: dict[str, int]", "dict[str, int]",
        ("Return the entries that two dicts have in common: the same key with the same value.",
         "Given two dicts, build a dict of those keys of the first that the second has with an equal value.",
         "Which pairs of key and value occur in both of two dicts? Return them as a dict."),
        ("return {w: v for w, v in d.items() if w in e and e[w] == v}",
         """
         out = {}
         for w in d:
             if w in e and d[w] == e[w]:
                 out[w] = d[w]
         return out
         """,
         "return dict(d.items() & e.items())"),
        (("missed_edge_case", 0, "w in e and ", ""),
         ("missed_edge_case", 0, " and e[w] == v", ""),
         ("wrong_operator", 1, "d[w] == e[w]", "d[w] != e[w]"),
         ("wrong_operator", 2, "&", "|"),
         ("wrong_return", 1, "out[w] = d[w]", "out[w] = w"),
         ("wrong_operator", 1, "w in e and", "w in e or"),
         ("wrong_return", 2, "dict(d.items() & e.items())", "len(d.items() & e.items())"),
         ("missed_edge_case", 1, "for w in d:", "for w in e:")),
        ((({"a": 1, "b": 2}, {"a": 1, "b": 3}), {"a": 1}), (({}, {"x": 1}), {}), (({"x": 1}, {}), {}),
         (({"c": 7, "k": 0}, {"k": 0, "c": 7}), {"c": 7, "k": 0}))),
    Family(
        "group_by_length", "words: list[str]", "dict[int, list[str]]",
        ("Group the words of a list by their length: return a dict from length to the list of words of that length, "
         "in their order.",
         "Map each length that occurs among some strings to the strings of that length, as a list in input order.",
         "Sort words into lists by how many characters they have and return those lists in a dict with the lengths as "
         "keys."),
        ("""
         out = {}
         for w in words:
             out.setdefault(len(w), []).append(w)
         return out
         """,
         "return {len(w): [x for x in words if len(x) == len(w)] for w in words}",
         """
         from collections import defaultdict
         out = defaultdict(list)
         for w in words:
             out[len(w)].append(w)
         return dict(out)
         """),
        (("missed_edge_case", 0, "out.setdefault(len(w), []).append(w)", "out[len(w)] = [w]"),
         ("wrong_return", 0, "append(w)", "append(len(w))"),
         ("wrong_operator", 1, "len(x) == len(w)", "len(x) <= len(w)"),
         ("off_by_one", 0, "setdefault(len(w),", "setdefault(len(w) - 1,"),
         ("wrong_return", 2, "dict(out)", "list(out)"),
         ("off_by_one", 2, "for w in words:", "for w in words[1:]:"),
         ("missed_edge_case", 2, "out[len(w)].append(w)", "out[len(w)].insert(0, w)"),
         ("missed_edge_case", 0, "out.setdefault(len(w), [])", "out[len(w)]")),
        (((["a", "bb", "c"],), {1: ["a", "c"], 2: ["bb"]}), (([],), {}), ((["xyz"],), {3: ["xyz"]}),
         ((["to", "be", "or"],), {2: ["to", "be", "or"]}))),
    Family(
        "key_of_largest", "d: dict[str, int]", "str | None",
        ("Return the key with the largest value of a dict, the alphabetically first one in a tie, and None for an "
         "empty dict.",
         "Which name has the highest number in a dict of names to numbers? Ties go to the name that comes first in the "
         "alphabet; an empty dict gives None.",
         "Find the key of the maximum of a dict's values. Of several such keys return the smallest string, and None if "
         "the dict has no entries."),
        ("return min(d, key=lambda w: (-d[w], w), default=None)",
         """
         best = None
         for w in sorted(d):
             if best is None or d[w] > d[best]:
                 best = w
         return best
         """,
         """
         if not d:
             return None
         n = max(d.values())
         return sorted(w for w in d if d[w] == n)[0]
         """),
        (("wrong_operator", 1, "d[w] >", "d[w] >="),
         ("missed_edge_case", 0, ", default=None", ""),
         ("missed_edge_case", 1, "sorted(d)", "d"),
         ("wrong_operator", 0, "-d[w]", "d[w]"),
         ("wrong_return", 1, "return best", "return d[best]"),
         ("missed_edge_case", 2, "if not d:\n    return None\n", ""),
         ("off_by_one", 2, "[0]", "[-1]"),
         ("wrong_operator", 1, "d[w] >", "d[w] <")),
        ((({"a": 1, "b": 3},), "b"), (({},), None), (({"z": 2, "c": 2},), "c"), (({"m": -1, "a": -5},), "m")),
        kin="order by value"),
    Family(
        "names_by_value", "d: dict[str, int]", "list[str]",
        ("Return the keys of a dict in ascending order of their values; keys of equal value are in alphabetical order.",
         "List the names of a dict of names to numbers from the smallest number to the largest, and by name where "
         "numbers are equal.",
         "Sort the keys of a dict by value first and by key second, both ascending."),
        ("return sorted(d, key=lambda w: (d[w], w))",
         "return sorted(sorted(d), key=d.get)",
         "return [w for v, w in sorted((d[w], w) for w in d)]",
         """
         words = sorted(d)
         words.sort(key=d.get)
         return words
         """),
        (("missed_edge_case", 0, "(d[w], w)", "d[w]"),
         ("wrong_operator", 0, "(d[w], w)", "(-d[w], w)"),
         ("missed_edge_case", 1, "sorted(sorted(d), key=d.get)", "sorted(d, key=d.get)"),
         ("wrong_return", 2, "[w for v, w in", "[v for v, w in"),
         ("wrong_operator", 1, ", key=d.get", ""),
         ("off_by_one", 2, "for w in d)]", "for w in d)[1:]]"),
         ("wrong_operator", 0, "(d[w], w)", "(w, d[w])"),
         ("off_by_one", 0, "sorted(d, key=lambda w: (d[w], w))", "sorted(d, key=lambda w: (d[w], w))[:-1]"),
         ("wrong_return", 1, "sorted(sorted(d), key=d.get)", "sorted(sorted(d), key=d.get)[0]")),
        ((({"a": 3, "b": 1},), ["b", "a"]), (({},), []), (({"z": 2, "c": 2, "k": 0},), ["k", "c", "z"]),
         (({"x": 9},), ["x"])),
        kin="order by value"),
    Family(
        "top_names", "d: dict[str, int], k: int", "list[str]",
        ("Return the k keys with the largest values of a dict, largest first and in alphabetical order where values "
         "are equal. With fewer than k keys return them all.",
         "Given scores by name and a number k of 0 or more, list at most k names by falling score; equal scores are "
         "ordered by name.",
         "List the first k names of a ranking by value, highest value first, ties by name. The arguments are the dict "
         "and k, at least 0."),
        ("return sorted(d, key=lambda w: (-d[w], w))[:k]",
         """
         words = sorted(d)
         words.sort(key=lambda w: -d[w])
         return words[:k]
         """,
         "return [w for v, w in sorted((-d[w], w) for w in d)][:k]"),
        (("missed_edge_case", 0, "(-d[w], w)", "-d[w]"),
         ("wrong_operator", 0, "-d[w]", "d[w]"),
         ("off_by_one", 1, "words[:k]", "words[:k + 1]"),
         ("missed_edge_case", 1, "sorted(d)", "list(d)"),
         ("wrong_return", 2, "[w for v, w in", "[-v for v, w in"),
         ("off_by_one", 0, "[:k]", "[:k - 1]"),
         ("wrong_operator", 2, "[:k]", "[k:]"),
         ("wrong_return", 1, "return words[:k]", "return words[k]")),
        ((({"a": 3, "b": 5, "c": 1}, 2), ["b", "a"]), (({}, 3), []), (({"z": 2, "c": 2}, 2), ["c", "z"]),
         (({"x": 9, "y": 8}, 0), []), (({"x": 1}, 4), ["x"])),
        kin="order by value"),
    Family(
        "entries_at_least", "d: dict[str, int], k: int", "dict[str, int]",
        ("Return the entries of a dict with a value of at least k.",
         "From a dict of names to numbers retain, in a new dict, the names with a number that is not below the second "
         "argument.",
         "Copy a dict without the keys that have a value smaller than a given limit."),
        ("return {w: v for w, v in d.items() if v >= k}",
         """
         out = {}
         for w in d:
             if d[w] >= k:
                 out[w] = d[w]
         return out
         """,
         """
         out = dict(d)
         for w in d:
             if d[w] < k:
                 del out[w]
         return out
         """),
        (("wrong_operator", 0, ">=", ">"),
         ("wrong_operator", 2, "<", "<="),
         ("wrong_return", 0, "{w: v for w, v in d.items() if v >= k}", "[w for w, v in d.items() if v >= k]"),
         ("wrong_operator", 1, ">=", "<="),
         ("off_by_one", 0, "v >= k", "v >= k + 1"),
         ("wrong_return", 2, "return out", "return d"),
         ("wrong_initial_value", 1, "out = {}", "out = d"),
         ("wrong_return", 1, "out[w] = d[w]", "out[w] = k"),
         ("missed_edge_case", 1, "    if d[w] >= k:\n        out[w] =", "    out[w] =")),
        ((({"a": 1, "b": 5}, 3), {"b": 5}), (({}, 0), {}), (({"x": 2}, 2), {"x": 2}), (({"x": 2, "y": 4}, 9), {}),
         (({"m": -1, "n": 0}, -5), {"m": -1, "n": 0}))),
    Family(
        "raise_values", "d: dict[str, int], k: int", "dict[str, int]",
        ("Return a dict with the same keys and with k added to every value.",
         "Increase all numbers of a dict of names to numbers by the second argument; return a new dict.",
         "Copy a dict and add a given amount to each of its values."),
        ("return {w: v + k for w, v in d.items()}",
         """
         out = {}
         for w in d:
             out[w] = d[w] + k
         return out
         """,
         """
         out = dict(d)
         for w in out:
             out[w] += k
         return out
         """),
        (("wrong_operator", 0, "v + k", "v - k"),
         ("wrong_operator", 2, "out[w] += k", "out[w] *= k"),
         ("off_by_one", 1, "d[w] + k", "d[w] + k + 1"),
         ("wrong_return", 0, "{w: v + k for w, v in d.items()}", "[v + k for w, v in d.items()]"),
         ("wrong_return", 2, "return out", "return d"),
         ("wrong_return", 1, "+ k\nreturn", "+ k\n    return"),
         ("wrong_operator", 1, "d[w] + k", "max(d[w], k)"),
         ("missed_edge_case", 0, "d.items()", "d.items() if v > 0")),
        ((({"a": 1, "b": 5}, 3), {"a": 4, "b": 8}), (({}, 2), {}), (({"x": 0}, -1), {"x": -1}), (({"z": 7, "q": 2}, 1),
         {"z": 8, "q": 3}))),
    Family(
        "cart_total", "d: dict[str, int], words: list[str]", "int",
        ("Given a dict of prices and a list of articles, which may repeat, return the total price; unknown articles "
         "cost nothing.",
         "Add up the prices of all items of a list. The first argument maps items to prices, and items without a price "
         "count as 0.",
         "Look up every word of a list in a dict of numbers and return the sum of what is found, repeats included."),
        ("return sum(d.get(w, 0) for w in words)",
         """
         total = 0
         for w in words:
             if w in d:
                 total += d[w]
         return total
         """,
         "return sum(d[w] * words.count(w) for w in d)"),
        (("missed_edge_case", 0, "d.get(w, 0)", "d[w]"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("wrong_initial_value", 0, "d.get(w, 0)", "d.get(w, 1)"),
         ("missed_edge_case", 0, "in words", "in set(words)"),
         ("wrong_operator", 1, "total += d[w]", "total = d[w]"),
         ("wrong_return", "return sum(d.values())"),
         ("wrong_operator", 1, "if w in d", "if w not in d"),
         ("wrong_return", 1, "return total", "return len(words)"),
         ("off_by_one", 2, "words.count(w)", "words[1:].count(w)")),
        ((({"tea": 2, "milk": 5}, ["tea", "tea"]), 4), (({}, []), 0), (({"tea": 2}, ["ink", "tea"]), 2),
         (({"pen": 3, "pad": 1}, ["pen", "pad", "pad"]), 5))),
    Family(
        "unknown_words", "d: dict[str, int], words: list[str]", "list[str]",
        ("Return the words of a list that are no keys of a dict, in their order. The dict is the first argument.",
         "Given a dict and a list of strings, list the strings that the dict has no entry for, repeats included.",
         "Which elements of a list are missing from the keys of a dict? Return them in order."),
        ("return [w for w in words if w not in d]",
         """
         out = []
         for w in words:
             if d.get(w) is None:
                 out.append(w)
         return out
         """,
         "return list(filter(lambda w: w not in d, words))"),
        (("wrong_operator", 0, "not in", "in"),
         ("missed_edge_case", 1, "if d.get(w) is None:", "if not d.get(w):"),
         ("wrong_return", 1, "return out", "return len(out)"),
         ("off_by_one", 0, "for w in words", "for w in words[1:]"),
         ("wrong_initial_value", 1, "out = []", "out = list(d)"),
         ("wrong_return", 2, "list(filter(lambda w: w not in d, words))", "sorted(set(words) - set(d))"),
         ("wrong_operator", 1, "is None", "is not None"),
         ("missed_edge_case", 0, "for w in words", "for w in set(words)")),
        ((({"a": 1}, ["a", "b", "c"]), ["b", "c"]), (({}, []), []), (({"z": 0}, ["z", "y", "y"]), ["y", "y"]),
         (({"k": 2}, ["s", "m"]), ["s", "m"]))),
    Family(
        "totals_by_name", "pairs: list[tuple[str, int]]", "dict[str, int]",
        ("Add up amounts by name: from a list of pairs of name and amount make a dict of name to total.",
         "Given (name, number) pairs in which names may repeat, return the sum of the numbers of each name as a dict.",
         "Collect a list of bookings, each a name and an amount, into a dict with one total per name."),
        ("""
         out = {}
         for w, n in pairs:
             out[w] = out.get(w, 0) + n
         return out
         """,
         "return {w: sum(v for p, v in pairs if p == w) for w, n in pairs}",
         """
         from collections import defaultdict
         out = defaultdict(int)
         for w, n in pairs:
             out[w] += n
         return dict(out)
         """),
        (("missed_edge_case", 0, "out.get(w, 0) + n", "n"),
         ("wrong_initial_value", 0, "out.get(w, 0)", "out.get(w, 1)"),
         ("wrong_operator", 1, "p == w", "p != w"),
         ("wrong_return", 2, "dict(out)", "sum(out.values())"),
         ("wrong_operator", 2, "out[w] += n", "out[w] -= n"),
         ("missed_edge_case", 0, "out.get(w, 0)", "out[w]"),
         ("off_by_one", 2, "out[w] += n", "out[w] += 1"),
         ("wrong_return", 1, "sum(v for", "max(v for")),
        ((([("a", 2), ("b", 3), ("a", 4)],), {"a": 6, "b": 3}), (([],), {}), (([("x", 5)],), {"x": 5}),
         (([("p", -1), ("p", 1)],), {"p": 0}))),
    Family(
        "best_scorer", "pairs: list[tuple[str, int]]", "str",
        ("Return the name with the highest score in a list of pairs of name and score, the first one in a tie; an "
         "empty list gives an empty string.",
         "Who has won? Given (name, points) pairs, return the name of the pair with most points. Of equal pairs the "
         "earliest counts, and no pairs give an empty text.",
         "Find the pair with the largest number in a list of pairs and return its text. Earlier pairs win ties; "
         "without pairs return the empty string."),
        ("""
         best, n = "", None
         for w, v in pairs:
             if n is None or v > n:
                 best, n = w, v
         return best
         """,
         'return max(pairs, key=lambda p: p[1], default=("", 0))[0]',
         """
         if not pairs:
             return ""
         best = pairs[0]
         for p in pairs:
             if p[1] > best[1]:
                 best = p
         return best[0]
         """),
        (("wrong_operator", 0, "v > n", "v >= n"),
         ("wrong_initial_value", 0, '"", None', '"", 0'),
         ("missed_edge_case", 1, ', default=("", 0)', ""),
         ("off_by_one", 1, "p[1]", "p[0]"),
         ("wrong_return", 2, "return best[0]", "return best"),
         ("missed_edge_case", 2, 'if not pairs:\n    return ""\n', ""),
         ("wrong_operator", 2, "p[1] > best[1]", "p[1] < best[1]"),
         ("wrong_return", 0, "return best", "return n")),
        ((([("ann", 3), ("bob", 7)],), "bob"), (([],), ""), (([("x", 1), ("y", 1)],), "x"), (([("m", -2)],), "m"),
         (([("zoe", 9), ("al", 2)],), "zoe"))),
]
