"""Families of programs that compute a number or a truth value from lists."""

from program_families.family import Family

LIST_MEASURES = [
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
]
