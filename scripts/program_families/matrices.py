"""Families of programs on lists of lists."""

from program_families.family import Family

MATRICES = [
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
]
