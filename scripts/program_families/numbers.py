"""Families of programs on numbers."""

from program_families.family import Family

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
