"""Families of programs on lists."""

from program_families.family import Family

LISTS = [
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
        "second_largest", "xs: list[int]", "int | None",
        ("Return the second largest distinct number of a list, or None if the list has fewer than two distinct "
         "numbers.",
         "Find the greatest number that is smaller than the maximum of a list of integers; return None where there is "
         "none.",
         "Give the runner-up among the different values of a list. Repeated values count once; with fewer than two "
         "different values the result is None."),
        ("""
         xs = sorted(set(xs))
         return xs[-2] if len(xs) > 1 else None
         """,
         """
         best = last = None
         for x in xs:
             if best is None or x > best:
                 best, last = x, best
             elif x < best and (last is None or x > last):
                 last = x
         return last
         """,
         """
         if len(set(xs)) < 2:
             return None
         best = max(xs)
         return max(x for x in xs if x != best)
         """),
        (("off_by_one", 0, "xs[-2]", "xs[-1]"),
         ("missed_edge_case", 0, "sorted(set(xs))", "sorted(xs)"),
         ("missed_edge_case", 0, " if len(xs) > 1 else None", ""),
         ("wrong_return", 1, "return last", "return best"),
         ("wrong_operator", 1, "x < best", "x <= best"),
         ("wrong_operator", 2, "x != best", "x == best"),
         ("missed_edge_case", 2, "if len(set(xs)) < 2:\n    return None\n", ""),
         ("off_by_one", 2, "< 2", "< 3")),
        ((([3, 1, 2],), 2), (([5, 5, 3],), 3), (([4],), None), (([7, 7],), None), (([],), None), (([-1, -2],), -2),
         (([1, 2, 3],), 2), (([9, 1, 1, 5],), 5))),
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
        "transpose", "rows: list[list[int]]", "list[list[int]]",
        ("Swap rows and columns of a matrix, given as a list of rows of equal length. The result is a list of lists; "
         "no rows give an empty list.",
         "Return the transpose of a matrix as a list of lists. An empty list stays empty.",
         "Turn a table round so that its first column becomes the first row and so on. Tables are lists of equally "
         "long lists, possibly without rows."),
        ("return [list(p) for p in zip(*rows)]",
         """
         if not rows:
             return []
         return [[row[j] for row in rows] for j in range(len(rows[0]))]
         """,
         """
         out = []
         for row in rows:
             for j, x in enumerate(row):
                 if j == len(out):
                     out.append([])
                 out[j].append(x)
         return out
         """),
        (("missed_edge_case", 1, "if not rows:\n    return []\n", ""),
         ("wrong_return", 0, "list(p)", "sum(p)"),
         ("missed_edge_case", 1, "len(rows[0])", "len(rows)"),
         ("wrong_operator", 1, "row[j]", "row[-1 - j]"),
         ("off_by_one", 2, "j == len(out)", "j == len(out) - 1"),
         ("wrong_operator", 0, "zip(*rows)", "rows"),
         ("wrong_operator", 2, "append(x)", "insert(0, x)"),
         ("off_by_one", 1, "range(len(rows[0]))", "range(1, len(rows[0]))")),
        ((([[1, 2, 3], [4, 5, 6]],), [[1, 4], [2, 5], [3, 6]]), (([],), []), (([[7]],), [[7]]),
         (([[1, 2], [3, 4]],), [[1, 3], [2, 4]]))),
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
        "flatten", "rows: list[list[int]]", "list[int]",
        ("Join the lists of a list of lists into one list, in order.",
         "Remove one level of nesting: return all elements of the inner lists as a flat list.",
         "Given a list that holds lists of integers, some possibly empty, return the integers one after the other in a "
         "single list."),
        ("return [x for row in rows for x in row]",
         """
         out = []
         for row in rows:
             out.extend(row)
         return out
         """,
         "return sum(rows, [])"),
        (("wrong_operator", 1, "extend", "append"),
         ("wrong_initial_value", 2, "sum(rows, [])", "sum(rows)"),
         ("missed_edge_case", 0, "for x in row]", "for x in set(row)]"),
         ("off_by_one", 1, "for row in rows:", "for row in rows[1:]:"),
         ("wrong_return", 0, "[x for row in rows for x in row]", "[row[0] for row in rows]"),
         ("off_by_one", 2, "sum(rows, [])", "sum(rows[:-1], [])"),
         ("wrong_return", 1, "extend(row)\nreturn", "extend(row)\n    return"),
         ("wrong_initial_value", 1, "out = []", "out = [0]")),
        ((([[1, 2], [3]],), [1, 2, 3]), (([],), []), (([[], [4, 4], []],), [4, 4]), (([[1], [2], [3]],), [1, 2, 3]))),
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
        "largest_step", "xs: list[int]", "int",
        ("Return the largest absolute difference between two neighbours of a list, or 0 if it has fewer than two "
         "elements.",
         "How far apart are the two adjacent numbers of a list that differ the most? Return that distance; lists "
         "without neighbours give 0.",
         "Compute the biggest change, up or down, from one element of a list to the next; it is 0 for lists of length "
         "0 or 1."),
        ("""
         best = 0
         for i in range(1, len(xs)):
             best = max(best, abs(xs[i] - xs[i - 1]))
         return best
         """,
         "return max((abs(a - b) for a, b in zip(xs, xs[1:])), default=0)"),
        (("missed_edge_case", 0, "abs(xs[i] - xs[i - 1])", "xs[i] - xs[i - 1]"),
         ("off_by_one", 0, "len(xs))", "len(xs) - 1)"),
         ("missed_edge_case", 1, ", default=0", ""),
         ("wrong_operator", 1, "a - b", "a + b"),
         ("wrong_return", "return max(xs) - min(xs) if xs else 0"),
         ("wrong_operator", 0, "max(best", "min(best"),
         ("wrong_initial_value", 0, "best = 0", "best = 1"),
         ("missed_edge_case", 1, "", "if len(xs) < 2:\n    return xs[0]\n")),
        ((([1, 4, 2],), 3), (([],), 0), (([5],), 0), (([9, 1],), 8), (([1, 3, 5],), 2), (([2, 2],), 0),
         (([0, 1, 6],), 5)),
        kin="steps"),
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
        "is_ascending", "xs: list[int]", "bool",
        ("Decide whether no element of a list is smaller than the one before it. Lists of length 0 and 1 fulfil this.",
         "Return True if a list of integers is sorted in ascending order; equal neighbours are allowed, and so is an "
         "empty list.",
         "Check that the numbers of a list never go down from one element to the next."),
        ("return all(a <= b for a, b in zip(xs, xs[1:]))",
         """
         for i in range(1, len(xs)):
             if xs[i] < xs[i - 1]:
                 return False
         return True
         """,
         "return xs == sorted(xs)"),
        (("wrong_operator", 0, "<=", "<"),
         ("wrong_return", 1, "    if xs[i] < xs[i - 1]:\n        return False\n", "    return xs[i] >= xs[i - 1]\n"),
         ("off_by_one", 1, "range(1,", "range(2,"),
         ("wrong_operator", 1, "xs[i] < ", "xs[i] > "),
         ("wrong_operator", 0, "all(", "any("),
         ("missed_edge_case", 2, "sorted(xs)", "sorted(set(xs))"),
         ("missed_edge_case", 2, "", "if not xs:\n    return False\n"),
         ("off_by_one", 0, "xs[1:]", "xs[2:]")),
        ((([1, 2, 2],), True), (([],), True), (([1, 2, 0],), False), (([2, 1],), False), (([4],), True),
         (([1, 3, 2, 4],), False))),
    Family(
        "count_inversions", "xs: list[int]", "int",
        ("Count the pairs of positions of a list of which the earlier one has the larger number.",
         "Return the number of inversions: pairs of elements, not only neighbours, that are in descending order.",
         "How many pairs (i, j) with i < j have a greater number at position i than at position j of a list?"),
        ("""
         count = 0
         for i in range(len(xs)):
             for j in range(i + 1, len(xs)):
                 if xs[i] > xs[j]:
                     count += 1
         return count
         """,
         "return sum(x > y for i, x in enumerate(xs) for y in xs[i + 1:])",
         """
         count = 0
         out = []
         for x in xs:
             count += sum(y > x for y in out)
             out.append(x)
         return count
         """),
        (("wrong_operator", 0, ">", ">="),
         ("off_by_one", 0, "range(i + 1, len(xs))", "range(i + 1, len(xs) - 1)"),
         ("wrong_initial_value", 0, "count = 0", "count = 1"),
         ("off_by_one", 0, "range(i + 1,", "range(i + 2,"),
         ("wrong_operator", 1, "x > y", "x < y"),
         ("missed_edge_case", 1, "xs[i + 1:]", "xs[i + 1:i + 2]"),
         ("wrong_operator", 2, "y > x", "y < x"),
         ("wrong_return", 0, "return count", "return len(xs) - count")),
        ((([1, 2, 3],), 0), (([3, 2, 1],), 3), (([2, 2, 1],), 2), (([],), 0), (([3, 1, 2],), 2))),
    Family(
        "find_sorted", "xs: list[int], x: int", "int",
        ("Return the index of a number in an ascending list of distinct integers, or -1 if it is not in the list.",
         "Search a sorted list without repeated elements for a value and give its position counted from 0; a missing "
         "value gives -1.",
         "Where in an ascending list is the second argument? Return the index, or -1 for a number that is absent."),
        ("""
         left, right = 0, len(xs) - 1
         while left <= right:
             mid = (left + right) // 2
             if xs[mid] == x:
                 return mid
             if xs[mid] < x:
                 left = mid + 1
             else:
                 right = mid - 1
         return -1
         """,
         "return xs.index(x) if x in xs else -1",
         """
         for i, y in enumerate(xs):
             if y == x:
                 return i
         return -1
         """,
         """
         from bisect import bisect_left
         i = bisect_left(xs, x)
         return i if i < len(xs) and xs[i] == x else -1
         """),
        (("off_by_one", 0, "len(xs) - 1", "len(xs) - 2"),
         ("wrong_operator", 0, "left <= right", "left < right"),
         ("wrong_operator", 0, "xs[mid] < x", "xs[mid] > x"),
         ("missed_edge_case", 1, " if x in xs else -1", ""),
         ("wrong_return", 2, "return i", "return y"),
         ("missed_edge_case", 3, "i < len(xs) and ", ""),
         ("wrong_return", 2, "return -1", "return len(xs)"),
         ("wrong_initial_value", 0, "left, right = 0,", "left, right = 1,")),
        ((([1, 3, 5, 7], 5), 2), (([1, 3], 2), -1), (([], 1), -1), (([4], 4), 0), (([1, 3, 5, 7], 1), 0),
         (([1, 3, 5, 7], 7), 3), (([1, 3], 9), -1), (([2, 3], 2), 0))),
    Family(
        "pair_with_sum", "xs: list[int], k: int", "bool",
        ("Decide whether two elements at different positions of a list add up to k.",
         "Return True if the sum of some two elements of a list, which may be equal numbers but not one and the same "
         "element, is the second argument.",
         "Is there a pair of different positions in a list of integers with numbers that sum to a given target?"),
        ("""
         for i in range(len(xs)):
             for j in range(i + 1, len(xs)):
                 if xs[i] + xs[j] == k:
                     return True
         return False
         """,
         """
         seen = set()
         for x in xs:
             if k - x in seen:
                 return True
             seen.add(x)
         return False
         """,
         "return any(k - x in xs[i + 1:] for i, x in enumerate(xs))"),
        (("off_by_one", 0, "range(i + 1,", "range(i,"),
         ("wrong_operator", 1, "k - x", "k + x"),
         ("missed_edge_case", 2, "xs[i + 1:]", "xs"),
         ("wrong_return", 0, "return False", "return True"),
         ("wrong_return", 1, "seen.add(x)\nreturn", "seen.add(x)\n    return"),
         ("wrong_operator", 0, "==", ">="),
         ("missed_edge_case", 1, "    if k - x in seen:\n        return True\n    seen.add(x)",
          "    seen.add(x)\n    if k - x in seen:\n        return True"),
         ("wrong_initial_value", 1, "seen = set()", "seen = {0}")),
        ((([1, 4, 6], 10), True), (([3], 6), False), (([], 0), False), (([3, 3], 6), True), (([1, 2, 8], 4), False),
         (([5, 1, 2], 7), True), (([4, 9], 4), False))),
    Family(
        "index_of_largest", "xs: list[int]", "int",
        ("Return the position of the largest number of a list, the first one if it occurs several times, and -1 for "
         "an empty list.",
         "At which index, counted from 0, does the maximum of a list of integers occur for the first time? Give -1 if "
         "there are no elements.",
         "Find the smallest index that holds the greatest element; an empty list gives -1."),
        ("""
         best = -1
         for i, x in enumerate(xs):
             if best < 0 or x > xs[best]:
                 best = i
         return best
         """,
         "return xs.index(max(xs)) if xs else -1",
         """
         if not xs:
             return -1
         best = 0
         for i in range(1, len(xs)):
             if xs[i] > xs[best]:
                 best = i
         return best
         """),
        (("wrong_operator", 2, "xs[i] >", "xs[i] >="),
         ("missed_edge_case", 1, " if xs else -1", ""),
         ("wrong_return", 1, "xs.index(max(xs))", "max(xs)"),
         ("wrong_operator", 0, "x > xs[best]", "x < xs[best]"),
         ("missed_edge_case", 0, "best < 0 or ", ""),
         ("off_by_one", 2, "len(xs))", "len(xs) - 1)"),
         ("wrong_return", 2, "return best", "return xs[best]"),
         ("missed_edge_case", 2, "return -1", "return 0")),
        ((([3, 9, 2],), 1), (([],), -1), (([5, 5],), 0), (([1, 2, 7],), 2), (([-4],), 0))),
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
        "longest_run", "xs: list[int]", "int",
        ("Return the length of the longest run of equal neighbours of a list, or 0 for an empty list.",
         "How many times in a row does the same number occur at most in a list? An empty list gives 0.",
         "Find the largest group of consecutive equal elements of a list of integers and return its size, 0 without "
         "elements."),
        ("""
         best = count = 0
         last = None
         for x in xs:
             count = count + 1 if x == last else 1
             last = x
             best = max(best, count)
         return best
         """,
         """
         from itertools import groupby
         return max((len(list(g)) for x, g in groupby(xs)), default=0)
         """,
         """
         best = 0
         for i in range(len(xs)):
             j = i
             while j < len(xs) and xs[j] == xs[i]:
                 j += 1
             best = max(best, j - i)
         return best
         """),
        (("off_by_one", 0, "else 1", "else 0"),
         ("wrong_return", 0, "return best", "return count"),
         ("missed_edge_case", 1, ", default=0", ""),
         ("wrong_operator", 0, "x == last", "x != last"),
         ("wrong_operator", 0, "max(best", "min(best"),
         ("missed_edge_case", "return max((xs.count(x) for x in xs), default=0)"),
         ("off_by_one", 2, "j - i", "j - i - 1"),
         ("missed_edge_case", 2, "j < len(xs) and ", ""),
         ("wrong_initial_value", 2, "best = 0", "best = 1")),
        ((([1, 1, 2],), 2), (([],), 0), (([3],), 1), (([1, 2, 1],), 1), (([4, 7, 7, 7],), 3))),
    Family(
        "most_frequent", "xs: list[int]", "int",
        ("Return the number that occurs most often in a list that is not empty, and the smallest of them in a tie.",
         "Find the most common element of a non-empty list of integers. Where several are equally common, take the "
         "lowest.",
         "Which value has the highest count in a list? The list has at least one element; among equals the least "
         "value wins."),
        ("return min(xs, key=lambda x: (-xs.count(x), x))",
         """
         best = None
         for x in sorted(xs):
             if best is None or xs.count(x) > xs.count(best):
                 best = x
         return best
         """),
        (("missed_edge_case", 1, "sorted(xs)", "xs"),
         ("wrong_operator", 1, "xs.count(x) > ", "xs.count(x) >= "),
         ("wrong_operator", 0, "-xs.count(x)", "xs.count(x)"),
         ("wrong_return", 2, "return min(x for", "return max(x for"),
         ("wrong_return", 2, "return min(x for x in d if d[x] == n)", "return n"),
         ("missed_edge_case", 0, "(-xs.count(x), x)", "-xs.count(x)"),
         ("off_by_one", 2, "d[x] == n", "d[x] == n - 1"),
         ("wrong_initial_value", 1, "best = None", "best = xs[-1]")),
        ((([1, 2, 2],), 2), (([3, 1],), 1), (([1, 3],), 1), (([5],), 5), (([4, 4, 2, 2, 9],), 2)),
        odd=(("no_input_check", """
              from collections import Counter
              d = Counter(xs)
              n = max(d.values())
              return min(x for x in d if d[x] == n)
              """),)),
    Family(
        "mean", "xs: list[int]", "float",
        ("Return the arithmetic mean of a list of integers that is not empty.",
         "Compute the average of the numbers of a list with at least one element.",
         "Divide the sum of a non-empty list by the number of its elements, without rounding."),
        ("return sum(xs) / len(xs)",
         """
         total = 0
         for x in xs:
             total += x
         return total / len(xs)
         """),
        (("wrong_operator", 0, "/", "//"),
         ("off_by_one", 0, "len(xs)", "(len(xs) - 1)"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("wrong_return", 1, "total / len(xs)", "total"),
         ("wrong_return", "return sorted(xs)[len(xs) // 2]"),
         ("wrong_operator", 1, "total += x", "total = x"),
         ("missed_edge_case", "return (max(xs) + min(xs)) / 2"),
         ("wrong_initial_value", 2, "0.0, 0", "0.0, 1"),
         ("missed_edge_case", 1, "", "if len(xs) == 1:\n    return 0.0\n")),
        ((([1, 2, 6],), 3.0), (([1, 2],), 1.5), (([4],), 4.0), (([-3, 3],), 0.0)),
        odd=(("no_input_check", """
              total, count = 0.0, 0
              for x in xs:
                  total += x
                  count += 1
              return total / count
              """),), kin="mean"),
    Family(
        "above_average", "xs: list[int]", "int",
        ("Count the elements of a list that are greater than its mean; an empty list gives 0.",
         "How many numbers of a list are strictly above the average of the list? Without numbers the answer is 0.",
         "Return the number of elements that exceed the arithmetic mean of all elements, or 0 if there are none."),
        ("return sum(x * len(xs) > sum(xs) for x in xs)",
         """
         if not xs:
             return 0
         mid = sum(xs) / len(xs)
         return len([x for x in xs if x > mid])
         """,
         """
         count = 0
         for x in xs:
             if x > sum(xs) / len(xs):
                 count += 1
         return count
         """),
        (("wrong_operator", 1, "x > mid", "x >= mid"),
         ("missed_edge_case", 1, "if not xs:\n    return 0\n", ""),
         ("wrong_operator", 0, ">", "<"),
         ("wrong_initial_value", 2, "count = 0", "count = 1"),
         ("wrong_return", 1, "len([x for x in xs if x > mid])", "[x for x in xs if x > mid]"),
         ("off_by_one", 2, "/ len(xs)", "/ (len(xs) - 1)"),
         ("wrong_operator", 0, "x * len(xs)", "x + len(xs)"),
         ("wrong_return", 2, "count += 1\nreturn", "count += 1\n    return")),
        ((([1, 2, 6],), 1), (([],), 0), (([2, 2],), 0), (([5],), 0), (([0, 4, 5],), 2), (([9, 1, 8],), 2)),
        kin="mean"),
    Family(
        "dot_product", "xs: list[int], ys: list[int]", "int",
        ("Multiply the elements of two equally long lists position by position and return the sum of the products.",
         "Return the scalar product of two vectors, given as lists of the same length; it is 0 for empty lists.",
         "Add up x times y over the pairs of elements at equal positions of two lists of equal length."),
        ("return sum(a * b for a, b in zip(xs, ys))",
         """
         total = 0
         for i in range(len(xs)):
             total += xs[i] * ys[i]
         return total
         """,
         """
         from operator import mul
         return sum(map(mul, xs, ys))
         """),
        (("wrong_operator", 0, "a * b", "a + b"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("off_by_one", 1, "range(len(xs))", "range(len(xs) - 1)"),
         ("wrong_operator", 1, "* ys[i]", "* ys[-1 - i]"),
         ("wrong_operator", 1, "total +=", "total -="),
         ("wrong_return", 0, "sum(a * b for a, b in zip(xs, ys))", "[a * b for a, b in zip(xs, ys)]"),
         ("wrong_return", 2, "sum(map", "max(map"),
         ("missed_edge_case", 1, "", "if xs == ys:\n    return 0\n")),
        ((([1, 2], [3, 4]), 11), (([], []), 0), (([2], [5]), 10), (([1, 2, 0], [5, 1, 7]), 7), (([2, 3], [2, 3]),
         13))),
    Family(
        "diagonal_sum", "rows: list[list[int]]", "int",
        ("Add up the main diagonal of a square matrix, from top left to bottom right; an empty matrix gives 0.",
         "Return the trace of a square matrix that is given as a list of rows, and 0 if there are no rows.",
         "Sum the elements of a square table that have the same row number and column number."),
        ("return sum(rows[i][i] for i in range(len(rows)))",
         """
         total = 0
         for i, row in enumerate(rows):
             total += row[i]
         return total
         """,
         """
         total = 0
         for i in range(len(rows)):
             for j in range(len(rows)):
                 if i == j:
                     total += rows[i][j]
         return total
         """),
        (("off_by_one", 0, "range(len(rows))", "range(1, len(rows))"),
         ("wrong_operator", 1, "row[i]", "row[-1 - i]"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("wrong_return", 0, "rows[i][i]", "sum(rows[i])"),
         ("wrong_operator", 2, "i == j", "i <= j"),
         ("wrong_return", 1, "row[i]\nreturn", "row[i]\n    return"),
         ("missed_edge_case", 1, "row[i]", "row[0]"),
         ("wrong_operator", 2, "i == j", "i != j")),
        ((([[1, 2], [3, 4]],), 5), (([],), 0), (([[7]],), 7), (([[1, 0, 5], [0, 2, 0], [9, 0, 3]],), 6))),
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
        "missing_number", "xs: list[int]", "int",
        ("A list of length n has n of the n + 1 numbers 0, 1, ..., n, each at most once. Return the number that is "
         "missing.",
         "Of the whole numbers from 0 to the length of a list, exactly one is not in the list. Find it; the order of "
         "the list is arbitrary and nothing is repeated.",
         "Given distinct integers that fill the range from 0 to their count except for one number, return that "
         "number."),
        ("return len(xs) * (len(xs) + 1) // 2 - sum(xs)",
         """
         for i in range(len(xs) + 1):
             if i not in xs:
                 return i
         """),
        (("off_by_one", 1, "len(xs) + 1", "len(xs)"),
         ("off_by_one", 0, "(len(xs) + 1)", "(len(xs) - 1)"),
         ("wrong_operator", 0, "- sum", "+ sum"),
         ("wrong_initial_value", 2, "total = len(xs)", "total = 0"),
         ("wrong_initial_value", 1, "range(len(xs) + 1)", "range(1, len(xs) + 1)"),
         ("wrong_operator", 1, "not in", "in"),
         ("wrong_operator", 2, "i ^ x", "i + x"),
         ("wrong_return", 1, "return i", "return xs[i]"),
         ("missed_edge_case", 1, "", "if 0 not in xs:\n    return 1\n")),
        ((([0, 1, 3],), 2), (([1],), 0), (([0],), 1), (([3, 0, 1, 2],), 4), (([],), 0)),
        odd=(("another_algorithm", """
              total = len(xs)
              for i, x in enumerate(xs):
                  total ^= i ^ x
              return total
              """),)),
    Family(
        "best_slice_sum", "xs: list[int]", "int",
        ("Return the largest sum of a slice of neighbouring elements of a list. The list and the slice are not empty.",
         "Among all non-empty contiguous parts of a non-empty list of integers, find the greatest sum.",
         "What is the maximum of the sums of consecutive elements of a list, with at least one element in the sum? "
         "The list has an element or more."),
        ("""
         best = cur = xs[0]
         for x in xs[1:]:
             cur = max(x, cur + x)
             best = max(best, cur)
         return best
         """,
         "return max(sum(xs[i:j]) for i in range(len(xs)) for j in range(i + 1, len(xs) + 1))",
         """
         best = None
         for i in range(len(xs)):
             total = 0
             for x in xs[i:]:
                 total += x
                 if best is None or total > best:
                     best = total
         return best
         """),
        (("wrong_initial_value", 0, "best = cur = xs[0]", "best = cur = 0"),
         ("wrong_operator", 0, "max(x, cur + x)", "min(x, cur + x)"),
         ("wrong_return", 0, "return best", "return cur"),
         ("off_by_one", 1, "len(xs) + 1", "len(xs)"),
         ("missed_edge_case", 0, "max(x, cur + x)", "cur + x"),
         ("off_by_one", 2, "xs[i:]", "xs[i + 1:]"),
         ("missed_edge_case", "return sum(x for x in xs if x > 0)"),
         ("wrong_operator", 2, "total > best", "total < best")),
        ((([1, -2, 3, 4],), 7), (([-3, -1],), -1), (([5],), 5), (([2, -1, 2],), 3), (([4, -9, 1],), 4))),
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
        "row_maxima", "rows: list[list[int]]", "list[int]",
        ("Return the largest number of every row of a table. Rows are lists that are not empty.",
         "Given a list of non-empty lists, return the list of their maxima, in the same order.",
         "For each inner list of a list, which has at least one integer, give its greatest element."),
        ("return [max(row) for row in rows]",
         """
         out = []
         for row in rows:
             best = row[0]
             for x in row:
                 if x > best:
                     best = x
             out.append(best)
         return out
         """),
        (("wrong_initial_value", 1, "best = row[0]", "best = 0"),
         ("wrong_operator", 1, "x > best", "x < best"),
         ("wrong_operator", 0, "for row in rows", "for row in zip(*rows)"),
         ("off_by_one", 2, "[-1]", "[0]"),
         ("wrong_return", 0, "[max(row) for row in rows]", "max(max(row) for row in rows)"),
         ("wrong_return", 1, "    out.append(best)", "        out.append(best)"),
         ("missed_edge_case", 2, "sorted(row)[-1]", "sorted(row)[1]"),
         ("wrong_return", 1, "append(best)\nreturn", "append(best)\n    return")),
        ((([[1, 5], [7, 2]],), [5, 7]), (([],), []), (([[-3, -1]],), [-1]), (([[4]],), [4]),
         (([[1, 2, 3], [6, 5, 4]],), [3, 6])),
        odd=(("no_input_check", "return [sorted(row)[-1] for row in rows]"),)),
    Family(
        "column_sums", "rows: list[list[int]]", "list[int]",
        ("Return the sum of every column of a table, given as a list of rows of equal length. Without rows the result "
         "is an empty list.",
         "Add equally long lists element by element and return the list of totals; no lists give an empty list.",
         "For a matrix as a list of rows, compute one sum per column. A matrix without rows has no columns."),
        ("return [sum(p) for p in zip(*rows)]",
         """
         if not rows:
             return []
         return [sum(row[j] for row in rows) for j in range(len(rows[0]))]
         """,
         """
         out = []
         for row in rows:
             if not out:
                 out = [0] * len(row)
             for j in range(len(row)):
                 out[j] += row[j]
         return out
         """),
        (("wrong_operator", 0, "zip(*rows)", "rows"),
         ("missed_edge_case", 1, "if not rows:\n    return []\n", ""),
         ("missed_edge_case", 1, "len(rows[0])", "len(rows)"),
         ("wrong_initial_value", 2, "[0] * len(row)", "[1] * len(row)"),
         ("off_by_one", 2, "range(len(row))", "range(len(row) - 1)"),
         ("wrong_operator", 2, "out[j] += row[j]", "out[j] -= row[j]"),
         ("wrong_return", 0, "[sum(p) for p in zip(*rows)]", "sum(sum(p) for p in zip(*rows))"),
         ("wrong_operator", 1, "sum(row[j]", "max(row[j]")),
        ((([[1, 2, 3], [4, 5, 6]],), [5, 7, 9]), (([],), []), (([[7]],), [7]), (([[1, -1], [1, 1], [2, 0]],), [4, 0]))),
    Family(
        "is_symmetric", "rows: list[list[int]]", "bool",
        ("Decide whether a square matrix equals its transpose. An empty matrix does.",
         "Return True if the element at row i and column j of a square table always equals the one at row j and column "
         "i.",
         "Check a square matrix, given as a list of rows, for symmetry about its main diagonal."),
        ("return all(rows[i][j] == rows[j][i] for i in range(len(rows)) for j in range(i))",
         "return [list(p) for p in zip(*rows)] == rows",
         """
         n = len(rows)
         for i in range(n):
             for j in range(i + 1, n):
                 if rows[i][j] != rows[j][i]:
                     return False
         return True
         """),
        (("wrong_operator", 0, "all(", "any("),
         ("off_by_one", 2, "for j in range(i + 1, n)", "for j in range(i + 2, n)"),
         ("wrong_return", 2, "return False", "return True"),
         ("wrong_operator", 2, "!=", "=="),
         ("missed_edge_case", 1, "list(p) for", "list(p)[::-1] for"),
         ("off_by_one", 0, "range(i)", "range(i - 1)"),
         ("off_by_one", 2, "n = len(rows)", "n = len(rows) - 1"),
         ("wrong_return", 1, "== rows", "!= rows"),
         ("missed_edge_case", 1, "", "if not rows:\n    return False\n")),
        ((([[1, 2], [2, 3]],), True), (([],), True), (([[1, 2], [0, 1]],), False), (([[5]],), True),
         (([[1, 2, 3], [2, 1, 0], [4, 0, 1]],), False), (([[1, 2, 3], [2, 4, 5], [3, 5, 6]],), True))),
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
