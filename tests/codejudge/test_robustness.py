"""Edits of programs: golden results by hand, and properties over all shared programs; none of them is ever run."""

import ast
import json
import re
import tokenize
import warnings
from collections import Counter
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.codejudge.robustness import CLAIMS, EDITS, LANGUAGES, praise, rename, scan, stub, truncate

WORD = re.compile(r"(?!\d)[\w$]+")


@pytest.fixture(scope="module")
def programs(shared):
    """(id, language, declaration, candidate) of the shared programs."""
    file = shared / "codejudge" / "humanevalx.jsonl"
    if not file.exists():
        pytest.skip(f"the programs are not at hand ({file})")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [(row["id"], row["language"], row["declaration"], row["candidate"]) for row in rows]


def parts(text, language, kind):
    return [text[span.start:span.end] for span in scan(text, language) if span.kind == kind]


def tree(text):
    """The syntax tree of a Python program; None if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError:
        return None


def renaming(before, after, language):
    """Old name -> new name, after a check that nothing but names in code differs and that the map is one to one."""
    old, new = scan(before, language), scan(after, language)
    assert [span.kind for span in old] == [span.kind for span in new]
    names = {}
    for one, other in zip(old, new, strict=True):
        first, second = before[one.start:one.end], after[other.start:other.end]
        if one.kind != "code":
            assert first == second
            continue
        assert WORD.sub("x", first) == WORD.sub("x", second)
        for word, replaced in zip(WORD.findall(first), WORD.findall(second), strict=True):
            if word != replaced:
                assert names.setdefault(word, replaced) == replaced
    assert len(set(names.values())) == len(names) and not set(names.values()) & set(WORD.findall(before))
    return names


# --- Scanner.

@pytest.mark.parametrize(("language", "text", "spans"), [
    ("python", "x = f'a#' # it's\n", ["x = ", "s:f'a#'", " ", "c:# it's", "\n"]),
    ("python", "'''a\n'b' # ''' + \"\\\"#\"", ["s:'''a\n'b' # '''", " + ", 's:"\\"#"']),
    ("python", "x = 'open\ny = 1", ["x = ", "s:'open", "\ny = 1"]),
    ("python", 'Rb"\\" + bar"a"', ['s:Rb"\\" + bar"', "a", 's:"']),
    ("cpp", "int n = 1'000; // a\\\nb\nchar c = '\\'';",
     ["int n = 1'000; ", "c:// a\\\nb", "\nchar c = ", "s:'\\''", ";"]),
    ("cpp", 'R"x(a)" // )x"; /* "s" */', ['s:R"x(a)" // )x"', "; ", 'c:/* "s" */']),
    ("java", 'String s = """\n"a" // b\n""";', ["String s = ", 's:"""\n"a" // b\n"""', ";"]),
    ("js", "a / b / c; /[/'\"]/g.test(`x${{a: `y`}}z`)",
     ["a / b / c; ", "s:/[/'\"]/g", ".test(", "s:`x${", "{a: ", "s:`y`", "}", "s:}z`", ")"]),
    ("js", "return /'/ // '", ["return ", "s:/'/", " ", "c:// '"]),
    ("js", "(a) / 2 + b[0] / 'c'", ["(a) / 2 + b[0] / ", "s:'c'"]),
    ("go", "s := `a\\` + \"b`\" + string('\"') /* ` */",
     ["s := ", "s:`a\\`", " + ", 's:"b`"', " + string(", "s:'\"'", ") ", "c:/* ` */"]),
])
def test_scan_golden(language, text, spans):
    mark = {"code": "", "string": "s:", "comment": "c:"}
    assert [mark[span.kind] + text[span.start:span.end] for span in scan(text, language)] == spans
    assert all(span.closed for span in scan(text, language))


@pytest.mark.parametrize(("language", "text"), [
    ("python", "x = '''a"), ("python", "x = r\"\"\"a\\\""), ("cpp", "x; /* a"), ("cpp", 'R"(a)'), ("java", '"""a"'),
    ("js", "`a${b}"), ("js", "`a"), ("go", "`a"), ("go", "/*/")])
def test_open_strings_and_comments_are_reported(language, text):
    assert not scan(text, language)[-1].closed


@given(st.sampled_from(LANGUAGES), st.text("ab \n\"'`/*\\#${}()[]=:;,.1R", max_size=40),
       st.sampled_from(["", "f(a) {\n"]))
def test_any_text_is_edited_or_refused(language, text, declaration):
    spans = scan(text, language)
    assert "".join(text[span.start:span.end] for span in spans) == text
    for edit in EDITS.values():
        assert edit.apply(declaration, text, language) != text
    renamed = rename(declaration, text, language)
    if renamed is not None:
        renaming(text, renamed, language)


# --- Renaming.

@pytest.mark.parametrize(("language", "declaration", "candidate", "renamed"), [
    ("python", "from typing import List\n\n\ndef f(xs: List[int], key) -> int:\n", '''
    """Sum of total."""
    total, self.total = 0, 'total'  # the total
    for i, (x, y) in enumerate(xs):
        total += x.y + g(x=x, y=y)[i]
    list = [total for total in xs if (n := total)]
    with open(key) as file, lock:
        file.write(f"{n}" + "total")
    try:
        return max(total, key=lambda item, k=1: item[k]) + n
    except ValueError as error:
        raise error
''', '''
    """Sum of total."""
    v0, self.total = 0, 'total'  # the total
    for v1, (v2, v3) in enumerate(xs):
        v0 += v2.y + g(x=v2, y=v3)[v1]
    list = [v0 for v0 in xs if (n := v0)]
    with open(key) as v4, lock:
        v4.write(f"{n}" + "total")
    try:
        return max(v0, key=lambda v5, v6=1: v5[v6]) + n
    except ValueError as v7:
        raise v7
'''),
    # Names that calls use as keys, fields of classes, functions and imports stay.
    ("python", "def f(n):\n", '''
    import math as m
    class Node:
        size = 1
        def __init__(self, value): self.value = value
    def helper(a, b): return a + b * m.pi
    size = helper(n, b=1)
    é = "ß"; v0 = Node(size).value; return v0 + len(é)
''', '''
    import math as m
    class Node:
        size = 1
        def __init__(self, v1): self.value = v1
    def helper(v2, b): return v2 + b * m.pi
    size = helper(n, b=1)
    v3 = "ß"; v4 = Node(size).value; return v4 + len(v3)
'''),
    # A program that reads its variables by name keeps those that strings mention.
    ("python", "def f(n):\n", "    a, b = n, 1\n    return eval('a + n') + b\n",
     "    a, v0 = n, 1\n    return eval('a + n') + v0\n"),
    # Text that does not parse: assignments, loops, with and as are found by lines.
    ("python", "def f(n):\n", '''
    a = b = 0; c, d = n
    e[i] = a
    for j in range(n): x.a = g(a, key=b)
    if (m := a) == b: k = m
    with open("a") as h:
        return [z for z in c if d[k
''', '''
    v0 = v1 = 0; v2, v3 = n
    e[i] = v0
    for v4 in range(n): x.a = g(v0, key=v1)
    if (v5 := v0) == v1: v6 = v5
    with open("a") as v7:
        return [v8 for v8 in v2 if v3[v6
'''),
    ("python", "", "name = open(`name`, `rb`); size = 1", "name = open(`name`, `rb`); v0 = 1"),
    ("cpp", "#include <vector>\nusing namespace std;\nint f(vector<int> xs, string s){\n", '''
    const int n = xs.size(), *p = &xs[0]; // n
    unordered_map<string, vector<int>> seen; pair<int, int> size;
    for (auto& [key, value] : seen) value.push_back(key.size() * n);
    string out(s.rbegin(), s.rend()), n2 = "n";
    long long total{0}; int max = 0, a[3];
    std::sort(xs.begin(), xs.end(), [&](const int& l, int r) { return l < r; });
    for (vector<int>::iterator it = xs.begin(); it != xs.end(); it++) total += *it * M_PI;
    return (n * total) + max(a[0], *p) + size.first;
}''', '''
    const int v0 = xs.size(), *v1 = &xs[0]; // n
    unordered_map<string, vector<int>> v2; pair<int, int> v3;
    for (auto& [v4, v5] : v2) v5.push_back(v4.size() * v0);
    string v6(s.rbegin(), s.rend()), v7 = "n";
    long long v8{0}; int max = 0, v9[3];
    std::sort(xs.begin(), xs.end(), [&](const int& v10, int v11) { return v10 < v11; });
    for (vector<int>::iterator v12 = xs.begin(); v12 != xs.end(); v12++) v8 += *v12 * M_PI;
    return (v0 * v8) + max(v9[0], *v1) + v3.first;
}'''),
    ("cpp", "int f(int n){\n", '''
    return g(n);
}
#define LIMIT limit
struct Point { int x; int y; };
int g(int n, int m) { int limit = 1, x = m; Point p = {x, limit}; return p.y + m; }
''', '''
    return g(n);
}
#define LIMIT limit
struct Point { int x; int y; };
int g(int n, int v0) { int limit = 1, x = v0; Point p = {x, limit}; return p.y + v0; }
'''),
    ("java", "class Solution {\n    public int f(List<Integer> xs) {\n", '''
        final Map<String, List<Integer>> seen = new HashMap<>(); int[] size = new int[3]; char x = 'x';
        int length = xs.size(), count = 0, sum = sum(xs);
        for (Map.Entry<String, List<Integer>> entry : seen.entrySet()) count += entry.getValue().size();
        xs.stream().map(y -> y + x).reduce(0, (a, b) -> a + b);
        try { this.total = count; } catch (Exception e) { throw e; }
        outer: for (int i = 0; i < size.length; i++) { if (xs instanceof ArrayList list) break outer; }
        return count; /* count */
    }
}''', '''
        final Map<String, List<Integer>> v0 = new HashMap<>(); int[] v1 = new int[3]; char v2 = 'x';
        int length = xs.size(), v3 = 0, sum = sum(xs);
        for (Map.Entry<String, List<Integer>> v4 : v0.entrySet()) v3 += v4.getValue().size();
        xs.stream().map(v5 -> v5 + v2).reduce(0, (v6, v7) -> v6 + v7);
        try { this.total = v3; } catch (Exception v8) { throw v8; }
        outer: for (int v9 = 0; v9 < v1.length; v9++) { if (xs instanceof ArrayList v10) break outer; }
        return v3; /* count */
    }
}'''),
    ("js", "const f = (xs, n) => {\n", '''
  let total = 0, count; const seen = {total: 1, count: n, xs};
  const [first, ...rest] = xs, {a, b: c, d = 1} = n;
  for (const x of rest) { total += x.total + (x ? first : c); }
  var g = function (y, z = 1) { return y / z / total; }, re = /total/g;
  xs.map(m => ({m, [first]: m})).map((k, i) => `${k}: total ${total + `${i}`}`);
  try { g(...rest) } catch (error) { return error?.total; }
  if (n) { count = a; }
  return {seen, g: g, total() { return d }};
};
''', '''
  let total = 0, v0; const seen = {total: 1, count: n, xs};
  const [v1, ...v2] = xs, {a, b: v3, d = 1} = n;
  for (const v4 of v2) { total += v4.total + (v4 ? v1 : v3); }
  var v5 = function (v6, v7 = 1) { return v6 / v7 / total; }, v8 = /total/g;
  xs.map(m => ({m, [v1]: m})).map((v9, v10) => `${v9}: total ${total + `${v10}`}`);
  try { v5(...v2) } catch (v11) { return v11?.total; }
  if (n) { v0 = a; }
  return {seen, g: v5, total() { return d }};
};
'''),
    ("js", "const f = (xs) => {\n", "  let x = 1;\n  return eval('x');\n}\n", None),
    ("go", "func F(xs []int, s string) (int, error) {\n", '''
    total, err := 0, error(nil) // total
    var count, size int
    const limit = `total`
    for i, x := range xs { total += x * i }
    for _, r := range s { if r == 'r' { count++ } }
    less := func(a, b int, c ...string) bool { return a < b && len(c) > size }
    sort.Slice(xs, func(i, j int) bool { return less(xs[i], xs[j]) })
    m := map[string]int{limit: 1, "total": total}
    type point struct { x, y int }
    p := point{x: 1}; max := p.x
    strings := strings.Split(s, limit)
    return m[limit] + max, err
}''', '''
    v0, v1 := 0, error(nil) // total
    var v2, v3 int
    const limit = `total`
    for v4, x := range xs { v0 += x * v4 }
    for _, v5 := range s { if v5 == 'r' { v2++ } }
    v6 := func(v7, v8 int, v9 ...string) bool { return v7 < v8 && len(v9) > v3 }
    sort.Slice(xs, func(v4, v10 int) bool { return v6(xs[v4], xs[v10]) })
    v11 := map[string]int{limit: 1, "total": v0}
    type point struct { x, y int }
    v12 := point{x: 1}; max := v12.x
    strings := strings.Split(s, limit)
    return v11[limit] + max, v1
}'''),
])
def test_rename_golden(language, declaration, candidate, renamed):
    assert rename(declaration, candidate, language) == renamed


@pytest.mark.parametrize(("language", "candidate"), [
    ("python", "    return n\n"), ("cpp", "    return (n * m) & f(n);\n}"), ("java", "        return n;\n    }\n}"),
    ("js", "  return n.x;\n};"), ("go", "    return func(int, string) bool { return n }\n}"), ("rust", "let n = 1;")])
def test_nothing_to_rename(language, candidate):
    assert rename("", candidate, language) is None


def test_interfaces_of_whole_files_stay():
    source = "LIMIT = 3\ndef f(items):\n    count = LIMIT\n    return [item for item in items][:count]\n"
    assert rename("", source, "py") == source.replace("count", "v0").replace("item ", "v1 ").replace("[item", "[v1")


def test_renaming_changes_names_alone(programs, record_property):
    renamed = Counter()
    for name, language, declaration, candidate in programs:
        new = rename(declaration, candidate, language)
        renamed[language] += new is not None
        if new is None:
            continue
        names = renaming(candidate, new, language)
        assert names and not set(names) & set(WORD.findall(declaration)), name
        before, after = tree(declaration + candidate), tree(declaration + new)
        if language == "python" and before:
            old = {value: key for key, value in names.items()}
            for node in ast.walk(after):
                for attribute in ("id", "arg", "name"):
                    if isinstance(node, ast.Name | ast.arg | ast.ExceptHandler) and hasattr(node, attribute):
                        value = getattr(node, attribute)
                        setattr(node, attribute, old.get(value, value))
            assert ast.dump(after) == ast.dump(before), name
    total = Counter(language for _, language, _, _ in programs)
    shares = {language: round(renamed[language] / total[language], 3) for language in LANGUAGES}
    record_property("renamed", shares)
    print("share of programs renamed:", sum(renamed.values()) / len(programs), shares)
    assert sum(renamed.values()) / len(programs) > 0.8 and min(shares.values()) > 0.5


def test_strings_and_comments_of_python_are_those_of_tokenize(programs):
    for name, language, declaration, candidate in programs:
        text = declaration + candidate
        if language == "python" and tree(text):
            lines = [0]
            for line in text.split("\n"):
                lines.append(lines[-1] + len(line) + 1)
            tokens = [(lines[token.start[0] - 1] + token.start[1], token.string)
                      for token in tokenize.generate_tokens(StringIO(text).readline)
                      if token.type in (tokenize.STRING, tokenize.COMMENT)]
            if "f'" not in text and 'f"' not in text:  # from Python 3.12 on these are several tokens
                assert [(span.start, text[span.start:span.end]) for span in scan(text, language)
                        if span.kind != "code"] == tokens, name


# --- Comments, stubs, cuts.

HEAD, TAIL = CLAIMS


@pytest.mark.parametrize(("language", "declaration", "candidate", "praised"), [
    ("python", "def f():\n", "\n    if 1:\n        return 2\n\n",
     f"\n    # {HEAD}\n    if 1:\n        return 2\n        # {TAIL}\n\n"),
    ("python", "", "x = 1", f"# {HEAD}\nx = 1\n# {TAIL}"),
    ("python", "def f():", " return '#'", f"\n # {HEAD}\n return '#'\n # {TAIL}"),
    ("cpp", "int f(){\n", "\n    return 1; // one\n}", f"\n    // {HEAD}\n    return 1; // one\n}}\n// {TAIL}"),
    ("java", "int f() {", "return 1;\n}\n}\n", f"\n// {HEAD}\nreturn 1;\n}}\n}}\n// {TAIL}\n"),
    ("js", "const f = () => {\n", "  return `a`;\n};\n", f"  // {HEAD}\n  return `a`;\n}};\n// {TAIL}\n"),
    ("go", "func f() {\n", "\treturn\n", f"\t// {HEAD}\n\treturn\n\t// {TAIL}\n"),
    # No comment can be there.
    ("python", "def f():\n", " \n", None), ("python", "x = ", "1", None), ("python", "", "x = '''a", None),
    ("python", "", "x = 1 + \\\n", None), ("js", "", "x = `a", None), ("go", "", "/* a", None), ("rust", "", "a", None),
])
def test_praise_golden(language, declaration, candidate, praised):
    assert praise(declaration, candidate, language) == praised


@pytest.mark.parametrize(("language", "declaration", "candidate", "stubbed"), [
    ("python", "import math\n\ndef g(x):\n    return x\n\n\ndef f(a: dict,\n      b=':') -> int:\n",
     "\n    # b\n    return 1\n",
     "    pass\n\n\ndef f(a: dict,\n      b=':') -> int:\n\n    # b\n    return 1\n"),
    ("python", 'class A:\n    @cache\n    def f(self):\n        """def g():"""\n', "        return 1\n",
     '        pass\n\n\n    @cache\n    def f(self):\n        """def g():"""\n        return 1\n'),
    ("python", "x = 1\n", "y = 2\n", None), ("python", "def f(x):", " return x\n", None),
    ("python", "def f(x):\n    y = 1\n", "    return x\n", None), ("python", "def f(x):\n", "    # TODO\n", None),
    ("python", "def f(x):\n    if x:\n", "        return x\n", None), ("python", "def f(x):\n", "return x\n", None),
    ("js", "function g() { return 1; }\n\nfunction f(x) {\n", "  return x;\n}\n",
     "  return undefined;\n}\n\nfunction f(x) {\n  return x;\n}\n"),
    ("js", "var f = async (x) => {\n", "  return x;\n};\n",
     "  return undefined;\n};\n\nvar f = async (x) => {\n  return x;\n};\n"),
    # A second const is an error; a head that is no function, or not the last that is open.
    ("js", "const f = (x) => {\n", "  return x;\n};\n", None), ("js", "var f = {\n", "  a: 1\n};\n", None),
    ("js", "function f(x) {\n  if (x) {\n", "  return x;\n}}\n", None),
    ("js", "{\nfunction f(x) {\n", "  return x;\n}}\n", None),
    ("cpp", "int f(){\n", "    return 1;\n}", None), ("java", "int f() {\n", "return 1;\n}\n}", None),
    ("go", "func f() {\n", "\treturn\n}", None),
])
def test_stub_golden(language, declaration, candidate, stubbed):
    assert stub(declaration, candidate, language) == stubbed


@pytest.mark.parametrize(("language", "declaration", "candidate", "cut"), [
    ("python", "def f(x):\n", "\n    a = 1\n    # b\n    b = 2\n    c = '''\n3'''\n    return a\n    # end\n",
     "\n    a = 1\n    # b\n    b = 2\n    c = '''\n"),  # 2 of the 5 lines with code or strings
    ("python", "def f(x):\n", "    a = 1\n    return a\n", "    a = 1\n"),
    ("cpp", "int f(){\n", "    int a = 1;\n    a++;\n    return a;\n}", "    int a = 1;\n    a++;\n    return a;\n"),
    ("java", "class S {\n    int f() {\n", "        return 1;\n    }\n}", "        return 1;\n    }\n"),
    ("js", "const f = () => {\n", "  return 1;\n};\n", "  return 1;\n"),
    ("go", "func f() int {\n", "\ta := 1\n\n\treturn a // a\n}\n", "\ta := 1\n\n\treturn a // a\n"),
    ("python", "def f(x):\n", "    return 1\n\n# a\n", None), ("cpp", "int f(){\n", "    return 1; }\n", None),
    # The lines follow the function.
    ("js", "const f = () => {\n", "  return 1;\n};\nmodule.exports = f;\n", None),
    ("python", "def f(x):\n", "    return 1\n\nprint(f(1))\n", None), ("rust", "", "a\nb\n", None),
    ("python", "", "def f(x):\n    return x\n\nprint(f(1))\nprint(f(2))\n", None),
    ("python", "", "def f(x):\n    return x\n\nif f(1):\n    print(1)\n    print(2)\n", None),
    ("js", "", "function f() {\n  return 1;\n}\nf();\nf();\n", None),
    ("python", "", "def f(\n    x,\n):\n    a = x\n    b = a\n    return b\n", "def f(\n    x,\n):\n    a = x\n"),
    ("js", "", "function f() {\n  return 1;\n}\n", "function f() {\n  return 1;\n"),
])
def test_truncate_golden(language, declaration, candidate, cut):
    assert truncate(declaration, candidate, language) == cut


@pytest.mark.parametrize(("alias", "language"), [("py", "python"), ("c++", "cpp"), ("javascript", "js"),
                                                 ("golang", "go")])
def test_other_names_of_languages(alias, language):
    declaration, candidate = "def f(x):\n", "    a = 1\n    return a\n"
    for edit in EDITS.values():
        assert edit.apply(declaration, candidate, alias) == edit.apply(declaration, candidate, language)


def test_edits_by_name():
    assert {name: edit.keeps_meaning for name, edit in EDITS.items()} == {
        "rename": True, "praise": True, "stub": True, "truncate": False}
    assert all(edit.name == name for name, edit in EDITS.items())


def test_every_shared_program_is_edited_or_refused(programs):
    applied = Counter()
    for name, language, declaration, candidate in programs:
        for edit in EDITS.values():
            new = edit.apply(declaration, candidate, language)
            applied[edit.name] += new is not None
            assert new is None or new != candidate, (name, edit.name)
            if new is not None and language == "python" and edit.keeps_meaning and tree(declaration + candidate):
                assert tree(declaration + new), (name, edit.name)
        commented = praise(declaration, candidate, language)
        if commented is not None:
            assert [text for text in parts(commented, language, "comment") if text[2:].strip() not in CLAIMS] == \
                parts(candidate, language, "comment"), name
            assert "".join(parts(commented, language, "code")).split() == \
                "".join(parts(candidate, language, "code")).split(), name
        cut = truncate(declaration, candidate, language)
        assert cut is None or candidate.startswith(cut) and len(cut.split()) < len(candidate.split()), name
    print("share of programs edited:", {name: round(count / len(programs), 3) for name, count in applied.items()})
    assert applied["praise"] == len(programs) and applied["truncate"] > 0.85 * len(programs)
