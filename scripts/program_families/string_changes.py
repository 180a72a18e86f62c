"""Families of programs that make a string of another one."""

from program_families.family import Family

STRING_CHANGES = [
    Family(
        "encode_runs", "s: str", "str",
        ("Replace every run of equal characters of a string by the character and the length of the run, so aab becomes "
         "a2b1.",
         "Compress a text by run lengths: each group of equal neighbours is written as the character followed by its "
         "count, also for groups of one.",
         "Return the run-length encoding of a string, with the count after each character; an empty string stays "
         "empty."),
        ("""
         out = ""
         i = 0
         while i < len(s):
             j = i
             while j < len(s) and s[j] == s[i]:
                 j += 1
             out += s[i] + str(j - i)
             i = j
         return out
         """,
         """
         from itertools import groupby
         return "".join(ch + str(len(list(g))) for ch, g in groupby(s))
         """,
         """
         parts = []
         for ch in s:
             if parts and parts[-1][0] == ch:
                 parts[-1][1] += 1
             else:
                 parts.append([ch, 1])
         return "".join(ch + str(n) for ch, n in parts)
         """),
        (("off_by_one", 0, "str(j - i)", "str(j - i - 1)"),
         ("missed_edge_case", 0, "j < len(s) and ", ""),
         ("wrong_initial_value", 2, "[ch, 1]", "[ch, 0]"),
         ("wrong_return", 1, "ch + str(len(list(g)))", "str(len(list(g))) + ch"),
         ("missed_edge_case", 2, "parts and ", ""),
         ("wrong_operator", 2, "parts[-1][0] == ch", "parts[-1][0] != ch"),
         ("wrong_return", 2, "ch + str(n)", "ch * n"),
         ("wrong_initial_value", 1, "return", "return s[:1] +")),
        ((("",), ""), (("aaab",), "a3b1"), (("abba",), "a1b2a1"), (("z",), "z1")),
        kin="run lengths"),
    Family(
        "decode_runs", "pairs: list[tuple[str, int]]", "str",
        ("Build a string from a list of pairs of a text and a count: each text is repeated as often as its count "
         "states.",
         "Given pairs (text, n), write every text n times, one pair after the other, and return the string.",
         "Undo a run-length encoding that is given as a list of (text, count) pairs; an empty list gives an empty "
         "string."),
        ('return "".join(ch * n for ch, n in pairs)',
         """
         out = ""
         for ch, n in pairs:
             out += ch * n
         return out
         """,
         """
         out = []
         for ch, n in pairs:
             for i in range(n):
                 out.append(ch)
         return "".join(out)
         """),
        (("off_by_one", 2, "range(n)", "range(n - 1)"),
         ("wrong_operator", 0, "ch * n", "ch + str(n)"),
         ("wrong_initial_value", 1, 'out = ""', 'out = " "'),
         ("wrong_return", 2, '"".join(out)', '" ".join(out)'),
         ("wrong_operator", 1, "out += ch", "out = ch"),
         ("wrong_return", 1, "    out += ch * n\nreturn out", "    out += ch * n\n    return out"),
         ("off_by_one", 0, "in pairs", "in pairs[1:]"),
         ("missed_edge_case", 2, "    for i in range(n):\n        out.append(ch)", "    out.append(ch)")),
        ((([("a", 3), ("b", 1)],), "aaab"), (([],), ""), (([("x", 0), ("y", 2)],), "yy"), (([("z", 1)],), "z"),
         (([("ab", 2), ("c", 2)],), "ababcc")),
        kin="run lengths"),
    Family(
        "shift_letters", "s: str, k: int", "str",
        ("Move every small letter a to z of a string k places forward in the alphabet, from z on to a again; other "
         "characters stay. The number k is 0 or more.",
         "Encrypt a text with the Caesar cipher: shift letters from a to z by k, a non-negative number that may exceed "
         "26, and copy the rest.",
         "Given a string and a shift of at least 0, replace each lower-case letter by the one that many places later "
         "in the circular alphabet and leave everything else alone."),
        ("""
         out = ""
         for ch in s:
             if "a" <= ch <= "z":
                 out += chr((ord(ch) - 97 + k) % 26 + 97)
             else:
                 out += ch
         return out
         """,
         """
         t = "abcdefghijklmnopqrstuvwxyz"
         return "".join(t[(t.index(ch) + k) % 26] if ch in t else ch for ch in s)
         """,
         """
         k %= 26
         t = "abcdefghijklmnopqrstuvwxyz"
         return s.translate(str.maketrans(t, t[k:] + t[:k]))
         """),
        (("missed_edge_case", 1, "(t.index(ch) + k) % 26", "t.index(ch) + k"),
         ("wrong_operator", 0, "- 97 + k", "- 97 - k"),
         ("off_by_one", 0, "% 26", "% 25"),
         ("missed_edge_case", 0, "    else:\n        out += ch\n", ""),
         ("missed_edge_case", 2, "k %= 26\n", ""),
         ("wrong_operator", 2, "t[k:] + t[:k]", "t[:k] + t[k:]"),
         ("wrong_initial_value", 0, 'out = ""', "out = s"),
         ("wrong_return", 1, '"".join(t[(t.index(ch) + k) % 26] if ch in t else ch for ch in s)',
          '[t[(t.index(ch) + k) % 26] if ch in t else ch for ch in s]')),
        ((("abc", 1), "bcd"), (("xyz", 3), "abc"), (("hi, you", 0), "hi, you"), (("a b", 27), "b c"),
         (("Ab", 1), "Ac"))),
    Family(
        "first_unique", "s: str", "str",
        ("Return the first character of a string that occurs exactly once in it, or an empty string if there is none.",
         "Find the earliest character of a text without a second occurrence. If every character is repeated, or the "
         "text is empty, return the empty string.",
         "Of the characters that appear a single time in a string, give the one furthest to the left; with no such "
         "character give an empty text."),
        ("""
         for ch in s:
             if s.count(ch) == 1:
                 return ch
         return ""
         """,
         """
         d = {}
         for ch in s:
             d[ch] = d.get(ch, 0) + 1
         for ch in s:
             if d[ch] == 1:
                 return ch
         return ""
         """,
         'return next((ch for ch in s if s.find(ch) == s.rfind(ch)), "")'),
        (("wrong_operator", 0, "== 1", ">= 1"),
         ("missed_edge_case", 2, ', "")', ")"),
         ("missed_edge_case", 0, 'return ""', "return s[0]"),
         ("off_by_one", 1, "d[ch] == 1", "d[ch] == 2"),
         ("wrong_initial_value", 1, "d.get(ch, 0)", "d.get(ch, 1)"),
         ("wrong_operator", 2, "==", "!="),
         ("off_by_one", 0, "for ch in s:", "for ch in s[1:]:"),
         ("wrong_return", 0, "return ch", "return s.index(ch)")),
        ((("aabcd",), "b"), (("aabb",), ""), (("",), ""), (("z",), "z"), (("xyzy",), "x")),
        kin="character counts"),
    Family(
        "swap_case", "s: str", "str",
        ("Turn small letters of a string into capitals and capitals into small letters. Other characters stay.",
         "Return a text in which the case of every letter is the opposite of what it was.",
         "Exchange upper and lower case in a string; digits, spaces and signs remain as they are."),
        ("return s.swapcase()",
         'return "".join(ch.lower() if ch.isupper() else ch.upper() for ch in s)',
         """
         out = ""
         for ch in s:
             if ch.isupper():
                 out += ch.lower()
             elif ch.islower():
                 out += ch.upper()
             else:
                 out += ch
         return out
         """),
        (("wrong_operator", 1, "ch.isupper()", "ch.islower()"),
         ("wrong_return", 0, "swapcase", "capitalize"),
         ("missed_edge_case", 2, "    else:\n        out += ch\n", ""),
         ("wrong_operator", 2, "out += ch.upper()", "out += ch.lower()"),
         ("wrong_initial_value", 2, 'out = ""', "out = s"),
         ("wrong_return", 0, "swapcase", "upper"),
         ("off_by_one", 2, "for ch in s:", "for ch in s[:-1]:"),
         ("missed_edge_case", 1, "", "if s.islower():\n    return s\n")),
        ((("aB c1",), "Ab C1"), (("",), ""), (("Hello",), "hELLO"), (("ok",), "OK"))),
    Family(
        "pad_left", "s: str, n: int", "str",
        ("Put stars in front of a string until it has n characters. A string that is already that long stays as it is.",
         "Fill a text with * on its left up to a given width; texts of that width or more are returned unchanged.",
         "Given a string and a minimal length, return the string with as many leading stars as are missing."),
        ('return "*" * (n - len(s)) + s',
         """
         while len(s) < n:
             s = "*" + s
         return s
         """,
         'return s.rjust(n, "*")'),
        (("wrong_operator", 0, '"*" * (n - len(s)) + s', 's + "*" * (n - len(s))'),
         ("off_by_one", 1, "len(s) < n", "len(s) <= n"),
         ("wrong_operator", 2, "rjust", "ljust"),
         ("wrong_operator", 0, "n - len(s)", "len(s) - n"),
         ("missed_edge_case", 2, 's.rjust(n, "*")', 's.rjust(n, "*")[:n]'),
         ("off_by_one", 0, "n - len(s)", "n - len(s) - 1"),
         ("missed_edge_case", 1, "", 'if not s:\n    return ""\n'),
         ("wrong_return", 1, '"*" + s\nreturn', '"*" + s\n    return')),
        ((("ab", 4), "**ab"), (("abcdef", 3), "abcdef"), (("", 3), "***"), (("xyz", 3), "xyz")))]
