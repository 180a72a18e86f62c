"""Families of programs on factors, multiples and powers."""

from program_families.family import Family

DIVISIBILITY = [
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
]
