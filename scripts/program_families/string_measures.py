"""Families of programs that count and compare the characters of strings."""

from program_families.family import Family

STRING_MEASURES = [
    Family(
        "count_vowels", "s: str", "int",
        ("Count the vowels a, e, i, o and u of a string, in lower and upper case.",
         "Return how many characters of a text are one of the letters aeiou or their capitals.",
         "Given a string, return the number of its vowels; the case of letters does not matter and y is no vowel."),
        ('return sum(ch in "aeiou" for ch in s.lower())',
         """
         count = 0
         for ch in s:
             if ch in "aeiouAEIOU":
                 count += 1
         return count
         """,
         """
         s = s.lower()
         return sum(s.count(ch) for ch in "aeiou")
         """),
        (("missed_edge_case", 0, "s.lower()", "s"),
         ("wrong_initial_value", 1, "count = 0", "count = 1"),
         ("missed_edge_case", 1, '"aeiouAEIOU"', '"aeiou"'),
         ("wrong_operator", 1, "if ch in", "if ch not in"),
         ("wrong_return", 1, "return count", "return len(s) - count"),
         ("missed_edge_case", 2, "s = s.lower()\n", ""),
         ("off_by_one", 1, "for ch in s:", "for ch in s[1:]:"),
         ("off_by_one", 2, '"aeiou"', '"aeio"')),
        ((("",), 0), (("Apple",), 2), (("rhythm",), 0), (("QUEUE",), 4), (("audio you",), 6))),
    Family(
        "is_palindrome", "s: str", "bool",
        ("Decide whether a string reads the same forwards and backwards when the case of letters is ignored. Every "
         "character counts.",
         "Return True if a text equals its own reverse, where capitals and small letters are the same.",
         "Check that the first character matches the last one, the second matches the last but one, and so on, "
         "regardless of case."),
        ("""
         s = s.lower()
         return s == s[::-1]
         """,
         """
         s = s.lower()
         for i in range(len(s) // 2):
             if s[i] != s[-1 - i]:
                 return False
         return True
         """,
         """
         s = s.lower()
         left, right = 0, len(s) - 1
         while left < right:
             if s[left] != s[right]:
                 return False
             left += 1
             right -= 1
         return True
         """),
        (("missed_edge_case", 0, "s = s.lower()\n", ""),
         ("off_by_one", 1, "s[-1 - i]", "s[-i]"),
         ("wrong_return", 1, "return True", "return False"),
         ("wrong_operator", 1, "!=", "=="),
         ("off_by_one", 2, "len(s) - 1", "len(s)"),
         ("wrong_return", 2, "!= s[right]:\n        return False", "== s[right]:\n        return True"),
         ("off_by_one", 1, "len(s) // 2", "len(s) // 2 - 1"),
         ("missed_edge_case", 0, "", 'if s == "":\n    return False\n')),
        ((("",), True), (("Anna",), True), (("ab",), False), (("abca",), False), (("radar",), True), (("x",), True))),
    Family(
        "are_anagrams", "s: str, t: str", "bool",
        ("Decide whether two strings are anagrams: the same characters, each equally often, with case ignored.",
         "Return True if the characters of the first text can be put in another order to give the second text, where "
         "capitals count as small letters.",
         "Check that two strings have the same characters with the same counts, regardless of order and case."),
        ("return sorted(s.lower()) == sorted(t.lower())",
         """
         from collections import Counter
         return Counter(s.lower()) == Counter(t.lower())
         """,
         """
         s, t = s.lower(), t.lower()
         return len(s) == len(t) and all(s.count(ch) == t.count(ch) for ch in s)
         """),
        (("missed_edge_case", 0, "sorted(t.lower())", "sorted(t)"),
         ("missed_edge_case", 1, "Counter(s.lower()) == Counter(t.lower())", "set(s.lower()) == set(t.lower())"),
         ("wrong_operator", 2, "and all", "or all"),
         ("missed_edge_case", 2, "len(s) == len(t) and ", ""),
         ("wrong_return", 0, "sorted(s.lower()) == sorted(t.lower())", "s.lower() == t.lower()[::-1]"),
         ("off_by_one", 2, "for ch in s)", "for ch in s[1:])"),
         ("wrong_operator", 0, "==", "!="),
         ("missed_edge_case", 0, "", "if s == t:\n    return False\n")),
        ((("Listen", "siLent"), True), (("aab", "abb"), False), (("ab", "abc"), False), (("abc", "xyz"), False),
         (("ab", "cb"), False), (("", ""), True), (("Tea", "eaT"), True))),
    Family(
        "brackets_match", "s: str", "bool",
        ("Decide whether the brackets (), [] and {} of a string are closed in the right order. Other characters are "
         "ignored.",
         "Return True if every opening bracket of a text, round, square or curly, has its closing partner and pairs "
         "are nested properly.",
         "Check the nesting of the three kinds of brackets in a string; text without brackets is fine."),
        ("""
         stack = []
         for ch in s:
             if ch in "([{":
                 stack.append(ch)
             elif ch in ")]}":
                 if not stack or "([{".index(stack.pop()) != ")]}".index(ch):
                     return False
         return not stack
         """,
         """
         s = "".join(ch for ch in s if ch in "()[]{}")
         while "()" in s or "[]" in s or "{}" in s:
             s = s.replace("()", "").replace("[]", "").replace("{}", "")
         return s == ""
         """,
         """
         d = {")": "(", "]": "[", "}": "{"}
         stack = []
         for ch in s:
             if ch in d.values():
                 stack.append(ch)
             elif ch in d:
                 if stack[-1:] != [d[ch]]:
                     return False
                 stack.pop()
         return len(stack) == 0
         """),
        (("missed_edge_case", 0, "not stack or ", ""),
         ("wrong_return", 0, "return not stack", "return True"),
         ("wrong_operator", 1, 's == ""', 's != ""'),
         ("missed_edge_case", 1, ' or "{}" in s', ""),
         ("wrong_operator", 0, "!=", "=="),
         ("off_by_one", 2, "len(stack) == 0", "len(stack) <= 1"),
         ("missed_edge_case", 1, 's = "".join(ch for ch in s if ch in "()[]{}")\n', ""),
         ("wrong_return", 2, "return False", "return True")),
        ((("",), True), (("a(b)",), True), (("([)]",), False), (("(",), False), ((")",), False), (("{[]}",), True),
         (("{}",), True), (("([]{})",), True))),
    Family(
        "count_characters", "s: str", "dict[str, int]",
        ("Count how often each character occurs in a string; return a dict from character to count.",
         "Map every character of a text to the number of its occurrences. An empty text gives an empty dict.",
         "Build a table of character frequencies, as a dict, for a given string."),
        ("""
         out = {}
         for ch in s:
             out[ch] = out.get(ch, 0) + 1
         return out
         """,
         "return {ch: s.count(ch) for ch in s}",
         """
         from collections import Counter
         return dict(Counter(s))
         """),
        (("wrong_initial_value", 0, "out.get(ch, 0)", "out.get(ch, 1)"),
         ("missed_edge_case", 0, "out.get(ch, 0) + 1", "1"),
         ("wrong_return", 1, "{ch: s.count(ch) for ch in s}", "{s.count(ch): ch for ch in s}"),
         ("missed_edge_case", 0, "out.get(ch, 0)", "out[ch]"),
         ("wrong_return", 2, "dict(Counter(s))", "len(Counter(s))"),
         ("off_by_one", 0, "for ch in s:", "for ch in s[1:]:"),
         ("wrong_operator", 0, ") + 1", ") - 1"),
         ("off_by_one", 1, "s.count(ch) for", "s.count(ch) - 1 for")),
        ((("",), {}), (("aab",), {"a": 2, "b": 1}), (("x",), {"x": 1}), (("a a",), {"a": 2, " ": 1})),
        kin="character counts"),
    Family(
        "count_overlapping", "s: str, t: str", "int",
        ("Count the places of the first string at which the second one, which is not empty, occurs. Occurrences may "
         "overlap.",
         "Return how often a non-empty pattern, the second argument, is found in a text, the first argument; "
         "overlapping finds count separately.",
         "Given a text and a pattern of at least one character, return the number of positions at which the pattern "
         "starts in the text."),
        ("return sum(s[i:i + len(t)] == t for i in range(len(s) - len(t) + 1))",
         """
         count = 0
         for i in range(len(s)):
             if s.startswith(t, i):
                 count += 1
         return count
         """,
         """
         count, i = 0, s.find(t)
         while i >= 0:
             count += 1
             i = s.find(t, i + 1)
         return count
         """),
        (("missed_edge_case", "return s.count(t)"),
         ("off_by_one", 0, "len(s) - len(t) + 1", "len(s) - len(t)"),
         ("wrong_operator", 2, "i >= 0", "i > 0"),
         ("missed_edge_case", 2, "i + 1", "i + len(t)"),
         ("wrong_initial_value", 1, "count = 0", "count = 1"),
         ("wrong_return", 2, "return count", "return i"),
         ("off_by_one", 1, "range(len(s))", "range(1, len(s))"),
         ("wrong_operator", 1, "s.startswith(t, i)", "s.endswith(t, i)")),
        ((("aaa", "aa"), 2), (("abcabc", "abc"), 2), (("abc", "x"), 0), (("", "a"), 0), (("abcbd", "b"), 2))),
    Family(
        "is_subsequence", "s: str, t: str", "bool",
        ("Decide whether the first string can be made from the second by deleting characters, without a change of "
         "order.",
         "Return True if all characters of the first text occur in the second one in the same order, not necessarily "
         "next to each other.",
         "Is the first argument a subsequence of the second argument? Both are strings; the empty string always is."),
        ("""
         i = 0
         for ch in t:
             if i < len(s) and s[i] == ch:
                 i += 1
         return i == len(s)
         """,
         """
         g = iter(t)
         return all(ch in g for ch in s)
         """,
         """
         for ch in s:
             i = t.find(ch)
             if i < 0:
                 return False
             t = t[i + 1:]
         return True
         """),
        (("missed_edge_case", 0, "i < len(s) and ", ""),
         ("missed_edge_case", 1, "iter(t)", "list(t)"),
         ("off_by_one", 2, "t[i + 1:]", "t[i:]"),
         ("wrong_return", 0, "i == len(s)", "i > 0"),
         ("wrong_operator", 2, "i < 0", "i > 0"),
         ("wrong_initial_value", 0, "i = 0", "i = 1"),
         ("wrong_return", 2, "return True", "return len(t) > 0"),
         ("wrong_operator", 1, "all(", "any(")),
        ((("ace", "abcde"), True), (("aec", "abcde"), False), (("", "x"), True), (("aa", "a"), False),
         (("a", "abc"), True), (("ab", "b"), False), (("ba", "ab"), False), (("c", "abc"), True))),
    Family(
        "count_differences", "s: str, t: str", "int",
        ("Count the positions at which two strings of equal length differ.",
         "Return the Hamming distance of two texts, which have the same number of characters.",
         "Compare two equally long strings character by character and return how many pairs are not equal."),
        ("return sum(a != b for a, b in zip(s, t))",
         """
         count = 0
         for i in range(len(s)):
             if s[i] != t[i]:
                 count += 1
         return count
         """),
        (("wrong_operator", 0, "a != b", "a == b"),
         ("off_by_one", 1, "range(len(s))", "range(1, len(s))"),
         ("off_by_one", 1, "range(len(s))", "range(len(s) - 1)"),
         ("wrong_initial_value", 1, "count = 0", "count = 1"),
         ("wrong_return", 1, "return count", "return len(s) - count"),
         ("wrong_return", 1, "count += 1\nreturn", "count += 1\n    return"),
         ("wrong_operator", 2, "len(s) - sum", "len(s) + sum"),
         ("missed_edge_case", 1, "", 'if s == t:\n    return 1\n')),
        ((("abc", "abd"), 1), (("", ""), 0), (("xbc", "abz"), 2), (("same", "same"), 0)),
        odd=(("another_algorithm", "return len(s) - sum(map(str.__eq__, s, t))"),)),
    Family(
        "has_all_letters", "s: str", "bool",
        ("Decide whether a string has every letter from a to z at least once, in upper or lower case.",
         "Return True if a text is a pangram: none of the 26 letters is missing, and case does not matter.",
         "Check that all letters of the English alphabet occur in a string, as capitals or small letters."),
        ('return all(ch in s.lower() for ch in "abcdefghijklmnopqrstuvwxyz")',
         'return len({ch for ch in s.lower() if "a" <= ch <= "z"}) == 26',
         'return set("abcdefghijklmnopqrstuvwxyz") <= set(s.lower())',
         """
         for ch in "abcdefghijklmnopqrstuvwxyz":
             if ch not in s.lower():
                 return False
         return True
         """),
        (("missed_edge_case", 0, "s.lower()", "s"),
         ("wrong_operator", 0, "all(", "any("),
         ("off_by_one", 1, "== 26", "== 25"),
         ("missed_edge_case", 1, ' if "a" <= ch <= "z"', ""),
         ("wrong_operator", 2, "<=", "<"),
         ("missed_edge_case", 1, '{ch for ch in s.lower() if "a" <= ch <= "z"}',
          '[ch for ch in s.lower() if "a" <= ch <= "z"]'),
         ("wrong_operator", 2, "<=", ">="),
         ("off_by_one", 0, "xyz", "xy")),
        ((("The five boxing wizards jump quickly",), True), (("abcdefghijklmnopqrstuvwxyz",), True),
         (("hello",), False), (("",), False), (("abcdefghijklmnopqrstuvwxy",), False),
         (("Waltz bad nymph for quick jigs vex",), True))),
    Family(
        "is_rotation", "s: str, t: str", "bool",
        ("Decide whether the first string is a rotation of the second: some characters from its front moved to its "
         "end. A string is a rotation of itself.",
         "Return True if the second text can be cut into two parts, of which one may be empty, that give the first "
         "text when they are joined in the opposite order.",
         "Check whether two strings are equal up to a circular shift."),
        ("return len(s) == len(t) and s in t + t",
         """
         if len(s) != len(t):
             return False
         return s == t or any(t[i:] + t[:i] == s for i in range(len(t)))
         """),
        (("missed_edge_case", 0, "len(s) == len(t) and ", ""),
         ("wrong_operator", 0, "t + t", "t"),
         ("off_by_one", 1, "range(len(t))", "range(len(t) - 1)"),
         ("missed_edge_case", 1, "s == t or ", ""),
         ("wrong_operator", 1, "t[i:] + t[:i]", "t[:i] + t[i:]"),
         ("wrong_return", 1, "return False", "return True"),
         ("wrong_operator", 0, "==", "!="),
         ("off_by_one", 2, "s[1:] + s[:1]", "s[2:] + s[:1]"),
         ("wrong_return", 2, "return True", "return False")),
        ((("cab", "abc"), True), (("ab", "abc"), False), (("", ""), True), (("acb", "abc"), False),
         (("aa", "aa"), True), (("abab", "baba"), True)),
        odd=(("another_algorithm", """
              for ch in s:
                  if s == t:
                      return True
                  s = s[1:] + s[:1]
              return s == t
              """),))]
