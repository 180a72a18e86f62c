"""Families of programs that make a list from lists."""

from program_families.family import Family

LIST_CHANGES = [
    Family(
        "running_maximum", "xs: list[int]", "list[int]",
        ("For every position of a list of integers, return the largest number up to and including that position.",
         "Return a list of the same length in which each element is the maximum of the input from its start to there.",
         "Replace each number of a list by the highest value that has occurred so far. Return a new list."),
        ("""
         out = []
         for x in xs:
             out.append(x if not out or x > out[-1] else out[-1])
         return out
         """,
         "return [max(xs[:i + 1]) for i in range(len(xs))]",
         """
         from itertools import accumulate
         return list(accumulate(xs, max))
         """),
        (("off_by_one", 1, "xs[:i + 1]", "xs[:i]"),
         ("wrong_operator", 0, "x > out[-1]", "x < out[-1]"),
         ("missed_edge_case", 0, "not out or ", ""),
         ("wrong_operator", 2, "xs, max", "xs, min"),
         ("wrong_initial_value",
          "best = 0\nout = []\nfor x in xs:\n    best = max(best, x)\n    out.append(best)\nreturn out"),
         ("wrong_return", 1, "max(xs[:i + 1])", "max(xs)"),
         ("off_by_one", 1, "range(len(xs))", "range(1, len(xs))"),
         ("missed_edge_case", 2, "", "if xs[0] < 0:\n    return xs\n")),
        ((([3, 1, 4, 1, 5],), [3, 3, 4, 4, 5]), (([],), []), (([-5, -7],), [-5, -5]), (([2],), [2])),
        kin="running values"),
    Family(
        "running_total", "xs: list[int]", "list[int]",
        ("For every position of a list of integers, return the sum of the numbers up to and including that position.",
         "Return the cumulative sums of a list as a new list of the same length.",
         "Replace each number of a list by the total of itself and all numbers before it. Return a new list."),
        ("""
         out = []
         total = 0
         for x in xs:
             total += x
             out.append(total)
         return out
         """,
         "return [sum(xs[:i + 1]) for i in range(len(xs))]",
         """
         from itertools import accumulate
         return list(accumulate(xs))
         """),
        (("wrong_initial_value", 0, "total = 0", "total = 1"),
         ("off_by_one", 1, "xs[:i + 1]", "xs[:i]"),
         ("off_by_one", 0, "    total += x\n    out.append(total)", "    out.append(total)\n    total += x"),
         ("wrong_return", 0, "return out", "return total"),
         ("wrong_operator", 0, "total += x", "total -= x"),
         ("wrong_operator", 0, "total += x", "total = x"),
         ("wrong_return", 2, "list(accumulate(xs))", "list(accumulate(xs))[-1]"),
         ("missed_edge_case", 1, "", "if xs[0] == 0:\n    return xs\n")),
        ((([1, 2, 3],), [1, 3, 6]), (([],), []), (([-1, 1, 4],), [-1, 0, 4]), (([5],), [5])),
        kin="running values"),
    Family(
        "merge_sorted", "xs: list[int], ys: list[int]", "list[int]",
        ("Merge two ascending lists of integers into one ascending list with all their elements.",
         "Given two sorted lists, return a sorted list of the elements of both; equal numbers are all retained.",
         "Combine two lists that are each in ascending order to a new list in ascending order."),
        ("""
         out = []
         i = j = 0
         while i < len(xs) and j < len(ys):
             if xs[i] <= ys[j]:
                 out.append(xs[i])
                 i += 1
             else:
                 out.append(ys[j])
                 j += 1
         return out + xs[i:] + ys[j:]
         """,
         "return sorted(xs + ys)",
         """
         xs, ys = list(xs), list(ys)
         out = []
         while xs and ys:
             out.append(xs.pop(0) if xs[0] <= ys[0] else ys.pop(0))
         return out + xs + ys
         """),
        (("missed_edge_case", 0, " + ys[j:]", ""),
         ("wrong_operator", 0, "<=", ">="),
         ("wrong_return", 1, "sorted(xs + ys)", "xs + ys"),
         ("wrong_operator", 2, "while xs and ys", "while xs or ys"),
         ("missed_edge_case", 1, "sorted(xs + ys)", "sorted(set(xs + ys))"),
         ("off_by_one", 0, "xs[i:]", "xs[i + 1:]"),
         ("wrong_initial_value", 0, "i = j = 0", "i = j = 1"),
         ("missed_edge_case", 2, "", "if not xs:\n    return []\n")),
        ((([1, 4], [2, 3]), [1, 2, 3, 4]), (([], [1, 2]), [1, 2]), (([5, 6], [1]), [1, 5, 6]), (([2, 2], [2]),
         [2, 2, 2]), (([], []), []), (([0, 9], [3]), [0, 3, 9]))),
    Family(
        "rotate_right", "xs: list[int], k: int", "list[int]",
        ("Move the last element of a list to its front, k times, and return the new list. The number k is 0 or more "
         "and may exceed the length; the list may be empty.",
         "Return a list rotated to the right by k places, for any k of at least 0. An empty list stays empty.",
         "Shift all elements k positions to the right; what leaves the list at its end comes back at its start. Handle "
         "an empty list and shifts longer than the list."),
        ("""
         if not xs:
             return []
         k %= len(xs)
         return xs[-k:] + xs[:-k]
         """,
         """
         if not xs:
             return []
         k = len(xs) - k % len(xs)
         return xs[k:] + xs[:k]
         """,
         "return [xs[(i - k) % len(xs)] for i in range(len(xs))]"),
        (("missed_edge_case", 0, "k %= len(xs)\n", ""),
         ("wrong_operator", 2, "i - k", "i + k"),
         ("missed_edge_case", 1, "if not xs:\n    return []\n", ""),
         ("wrong_return", 0, "xs[-k:] + xs[:-k]", "xs[k:] + xs[:k]"),
         ("off_by_one", 3, "range(k)", "range(k + 1)"),
         ("off_by_one", 2, "(i - k)", "(i - k + 1)"),
         ("wrong_operator", 3, "xs.insert(0, xs.pop())", "xs.append(xs.pop(0))"),
         ("missed_edge_case", 3, "    if xs:\n        xs.insert", "    xs.insert")),
        ((([1, 2, 3, 4], 1), [4, 1, 2, 3]), (([1, 2, 3], 4), [3, 1, 2]), (([], 2), []), (([5, 6, 7], 0), [5, 6, 7]),
         (([1, 2, 3, 4, 5], 2), [4, 5, 1, 2, 3])),
        odd=(("another_algorithm", """
              xs = list(xs)
              for i in range(k):
                  if xs:
                      xs.insert(0, xs.pop())
              return xs
              """),)),
    Family(
        "split_chunks", "xs: list[int], k: int", "list[list[int]]",
        ("Cut a list into pieces of k elements, k being at least 1; the last piece may be shorter. Return the list of "
         "pieces.",
         "Split a list into consecutive sublists of a given positive size. What remains at the end is a smaller "
         "sublist, and an empty list has none.",
         "Group the elements of a list, in order, into lists of length k, where only the last one may have fewer."),
        ("return [xs[i:i + k] for i in range(0, len(xs), k)]",
         """
         out = []
         for i, x in enumerate(xs):
             if i % k == 0:
                 out.append([])
             out[-1].append(x)
         return out
         """,
         """
         out = []
         for x in xs:
             if not out or len(out[-1]) == k:
                 out.append([x])
             else:
                 out[-1].append(x)
         return out
         """),
        (("off_by_one", 0, "i + k]", "i + k - 1]"),
         ("missed_edge_case", 0, "len(xs), k", "len(xs) - k + 1, k"),
         ("wrong_operator", 1, "i % k == 0", "i // k == 0"),
         ("missed_edge_case", 2, "not out or ", ""),
         ("off_by_one", 2, "== k", "== k - 1"),
         ("wrong_return", 0, "xs[i:i + k]", "xs[i]"),
         ("wrong_initial_value", 0, "range(0,", "range(1,"),
         ("wrong_initial_value", 1, "out = []", "out = [[]]")),
        ((([1, 2, 3, 4, 5], 2), [[1, 2], [3, 4], [5]]), (([], 3), []), (([1, 2, 3], 3), [[1, 2, 3]]),
         (([4, 5], 1), [[4], [5]]), (([1], 4), [[1]]))),
    Family(
        "drop_repeats", "xs: list[int]", "list[int]",
        ("Remove repeated numbers from a list; each number stays at the place of its first occurrence.",
         "Return the different elements of a list of integers in the order in which they first appear.",
         "Copy a list without duplicates, where the earliest of equal elements is the one that stays."),
        ("""
         out = []
         for x in xs:
             if x not in out:
                 out.append(x)
         return out
         """,
         "return list(dict.fromkeys(xs))",
         """
         seen = set()
         out = []
         for x in xs:
             if x in seen:
                 continue
             seen.add(x)
             out.append(x)
         return out
         """,
         "return [x for i, x in enumerate(xs) if x not in xs[:i]]"),
        (("wrong_return", 1, "list(dict.fromkeys(xs))", "sorted(set(xs))"),
         ("wrong_operator", 0, "not in", "in"),
         ("off_by_one", 3, "xs[:i]", "xs[:i + 1]"),
         ("wrong_operator", 3, "xs[:i]", "xs[i + 1:]"),
         ("missed_edge_case", "return [x for x in xs if xs.count(x) == 1]"),
         ("missed_edge_case", 2, "    seen.add(x)\n", ""),
         ("missed_edge_case",
          "out = []\nfor x in xs:\n    if not out or out[-1] != x:\n        out.append(x)\nreturn out"),
         ("wrong_return", 2, "return out", "return seen"),
         ("wrong_initial_value", 2, "seen = set()", "seen = set(xs)")),
        ((([3, 1, 3, 2, 1],), [3, 1, 2]), (([],), []), (([1, 2, 1],), [1, 2]), (([5, 5],), [5]))),
    Family(
        "window_sums", "xs: list[int], k: int", "list[int]",
        ("Return the sums of all windows of k neighbouring elements of a list, from left to right. The number k is at "
         "least 1; a list with fewer than k elements has no window.",
         "Slide a window of a given positive width along a list and collect the sum at every full position; the result "
         "is empty if the window is wider than the list.",
         "Add up each run of exactly k consecutive numbers of a list, k being positive, and return the list of "
         "sums, which may be empty."),
        ("return [sum(xs[i:i + k]) for i in range(len(xs) - k + 1)]",
         """
         out = []
         total = 0
         for i, x in enumerate(xs):
             total += x
             if i >= k:
                 total -= xs[i - k]
             if i >= k - 1:
                 out.append(total)
         return out
         """,
         """
         if k > len(xs):
             return []
         out = [sum(xs[:k])]
         for i in range(k, len(xs)):
             out.append(out[-1] + xs[i] - xs[i - k])
         return out
         """),
        (("off_by_one", 0, "len(xs) - k + 1", "len(xs) - k"),
         ("off_by_one", 1, "i >= k - 1", "i >= k"),
         ("wrong_operator", 1, "if i >= k:", "if i > k:"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("missed_edge_case", 0, "range(len(xs) - k + 1)", "range(len(xs))"),
         ("wrong_return", 0, "sum(xs[i:i + k])", "xs[i:i + k]"),
         ("wrong_operator", 1, "total -= xs[i - k]", "total += xs[i - k]"),
         ("missed_edge_case", 2, "if k > len(xs):\n    return []\n", "")),
        ((([1, 2, 3, 4], 2), [3, 5, 7]), (([1, 2], 3), []), (([5], 1), [5]), (([], 1), []), (([1, -1, 2], 3), [2]))),
    Family(
        "differences", "xs: list[int]", "list[int]",
        ("Return the list of differences between each element of a list and the element before it.",
         "For every pair of neighbours of a list, subtract the left one from the right one and collect the results; "
         "fewer than two elements give an empty list.",
         "Compute the changes from one number to the next in a list; the result has one element less, or is empty."),
        ("return [xs[i + 1] - xs[i] for i in range(len(xs) - 1)]",
         "return [b - a for a, b in zip(xs, xs[1:])]",
         """
         out = []
         last = None
         for x in xs:
             if last is not None:
                 out.append(x - last)
             last = x
         return out
         """),
        (("off_by_one", 0, "len(xs) - 1", "len(xs)"),
         ("wrong_operator", 1, "b - a", "a - b"),
         ("wrong_initial_value", 2, "last = None", "last = 0"),
         ("wrong_return", 1, "b - a", "abs(b - a)"),
         ("missed_edge_case", 2, "if last is not None:", "if last:"),
         ("off_by_one", 1, "xs[1:]", "xs[2:]"),
         ("wrong_operator", 0, "xs[i + 1] - xs[i]", "xs[i + 1] + xs[i]"),
         ("wrong_return", 2, "return out", "return last")),
        ((([1, 4, 2],), [3, -2]), (([],), []), (([5],), []), (([0, 3],), [3]), (([7, 7, 9],), [0, 2])),
        kin="steps"),
    Family(
        "interleave", "xs: list[int], ys: list[int]", "list[int]",
        ("Take elements from two lists in turn, starting with the first list; when one list is used up, append what is "
         "left of the other.",
         "Combine two lists to x0, y0, x1, y1 and so on. The surplus elements of the longer list come last.",
         "Alternate between the elements of the first and the second list and end with the remainder of the longer "
         "one."),
        ("""
         out = []
         for a, b in zip(xs, ys):
             out += [a, b]
         n = min(len(xs), len(ys))
         return out + xs[n:] + ys[n:]
         """,
         """
         out = []
         for i in range(max(len(xs), len(ys))):
             if i < len(xs):
                 out.append(xs[i])
             if i < len(ys):
                 out.append(ys[i])
         return out
         """),
        (("missed_edge_case", 0, " + xs[n:] + ys[n:]", ""),
         ("wrong_operator", 0, "min(len", "max(len"),
         ("off_by_one", 1, "if i < len(xs):", "if i < len(xs) - 1:"),
         ("wrong_operator", 0, "[a, b]", "[b, a]"),
         ("wrong_operator", 1, "range(max", "range(min"),
         ("wrong_initial_value", 1, "out = []", "out = xs[:1]"),
         ("missed_edge_case", 0, " + ys[n:]", ""),
         ("wrong_operator", 2, "while xs or ys", "while xs and ys"),
         ("wrong_return", 2, "return out", "return ys")),
        ((([1, 3], [2, 4]), [1, 2, 3, 4]), (([1], [2, 3, 4]), [1, 2, 3, 4]), (([], []), []),
         (([5, 6, 7], [0]), [5, 0, 6, 7])),
        odd=(("another_algorithm", """
              xs, ys = list(xs), list(ys)
              out = []
              while xs or ys:
                  if xs:
                      out.append(xs.pop(0))
                  if ys:
                      out.append(ys.pop(0))
              return out
              """),)),
    Family(
        "evens_first", "xs: list[int]", "list[int]",
        ("Return a list with all even numbers first and all odd numbers after them; inside both groups the order "
         "stays.",
         "Rearrange a list of integers so that even elements precede odd ones, without other changes of order.",
         "Give the even elements of a list in their order, followed by the odd elements in their order."),
        ("return [x for x in xs if x % 2 == 0] + [x for x in xs if x % 2 != 0]",
         "return sorted(xs, key=lambda x: x % 2)",
         """
         left, right = [], []
         for x in xs:
             if x % 2:
                 right.append(x)
             else:
                 left.append(x)
         return left + right
         """),
        (("wrong_return", 2, "left + right", "right + left"),
         ("wrong_operator", 0, "x % 2 != 0", "x % 2 == 0"),
         ("wrong_operator", 1, ", key=lambda x: x % 2", ""),
         ("off_by_one", 1, "x % 2", "x % 3"),
         ("missed_edge_case", 2, "        right.append(x)", "        continue"),
         ("wrong_initial_value", 2, "left, right = [], []", "left, right = [0], []"),
         ("wrong_operator", 0, " != 0", " > 1"),
         ("off_by_one", 2, "for x in xs:", "for x in xs[1:]:")),
        ((([3, 2, 1, 4],), [2, 4, 3, 1]), (([],), []), (([1, 3],), [1, 3]), (([6, 8],), [6, 8]),
         (([-1, -2],), [-2, -1])),
        kin="partition"),
    Family(
        "zeros_last", "xs: list[int]", "list[int]",
        ("Return a list with all zeros moved to its end; the other numbers stay in their order.",
         "Put the elements of a list that are not 0 first, in order, and then as many zeros as the list has.",
         "Rearrange a list of integers so that its zeros come last and nothing else changes."),
        ("""
         out = [x for x in xs if x != 0]
         return out + [0] * (len(xs) - len(out))
         """,
         "return sorted(xs, key=lambda x: x == 0)",
         """
         out = []
         count = 0
         for x in xs:
             if x:
                 out.append(x)
             else:
                 count += 1
         return out + [0] * count
         """),
        (("off_by_one", 0, "(len(xs) - len(out))", "(len(xs) - len(out) - 1)"),
         ("wrong_operator", 1, "x == 0", "x != 0"),
         ("missed_edge_case", 0, "x != 0", "x > 0"),
         ("wrong_return", 0, "return out + [0] * (len(xs) - len(out))", "return [0] * (len(xs) - len(out)) + out"),
         ("wrong_initial_value", 2, "count = 0", "count = 1"),
         ("wrong_return", 2, "out + [0] * count", "out"),
         ("missed_edge_case", 1, "sorted(xs, key=lambda x: x == 0)", "sorted(xs, reverse=True)"),
         ("off_by_one", 2, "for x in xs:", "for x in xs[1:]:")),
        ((([0, 3, 0, 1],), [3, 1, 0, 0]), (([],), []), (([-2, 0, 5],), [-2, 5, 0]), (([1, 2],), [1, 2]),
         (([0],), [0])),
        kin="partition"),
    Family(
        "insert_ascending", "xs: list[int], x: int", "list[int]",
        ("Add a number to an ascending list and return the new list, again in ascending order.",
         "Return a copy of a sorted list with one more element at the right place, so that it is still sorted; equal "
         "numbers stay.",
         "Given an ascending list and an integer, return the ascending list that has the integer as an additional "
         "element."),
        ("return sorted(xs + [x])",
         """
         i = 0
         while i < len(xs) and xs[i] < x:
             i += 1
         return xs[:i] + [x] + xs[i:]
         """,
         """
         out = [y for y in xs if y <= x]
         return out + [x] + xs[len(out):]
         """),
        (("missed_edge_case", 1, "i < len(xs) and ", ""),
         ("wrong_operator", 1, "xs[i] < x", "xs[i] > x"),
         ("off_by_one", 1, "xs[i:]", "xs[i + 1:]"),
         ("wrong_return", 0, "sorted(xs + [x])", "xs + [x]"),
         ("wrong_operator", 2, "y <= x", "y >= x"),
         ("wrong_initial_value", 1, "i = 0", "i = 1"),
         ("off_by_one", 2, "xs[len(out):]", "xs[len(out) + 1:]"),
         ("missed_edge_case", 0, "xs + [x]", "set(xs + [x])")),
        ((([1, 5], 3), [1, 3, 5]), (([], 2), [2]), (([1, 2], 9), [1, 2, 9]), (([4, 6], 1), [1, 4, 6]),
         (([2, 3], 2), [2, 2, 3]))),
    Family(
        "remove_value", "xs: list[int], x: int", "list[int]",
        ("Return a list without any occurrence of a given number; the other elements stay in order.",
         "Drop all elements of the first argument, a list, that equal the second argument, and return the new list.",
         "Copy a list of integers and leave out every element that equals a given value."),
        ("return [y for y in xs if y != x]",
         """
         out = []
         for y in xs:
             if y != x:
                 out.append(y)
         return out
         """,
         """
         xs = list(xs)
         while x in xs:
             xs.remove(x)
         return xs
         """),
        (("wrong_operator", 0, "!=", "=="),
         ("missed_edge_case", 2, "while x in xs:", "if x in xs:"),
         ("off_by_one", 1, "for y in xs:", "for y in xs[1:]:"),
         ("missed_edge_case", 2, "while x in xs:\n    xs.remove(x)",
          "for y in xs:\n    if y == x:\n        xs.remove(y)"),
         ("wrong_return", 1, "return out", "return len(out)"),
         ("wrong_operator", 3, "y != x", "y > x"),
         ("wrong_initial_value", 1, "out = []", "out = [x]"),
         ("wrong_return", 1, "append(y)\nreturn", "append(y)\n    return")),
        ((([1, 2, 1, 3], 1), [2, 3]), (([], 5), []), (([4], 4), []), (([1, 1, 2], 1), [2]), (([7, 8], 9), [7, 8])),
        odd=(("another_algorithm", "return list(filter(lambda y: y != x, xs))"),)),
    Family(
        "common_values", "xs: list[int], ys: list[int]", "list[int]",
        ("Return the numbers that occur in both of two lists, each once, in ascending order.",
         "Compute the intersection of two lists of integers as a sorted list without repeats.",
         "Which values do two lists share? List them from the smallest to the largest without duplicates."),
        ("return sorted(set(xs) & set(ys))",
         """
         out = []
         for x in xs:
             if x in ys and x not in out:
                 out.append(x)
         return sorted(out)
         """,
         "return sorted({x for x in xs if x in ys})"),
        (("wrong_operator", 0, "&", "|"),
         ("missed_edge_case", 1, " and x not in out", ""),
         ("wrong_return", 1, "sorted(out)", "out"),
         ("wrong_operator", 2, "x in ys", "x not in ys"),
         ("wrong_return", 0, "sorted(", "len("),
         ("wrong_operator", 1, "and x not in out", "or x not in out"),
         ("missed_edge_case", 2, "{x for x in xs if x in ys}", "[x for x in xs if x in ys]"),
         ("off_by_one", 1, "for x in xs:", "for x in xs[1:]:")),
        ((([3, 1, 2], [2, 3]), [2, 3]), (([], [1]), []), (([5, 5], [5, 5]), [5]), (([1], [2]), []),
         (([4, 1], [1, 4, 7]), [1, 4]))),
    Family(
        "every_kth", "xs: list[int], k: int", "list[int]",
        ("Return every k-th element of a list: the elements number k, 2k, 3k and so on, counted from 1. The number k "
         "is at least 1.",
         "Pick the elements of a list with a position, counted from 1, that is a multiple of the second argument, "
         "which is positive.",
         "Given a list and a positive integer k, skip k - 1 elements, take one, and repeat to the end of the list."),
        ("return xs[k - 1::k]",
         """
         out = []
         for i, x in enumerate(xs):
             if (i + 1) % k == 0:
                 out.append(x)
         return out
         """,
         "return [xs[i] for i in range(k - 1, len(xs), k)]"),
        (("off_by_one", 0, "k - 1::k", "k::k"),
         ("off_by_one", 1, "(i + 1) % k", "i % k"),
         ("wrong_operator", 1, "== 0", "!= 0"),
         ("wrong_initial_value", 2, "range(k - 1,", "range(0,"),
         ("wrong_return", 2, "[xs[i] for", "[i for"),
         ("off_by_one", 2, "len(xs), k", "len(xs) - 1, k"),
         ("wrong_return", 0, "xs[k - 1::k]", "xs[k - 1]"),
         ("missed_edge_case", 0, "", "if k == 1:\n    return []\n")),
        ((([5, 6, 7, 8], 2), [6, 8]), (([], 3), []), (([1, 2, 3], 1), [1, 2, 3]), (([1, 2], 5), []),
         (([1, 2, 3, 4, 5], 3), [3]))),
]
