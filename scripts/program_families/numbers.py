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
