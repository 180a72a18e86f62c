"""Lists small programming tasks with right implementations, faults to put into them, and examples.

`make_programs.py` derives labelled programs from this table; `tests/codejudge` runs every one of them on the examples.
A body is the text of a function `f` with the parameters of the family. Names of parameters and local variables are
among `POOLS`, from which other names are drawn.
"""

from __future__ import annotations

import dataclasses
from typing import Any

# Name in the bodies -> names to draw from.
POOLS = {name: [name, *others.split()] for name, others in {
    "x": "item element value entry", "y": "other candidate following z", "n": "number num quantity m",
    "k": "size width step q", "a": "first u alpha", "b": "second h beta", "c": "third r gamma",
    "low": "lower minimum lo floor", "high": "upper maximum hi ceiling", "xs": "items values numbers data seq nums",
    "ys": "others extra more rest", "s": "text string phrase line", "t": "pattern sample reference target",
    "ch": "char letter symbol character", "w": "word key name token", "words": "names strings labels tokens",
    "rows": "grid matrix lists table", "row": "inner record strip", "d": "mapping lookup entries pairs_of",
    "e": "other_map addition update", "p": "piece pair group", "i": "idx index pos", "j": "col offset at",
    "total": "acc running subtotal", "count": "counter tally cnt", "out": "result res answer collected",
    "best": "top winner leader", "last": "prev previous recent", "cur": "current now here",
    "left": "front lhs begin", "right": "back rhs stop", "mid": "middle centre half",
    "stack": "pending opened waiting", "seen": "visited known met", "g": "source stream feed",
    "v": "val content weight", "pairs": "records scored bookings", "parts": "pieces sections segments",
}.items()}

# Kind of fault -> how bad it is. The first six kinds leave a program right; the others make it wrong.
SEVERITY = {
    "unused_variable": "Negligible", "unused_helper": "Negligible", "dead_code": "Negligible", "no_op": "Negligible",
    "no_input_check": "Negligible", "redundant_check": "Negligible", "another_algorithm": "Negligible",
    "missed_edge_case": "Small", "off_by_one": "Major", "wrong_operator": "Major", "wrong_initial_value": "Major",
    "wrong_return": "Major", "unfinished": "Fatal", "undefined_name": "Fatal", "other_task": "Fatal",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Describes a task that has several wordings and several right and wrong programs.

    Args:
        name: task id; also a name of the function.
        params: parameters with annotations, as they are written in a `def`.
        returns: annotation of the result.
        wordings: statements of the task; each fixes the results of all examples.
        right: bodies that do the task.
        wrong: (kind, number of a body, old text, new text), or (kind, whole body). Bodies of `right` and then of `odd`
            are numbered; the old text occurs once, and no old text means that the new one comes first.
        examples: (arguments, result). Every wrong program differs or raises on at least one.
        odd: (kind, body) of programs that do the task and look unusual.
        kin: tasks of equal kin belong to the same subset, and none is offered in place of another.
    """

    name: str
    params: str
    returns: str
    wordings: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[tuple[Any, ...], ...]
    examples: tuple[tuple[tuple, Any], ...]
    odd: tuple[tuple[str, str], ...] = ()
    kin: str = ""


NUMBERS = [
    Family(
        "clamp", "x: int, low: int, high: int", "int",
        ("Limit a number to a range. The arguments are the number, the lower bound and the upper bound.",
         "Given a number, the smallest and the largest allowed value, return the allowed value nearest to the number.",
         "Return the first argument, raised to the second if it is below that and cut to the third if it is above."),
        ("return max(low, min(x, high))",
         """
         if x < low:
             return low
         if x > high:
             return high
         return x
         """),
        (("wrong_operator", 0, "max(low, min", "min(low, max"),
         ("off_by_one", 0, "min(x, high)", "min(x, high - 1)"),
         ("missed_edge_case", 1, "if x > high:\n    return high\n", ""),
         ("wrong_return", 1, "return high", "return low"),
         ("wrong_operator", 1, "x < low", "x > low"),
         ("off_by_one", 2, "[1]", "[0]"),
         ("wrong_return", 2, "sorted((low, x, high))[1]", "sorted((low, x, high))")),
        (((5, 0, 3), 3), ((-2, 0, 3), 0), ((2, 0, 3), 2), ((3, 0, 3), 3), ((9, 7, 9), 9)),
        odd=(("another_algorithm", "return sorted((low, x, high))[1]"),), kin="three numbers"),
    Family(
        "middle_of_three", "a: int, b: int, c: int", "int",
        ("Return the median of three integers, which come in any order.",
         "Of three integers, give the one that is neither the smallest nor the largest when they are put in order.",
         "Order three numbers by size and return the second of them."),
        ("return sorted((a, b, c))[1]",
         "return a + b + c - min(a, b, c) - max(a, b, c)",
         """
         if a > b:
             a, b = b, a
         if b > c:
             b = c
         return max(a, b)
         """),
        (("off_by_one", 0, "[1]", "[2]"),
         ("wrong_operator", 1, "- min(", "+ min("),
         ("wrong_return", 1, " - max(a, b, c)", ""),
         ("missed_edge_case", 2, "if a > b:\n    a, b = b, a\n", ""),
         ("wrong_return", 2, "max(a, b)", "min(a, b)"),
         ("wrong_operator", 2, "b > c", "b < c"),
         ("missed_edge_case", 1, "", "if a == b:\n    return c\n")),
        (((1, 2, 3), 2), ((5, 2, 3), 3), ((9, 9, 1), 9), ((4, 1, 8), 4), ((-1, -5, 0), -1)),
        kin="three numbers"),
    Family(
        "is_prime", "n: int", "bool",
        ("Decide whether an integer is a prime number. Numbers below 2 are not prime.",
         "Return True for primes and False for every other integer, including 0, 1 and negative ones.",
         "Check that a whole number is greater than 1 and has no divisors other than 1 and itself."),
        ("""
         if n < 2:
             return False
         for i in range(2, int(n ** 0.5) + 1):
             if n % i == 0:
                 return False
         return True
         """,
         """
         i = 2
         while i * i <= n:
             if n % i == 0:
                 return False
             i += 1
         return n > 1
         """,
         "return n > 1 and all(n % i for i in range(2, n))"),
        (("missed_edge_case", 0, "if n < 2:\n    return False\n", ""),
         ("off_by_one", 0, "int(n ** 0.5) + 1", "int(n ** 0.5)"),
         ("wrong_operator", 1, "i * i <= n", "i * i < n"),
         ("wrong_initial_value", 1, "i = 2", "i = 1"),
         ("wrong_return", 0, "    if n % i == 0:\n        return False\nreturn True",
          "    return n % i != 0\nreturn True"),
         ("off_by_one", 2, "n > 1", "n > 0"),
         ("missed_edge_case", 3, "n < 2 or n % 2 == 0", "n % 2 == 0")),
        (((2,), True), ((9,), False), ((1,), False), ((0,), False), ((7,), True), ((25,), False), ((4,), False),
         ((3,), True), ((97,), True)),
        odd=(("redundant_check", """
              if n == 2:
                  return True
              if n < 2 or n % 2 == 0:
                  return False
              for i in range(3, n, 2):
                  if n % i == 0:
                      return False
              return True
              """),)),
    Family(
        "common_divisor", "a: int, b: int", "int",
        ("Return the greatest common divisor of two positive integers.",
         "Give the largest integer that divides both of two positive whole numbers.",
         "Compute the highest number by which two positive integers can both be divided without remainder."),
        ("""
         while b:
             a, b = b, a % b
         return a
         """,
         """
         for i in range(min(a, b), 0, -1):
             if a % i == 0 and b % i == 0:
                 return i
         """),
        (("wrong_return", 0, "return a", "return b"),
         ("wrong_operator", 1, "a % i == 0 and", "a % i == 0 or"),
         ("off_by_one", 1, "min(a, b), 0, -1", "min(a, b), 1, -1"),
         ("off_by_one", 1, "range(min(a, b), 0", "range(min(a, b) - 1, 0"),
         ("wrong_initial_value", 1, "range(min(a, b), 0, -1)", "range(1, min(a, b) + 1)"),
         ("off_by_one", 2, "b == 0", "b == 1"),
         ("wrong_return", 2, "a if b == 0", "b if b == 0"),
         ("missed_edge_case", 0, "", "if a == b:\n    return 1\n")),
        (((12, 18), 6), ((7, 5), 1), ((4, 8), 4), ((9, 9), 9), ((1, 1), 1)),
        odd=(("another_algorithm", "return a if b == 0 else f(b, a % b)"),), kin="divisibility"),
    Family(
        "common_multiple", "a: int, b: int", "int",
        ("Return the least common multiple of two positive integers.",
         "Give the smallest positive integer that both of two positive whole numbers divide.",
         "Find the lowest positive number that is a multiple of the first and of the second argument."),
        ("""
         total = max(a, b)
         while total % a or total % b:
             total += 1
         return total
         """,
         """
         from math import gcd
         return a * b // gcd(a, b)
         """,
         """
         for i in range(1, b + 1):
             if a * i % b == 0:
                 return a * i
         """),
        (("wrong_operator", 0, " or ", " and "),
         ("wrong_initial_value", 0, "total = max(a, b)", "total = 0"),
         ("wrong_operator", 1, "a * b //", "a + b //"),
         ("off_by_one", 2, "b + 1", "b"),
         ("wrong_return", 2, "return a * i", "return i"),
         ("wrong_return", 1, "a * b // gcd(a, b)", "gcd(a, b)"),
         ("missed_edge_case", 1, " // gcd(a, b)", "")),
        (((4, 6), 12), ((3, 5), 15), ((2, 8), 8), ((7, 7), 7), ((1, 9), 9)),
        kin="divisibility"),
    Family(
        "digit_sum", "n: int", "int",
        ("Add up the decimal digits of a non-negative integer.",
         "Return the sum of the digits of a whole number that is at least 0.",
         "Given an integer of 0 or more, compute the total of its digits in base ten."),
        ("""
         total = 0
         while n > 0:
             total += n % 10
             n //= 10
         return total
         """,
         "return sum(int(ch) for ch in str(n))"),
        (("wrong_operator", 0, "n % 10", "n // 10"),
         ("wrong_initial_value", 0, "total = 0", "total = 1"),
         ("off_by_one", 0, "n > 0", "n > 9"),
         ("wrong_return", 0, "return total", "return n"),
         ("wrong_return", 1, "sum(int(ch) for ch in str(n))", "len(str(n))"),
         ("wrong_operator", 2, "n % 10 + f", "n % 10 * f"),
         ("missed_edge_case", 1, "str(n))", "str(n)[1:])"),
         ("wrong_return", 0, "    n //= 10\nreturn total", "    n //= 10\n    return total")),
        (((0,), 0), ((7,), 7), ((123,), 6), ((9005,), 14), ((10,), 1)),
        odd=(("another_algorithm", "return n if n < 10 else n % 10 + f(n // 10)"),), kin="digits"),
    Family(
        "reverse_digits", "n: int", "int",
        ("Return the integer with the decimal digits of a non-negative integer in reverse order, so 120 becomes 21.",
         "Read the digits of a whole number of at least 0 from right to left and return the number they form.",
         "Turn the order of a non-negative number's digits round and give the result as an integer."),
        ("""
         total = 0
         while n > 0:
             total = total * 10 + n % 10
             n //= 10
         return total
         """,
         "return int(str(n)[::-1])",
         'return int("".join(reversed(str(n))))'),
        (("wrong_operator", 0, "total * 10 + n % 10", "total + n % 10"),
         ("wrong_return", 1, "int(str(n)[::-1])", "str(n)[::-1]"),
         ("wrong_initial_value", 0, "total = 0", "total = 1"),
         ("off_by_one", 0, "n > 0", "n > 9"),
         ("wrong_operator", 2, "reversed(str(n))", "sorted(str(n))"),
         ("off_by_one", 1, "[::-1]", "[:0:-1]"),
         ("missed_edge_case", 1, "", "if n % 10 == 0:\n    return n\n")),
        (((0,), 0), ((5,), 5), ((120,), 21), ((123,), 321), ((3241,), 1423)),
        kin="digits"),
    Family(
        "factorial", "n: int", "int",
        ("Return the product of all whole numbers from 1 to n; for n equal to 0 that is 1.",
         "Compute the factorial of an integer of at least 0.",
         "Multiply the integers 1, 2, ..., n with each other. The argument n is not negative, and 0 gives 1."),
        ("""
         total = 1
         for i in range(2, n + 1):
             total *= i
         return total
         """,
         "return 1 if n == 0 else n * f(n - 1)",
         """
         total = 1
         while n > 1:
             total *= n
             n -= 1
         return total
         """),
        (("off_by_one", 0, "n + 1", "n"),
         ("wrong_initial_value", 0, "total = 1", "total = 0"),
         ("wrong_operator", 2, "total *= n", "total += n"),
         ("missed_edge_case", 1, "1 if", "0 if"),
         ("off_by_one", 2, "n > 1", "n > 2"),
         ("wrong_operator", 1, "n * f", "n + f"),
         ("wrong_return", 2, "return total", "return n"),
         ("missed_edge_case", 0, "", "if n == 0:\n    return 0\n")),
        (((0,), 1), ((1,), 1), ((2,), 2), ((3,), 6), ((5,), 120))),
    Family(
        "fibonacci", "n: int", "int",
        ("Return element n of the sequence 0, 1, 1, 2, 3, 5, ... of Fibonacci; element 0 is 0.",
         "The first two numbers are 0 and 1, each later one is the sum of the two before it. Return the one at index "
         "n, counted from 0.",
         "Give the Fibonacci number with index n, where index 0 gives 0 and index 1 gives 1."),
        ("""
         a, b = 0, 1
         for i in range(n):
             a, b = b, a + b
         return a
         """,
         """
         out = [0, 1]
         while len(out) <= n:
             out.append(out[-1] + out[-2])
         return out[n]
         """),
        (("wrong_initial_value", 0, "0, 1", "1, 1"),
         ("wrong_return", 0, "return a", "return b"),
         ("off_by_one", 0, "range(n)", "range(n - 1)"),
         ("off_by_one", 1, "<= n", "< n"),
         ("wrong_operator", 0, "a + b", "a * b"),
         ("missed_edge_case", 1, "out[n]", "out[-1]"),
         ("wrong_initial_value", 1, "[0, 1]", "[1, 2]"),
         ("off_by_one", 2, "range(n - 1)", "range(n - 2)"),
         ("missed_edge_case", 2, "if n == 0:\n    return 0\n", "")),
        (((0,), 0), ((1,), 1), ((2,), 1), ((5,), 5), ((10,), 55)),
        odd=(("redundant_check", """
              if n == 0:
                  return 0
              a, b = 0, 1
              for i in range(n - 1):
                  a, b = b, a + b
              return b
              """),)),
    Family(
        "leap_year", "n: int", "bool",
        ("Decide whether a year of the Gregorian calendar is a leap year: years divisible by 4 are, except that years "
         "divisible by 100 must also be divisible by 400.",
         "Return True if a year has 366 days. That holds for multiples of 4 that are no multiples of 100, and for "
         "multiples of 400.",
         "Given a year, check that it can be divided by 400, or by 4 but not by 100."),
        ("return n % 4 == 0 and (n % 100 != 0 or n % 400 == 0)",
         """
         if n % 400 == 0:
             return True
         if n % 100 == 0:
             return False
         return n % 4 == 0
         """),
        (("wrong_operator", 0, "n % 100 != 0 or", "n % 100 != 0 and"),
         ("missed_edge_case", 1, "if n % 400 == 0:\n    return True\n", ""),
         ("missed_edge_case", 1, "if n % 100 == 0:\n    return False\n", ""),
         ("wrong_operator", 0, "n % 100 != 0", "n % 100 == 0"),
         ("wrong_return", 1, "return n % 4 == 0", "return n % 4"),
         ("wrong_operator", 2, "400 if n % 100 == 0 else 4", "4 if n % 100 == 0 else 400"),
         ("missed_edge_case", 2, "400 if n % 100 == 0 else 4", "4"),
         ("missed_edge_case", 1, "", "if n % 100 == 0:\n    return True\n")),
        (((2024,), True), ((1900,), False), ((2000,), True), ((2023,), False), ((2100,), False)),
        odd=(("another_algorithm", "return n % (400 if n % 100 == 0 else 4) == 0"),)),
    Family(
        "collatz_steps", "n: int", "int",
        ("Halve an even number, and replace an odd one by three times itself plus 1, until it is 1. Return the number "
         "of steps for a positive integer.",
         "Count how often the rule must be applied to a positive integer to get to 1: even numbers are divided by 2, "
         "odd numbers n become 3n + 1.",
         "Return the length of the Collatz chain of a positive integer, counted in steps, so 1 gives 0."),
        ("""
         count = 0
         while n > 1:
             n = n // 2 if n % 2 == 0 else 3 * n + 1
             count += 1
         return count
         """,
         """
         out = [n]
         while out[-1] > 1:
             x = out[-1]
             if x % 2:
                 out.append(3 * x + 1)
             else:
                 out.append(x // 2)
         return len(out) - 1
         """),
        (("wrong_initial_value", 0, "count = 0", "count = 1"),
         ("off_by_one", 1, "len(out) - 1", "len(out)"),
         ("off_by_one", 0, "n > 1", "n > 2"),
         ("wrong_return", 0, "return count", "return n"),
         ("wrong_return", 1, "len(out) - 1", "max(out)"),
         ("missed_edge_case", 0, "", "if n == 1:\n    return 1\n"),
         ("wrong_operator", 0, "n // 2", "n - 2"),
         ("missed_edge_case", 0, " if n % 2 == 0 else 3 * n + 1", "")),
        (((1,), 0), ((2,), 1), ((6,), 8), ((7,), 16), ((4,), 2))),
    Family(
        "power_of_two", "n: int", "bool",
        ("Decide whether an integer is a power of two: 1, 2, 4, 8 and so on.",
         "Return True if and only if the argument, any integer, equals 2 to the power of some exponent of at least 0.",
         "Check whether a whole number can be made from 1 by doubling it again and again, or not at all."),
        ("return n > 0 and n & (n - 1) == 0",
         """
         x = 1
         while x < n:
             x *= 2
         return x == n
         """,
         """
         if n < 1:
             return False
         while n % 2 == 0:
             n //= 2
         return n == 1
         """),
        (("missed_edge_case", 0, "n > 0 and ", ""),
         ("wrong_initial_value", 1, "x = 1", "x = 2"),
         ("wrong_operator", 1, "x *= 2", "x += 2"),
         ("wrong_return", 2, "n == 1", "n % 2 == 1"),
         ("off_by_one", 0, "n - 1", "n + 1"),
         ("off_by_one", 2, "n < 1", "n < 2"),
         ("wrong_return", 1, "x == n", "x"),
         ("missed_edge_case", 1, "", "if n == 1:\n    return False\n")),
        (((1,), True), ((2,), True), ((8,), True), ((0,), False), ((12,), False), ((-4,), False), ((7,), False))),
    Family(
        "divisors", "n: int", "list[int]",
        ("List all positive divisors of a positive integer in ascending order, 1 and the number itself included.",
         "Return the sorted list of the whole numbers that divide a positive integer without remainder.",
         "For a positive integer n, collect every number from 1 to n that divides n, smallest first."),
        ("return [i for i in range(1, n + 1) if n % i == 0]",
         """
         out = []
         for i in range(1, n + 1):
             if n % i == 0:
                 out.append(i)
         return out
         """),
        (("off_by_one", 0, "n + 1", "n"),
         ("wrong_initial_value", 1, "range(1,", "range(2,"),
         ("missed_edge_case", 2, "if i * i != n:", "if i > 0:"),
         ("wrong_return", 2, "right[::-1]", "right"),
         ("wrong_operator", 1, "n % i == 0", "n % i != 0"),
         ("wrong_operator", 2, "<= n", "< n"),
         ("wrong_return", 1, "return out", "return len(out)"),
         ("wrong_initial_value", 1, "out = []", "out = [1]")),
        (((1,), [1]), ((12,), [1, 2, 3, 4, 6, 12]), ((9,), [1, 3, 9]), ((7,), [1, 7])),
        odd=(("another_algorithm", """
              left, right = [], []
              i = 1
              while i * i <= n:
                  if n % i == 0:
                      left.append(i)
                      if i * i != n:
                          right.append(n // i)
                  i += 1
              return left + right[::-1]
              """),)),
    Family(
        "to_binary", "n: int", "str",
        ("Write a non-negative integer in base two, as a string of 0 and 1 without prefix; 0 gives 0.",
         "Return the binary digits of a whole number of at least 0 as text, the most significant digit first.",
         "Convert an integer that is not negative to a string of its bits, without leading zeros; zero is one 0."),
        ("""
         if n == 0:
             return "0"
         out = ""
         while n > 0:
             out = str(n % 2) + out
             n //= 2
         return out
         """,
         "return bin(n)[2:]"),
        (("missed_edge_case", 0, 'if n == 0:\n    return "0"\n', ""),
         ("wrong_operator", 0, "str(n % 2) + out", "out + str(n % 2)"),
         ("off_by_one", 1, "[2:]", "[1:]"),
         ("off_by_one", 2, "n < 2", "n < 3"),
         ("wrong_initial_value", 0, 'out = ""', 'out = "0"'),
         ("off_by_one", 0, "n > 0", "n > 1"),
         ("wrong_return", 1, "bin(n)[2:]", "bin(n)"),
         ("wrong_operator", 2, "f(n // 2)", "f(n - 2)")),
        (((0,), "0"), ((1,), "1"), ((6,), "110"), ((10,), "1010"), ((2,), "10")),
        odd=(("another_algorithm", "return str(n) if n < 2 else f(n // 2) + str(n % 2)"),)),
    Family(
        "is_square", "n: int", "bool",
        ("Decide whether an integer is the square of an integer. Negative numbers are not.",
         "Return True if some whole number times itself gives the argument, and False otherwise.",
         "Check for any integer, also a negative one, whether its square root is a whole number."),
        ("""
         if n < 0:
             return False
         i = 0
         while i * i < n:
             i += 1
         return i * i == n
         """,
         "return any(i * i == n for i in range(n + 1))",
         """
         from math import isqrt
         if n < 0:
             return False
         return isqrt(n) ** 2 == n
         """),
        (("missed_edge_case", 2, "if n < 0:\n    return False\n", ""),
         ("off_by_one", 1, "n + 1", "n"),
         ("wrong_operator", 0, "i * i < n", "i * i <= n"),
         ("wrong_initial_value", 0, "i = 0", "i = 1"),
         ("wrong_operator", 0, "i * i == n", "i * i >= n"),
         ("wrong_return", 2, "isqrt(n) ** 2 == n", "isqrt(n) > 0"),
         ("missed_edge_case", 1, "", "if n == 0:\n    return False\n"),
         ("wrong_operator", 1, "i * i == n", "i + i == n")),
        (((0,), True), ((1,), True), ((9,), True), ((8,), False), ((-4,), False), ((16,), True))),
    Family(
        "sign", "x: int", "int",
        ("Return 1 for a positive integer, -1 for a negative one and 0 for zero.",
         "Give the sign of a whole number as -1, 0 or 1.",
         "Map numbers below 0 to -1, numbers above 0 to 1, and 0 to itself."),
        ("""
         if x > 0:
             return 1
         if x < 0:
             return -1
         return 0
         """,
         "return (x > 0) - (x < 0)"),
        (("missed_edge_case", 0, "if x < 0:\n    return -1\nreturn 0", "return -1"),
         ("wrong_operator", 0, "x > 0", "x >= 0"),
         ("wrong_return", 0, "return -1", "return 1"),
         ("wrong_operator", 1, ") - (", ") + ("),
         ("wrong_return", 0, "return 0", "return 1"),
         ("off_by_one", 1, "x > 0", "x > 1"),
         ("missed_edge_case", 2, "0 if x == 0 else ", ""),
         ("wrong_return", 2, "x // abs(x)", "abs(x) // abs(x)")),
        (((5,), 1), ((-3,), -1), ((0,), 0), ((1,), 1), ((-1,), -1)),
        odd=(("another_algorithm", "return 0 if x == 0 else x // abs(x)"),)),
    Family(
        "boxes_needed", "n: int, k: int", "int",
        ("A box has space for k items. Return how many boxes n items fill when the last box may be partly empty. The "
         "arguments are n (0 or more) and k (1 or more).",
         "Divide the first integer, at least 0, by the second, at least 1, and round the result up.",
         "How many groups of at most k people do n people need? Compute it from n and k."),
        ("return (n + k - 1) // k",
         "return n // k + (1 if n % k else 0)",
         """
         count = n // k
         if count * k < n:
             count += 1
         return count
         """),
        (("missed_edge_case", 1, " + (1 if n % k else 0)", ""),
         ("off_by_one", 0, "n + k - 1", "n + k"),
         ("off_by_one", 1, "n // k + (1 if n % k else 0)", "n // k + 1"),
         ("wrong_operator", 2, "count * k < n", "count * k > n"),
         ("wrong_operator", 1, "1 if n % k else 0", "0 if n % k else 1"),
         ("wrong_operator", 0, "// k", "% k"),
         ("wrong_initial_value", 3, "range(0, n, k)", "range(1, n, k)"),
         ("missed_edge_case", 2, "", "if n < k:\n    return 0\n")),
        (((7, 3), 3), ((6, 3), 2), ((0, 5), 0), ((1, 5), 1), ((4, 2), 2)),
        odd=(("another_algorithm", "return len(range(0, n, k))"),)),
    Family(
        "is_triangle", "a: int, b: int, c: int", "bool",
        ("Decide whether three positive lengths are the sides of a triangle with an area greater than 0.",
         "Return True if each of three positive integers is smaller than the sum of the other two.",
         "Can a triangle that is not flat be drawn with sides of three given positive lengths, in any order?"),
        ("return a + b > c and a + c > b and b + c > a",
         """
         a, b, c = sorted((a, b, c))
         return a + b > c
         """,
         "return 2 * max(a, b, c) < a + b + c"),
        (("wrong_operator", 0, "a + b > c and", "a + b > c or"),
         ("missed_edge_case", 0, " and b + c > a", ""),
         ("wrong_operator", 1, "a + b > c", "a + b >= c"),
         ("wrong_operator", 2, "max(a", "min(a"),
         ("missed_edge_case", 1, "a, b, c = sorted((a, b, c))\n", ""),
         ("off_by_one", 2, "< a + b + c", "< a + b + c + 1"),
         ("wrong_return", 1, "a + b > c", "a + b"),
         ("missed_edge_case", 1, "", "if a == b:\n    return True\n")),
        (((3, 4, 5), True), ((1, 2, 8), False), ((9, 1, 2), False), ((1, 2, 3), False), ((2, 2, 2), True),
         ((2, 2, 9), False), ((1, 9, 2), False))),
    Family(
        "count_multiples", "low: int, high: int, k: int", "int",
        ("Count the multiples of k in the range from low to high, both ends included. The arguments low, high and k "
         "are positive.",
         "Given two positive bounds and a positive number, return how many integers from the first bound up to and "
         "including the second bound are divisible by the number.",
         "Return the number of integers i with low <= i <= high that k divides; the order of arguments is low, high, "
         "k, all at least 1."),
        ("return sum(1 for i in range(low, high + 1) if i % k == 0)",
         "return high // k - (low - 1) // k",
         """
         count = 0
         for i in range(low, high + 1):
             if i % k == 0:
                 count += 1
         return count
         """),
        (("off_by_one", 0, "high + 1", "high"),
         ("off_by_one", 1, "(low - 1) // k", "low // k"),
         ("wrong_operator", 2, "== 0", "!= 0"),
         ("wrong_initial_value", 2, "count = 0", "count = 1"),
         ("wrong_return", 2, "return count", "return i"),
         ("wrong_operator", 1, " - (", " + ("),
         ("wrong_initial_value", 2, "range(low,", "range(1,"),
         ("missed_edge_case", 2, "", "if high == low:\n    return 0\n")),
        (((1, 10, 3), 3), ((10, 20, 5), 3), ((7, 8, 5), 0), ((6, 6, 3), 1), ((3, 9, 3), 3))),
    Family(
        "clock_text", "n: int", "str",
        ("Turn a number of minutes since midnight into a time like 9:05: hours without leading zero, a colon, and "
         "minutes with two digits.",
         "Return the hours and minutes of n minutes as text in the form h:mm, where minutes below 10 get a leading 0.",
         "Format a count of minutes, below one day, as hours, a colon and two digits of minutes."),
        ('return str(n // 60) + ":" + str(n % 60).zfill(2)',
         'return "%d:%02d" % divmod(n, 60)',
         """
         a = n // 60
         b = n - 60 * a
         t = str(b)
         if b < 10:
             t = "0" + t
         return str(a) + ":" + t
         """),
        (("missed_edge_case", 0, ".zfill(2)", ""),
         ("wrong_operator", 0, "str(n // 60)", "str(n % 60)"),
         ("off_by_one", 2, "b < 10", "b < 9"),
         ("wrong_operator", 2, "n - 60 * a", "n + 60 * a"),
         ("missed_edge_case", 2, 'if b < 10:\n    t = "0" + t\n', ""),
         ("wrong_initial_value", 1, "divmod(n, 60)", "divmod(n, 100)"),
         ("wrong_return", 2, 'str(a) + ":" + t', 't + ":" + str(a)'),
         ("off_by_one", 1, "divmod(n, 60)", "divmod(n + 1, 60)")),
        (((65,), "1:05"), ((0,), "0:00"), ((129,), "2:09"), ((600,), "10:00"), ((725,), "12:05"))),
    Family(
        "sum_odd", "n: int", "int",
        ("Add up all odd numbers from 1 to n, n included if it is odd; n is 0 or more.",
         "Return the sum of the odd integers that are positive and not greater than a given non-negative integer.",
         "Compute 1 + 3 + 5 + ... with all odd terms up to and including n; without terms the sum is 0."),
        ("return sum(range(1, n + 1, 2))",
         """
         total = 0
         for i in range(1, n + 1):
             if i % 2 == 1:
                 total += i
         return total
         """),
        (("off_by_one", 0, "n + 1", "n"),
         ("wrong_initial_value", 0, "range(1,", "range(0,"),
         ("wrong_operator", 1, "== 1", "== 0"),
         ("off_by_one", 2, "(n + 1) // 2", "n // 2"),
         ("wrong_return", 2, "return k * k", "return k"),
         ("wrong_initial_value", 1, "total = 0", "total = 1"),
         ("wrong_operator", 2, "k * k", "k + k"),
         ("missed_edge_case", 0, "", "if n == 1:\n    return 0\n")),
        (((0,), 0), ((1,), 1), ((5,), 9), ((6,), 9), ((7,), 16)),
        odd=(("another_algorithm", """
              k = (n + 1) // 2
              return k * k
              """),)),
    Family(
        "integer_power", "a: int, n: int", "int",
        ("Raise an integer to a power. The arguments are the base and the exponent, which is at least 0.",
         "Return the first integer multiplied by itself as often as the second one, at least 0, states; exponent 0 "
         "gives 1.",
         "Compute base to the exponent for an integer base and a non-negative integer exponent."),
        ("""
         total = 1
         for i in range(n):
             total *= a
         return total
         """,
         "return a ** n"),
        (("wrong_initial_value", 0, "total = 1", "total = 0"),
         ("off_by_one", 0, "range(n)", "range(n - 1)"),
         ("wrong_operator", 1, "a ** n", "a * n"),
         ("missed_edge_case", 2, "(a if n % 2 else 1)", "1"),
         ("wrong_operator", 0, "total *= a", "total += a"),
         ("off_by_one", 0, "range(n)", "range(n + 1)"),
         ("wrong_return", 2, "return 1", "return 0"),
         ("wrong_operator", 1, "a ** n", "n ** a"),
         ("missed_edge_case", 0, "", "if n == 0:\n    return 0\n")),
        (((2, 5), 32), ((7, 0), 1), ((3, 1), 3), ((-2, 3), -8), ((0, 4), 0)),
        odd=(("another_algorithm", """
              if n == 0:
                  return 1
              x = f(a, n // 2)
              return x * x * (a if n % 2 else 1)
              """),)),
]

STRINGS = [
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
        ((("ab", 4), "**ab"), (("abcdef", 3), "abcdef"), (("", 3), "***"), (("xyz", 3), "xyz"))),
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
              """),)),
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
]

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

FAMILIES = [*NUMBERS, *STRINGS, *LISTS, *DICTS]
