"""Labelled programs: running them confirms the table, rows are balanced, and their look does not predict the label."""

import builtins
import collections
import json
import keyword
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports its table like one that is run
import make_programs  # noqa: E402
from program_families import FAMILIES, POOLS, SEVERITY  # noqa: E402

KINDS = {"off_by_one", "wrong_operator", "missed_edge_case", "wrong_initial_value", "unfinished", "undefined_name",
         "wrong_return", "other_task"}
HARMLESS = {kind for kind, severity in SEVERITY.items() if severity == "Negligible"}
WORD = re.compile(r"\w+|[^\w\s]")
BY_NAME = {family.name: family for family in FAMILIES}
# Reads lines [program, examples] and writes one list of outcomes per line. The only function with parameters is called.
RUNNER = """
import ast, copy, json, resource, signal, sys

class Late(BaseException):
    pass

def late(*_):
    raise Late

def outcome(function, arguments, expected):
    given = copy.deepcopy(arguments)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)  # seconds of this process
    try:
        result = function(*given)
    except Late:
        return "late"
    except Exception:
        return "raises"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if result != expected:
        return "differs"
    return "right" if type(result) is type(expected) and given == arguments else "impure"

signal.signal(signal.SIGVTALRM, late)
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
sys.setrecursionlimit(200)
for line in sys.stdin:
    program, examples = json.loads(line)
    names = {}
    exec(program, names)
    name, = (node.name for node in ast.parse(program).body if node.args.args)
    results = []
    for example in ast.literal_eval(examples):
        results.append(outcome(names[name], *example))
        if results[-1] == "late":
            break
    print(json.dumps(results))
"""


def outcomes(cases: list[tuple[str, str]]) -> list[list[str]]:
    """Runs (program, name of family) on the family's examples in a process with limits."""
    lines = [json.dumps([program, repr(BY_NAME[family].examples)]) for program, family in cases]
    done = subprocess.run([sys.executable, "-I", "-c", RUNNER], input="\n".join(lines), capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def untrue(cases: list[tuple[str, str, int]]) -> list[str]:
    """Programs, of (program, family, label), that do not do what the label states."""
    found = outcomes([case[:2] for case in cases])
    true = lambda label, results: set(results) == {"right"} if label else bool({"differs", "raises"} & set(results))
    return [f"{family} {label} {results}\n{program}"
            for (program, family, label), results in zip(cases, found, strict=True)
            if "late" in results or not true(label, results)]


def text_of(program: make_programs.Program) -> str:
    """The program as the table has it."""
    body = textwrap.indent(program.body, "    ")
    return f"def f({', '.join(program.params)}):\n{body}\n"


@pytest.fixture(scope="module")
def rows():
    """The rows that the script writes by default."""
    return make_programs.make_rows(2000, 0, 0.2)


def of_subset(rows: list[dict], subset: str) -> tuple[list[str], np.ndarray]:
    """Programs and labels of a subset."""
    chosen = [row for row in rows if row["subset"] == subset]
    return [row["candidate"] for row in chosen], np.array([row["label"] for row in chosen], bool)


def test_table_is_complete():
    assert len(FAMILIES) >= 60 and len(BY_NAME) == len(FAMILIES)
    for family in FAMILIES:
        right = make_programs.right_programs(family)
        assert len(set(family.wordings)) >= 3 and len(family.right) >= 2 and len(family.examples) >= 3, family.name
        assert all(wording.endswith((".", "?")) and '"' not in wording for wording in family.wordings), family.name
        assert {kind for kind, *_ in family.wrong} <= KINDS and len({kind for kind, *_ in family.wrong}) >= 3
        assert len(family.wrong) >= 7 and {kind for kind, _ in family.odd} <= HARMLESS, family.name
        assert {program.fault for program in make_programs.wrong_programs(family)} >= {"unfinished", "undefined_name"}
        assert all(make_programs.local_names(program.body, program.params) <= {"f", *POOLS} for program in right)


def test_drawn_names_are_free():
    drawn = {*POOLS, *(name for pool in POOLS.values() for name in pool)}
    assert not drawn & {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, make_programs.MISSING}
    functions = {*make_programs.FUNCTIONS, *make_programs.HELPERS, *make_programs.UNUSED, *BY_NAME}
    assert not functions & {*drawn, *dir(builtins), *keyword.kwlist}
    imported = {name for family in FAMILIES for program in make_programs.right_programs(family)
                for name in re.findall(r"import (\w+)", program.body)}
    assert not imported & drawn


def test_right_programs_do_the_task_and_wrong_ones_fail():
    cases = [(text_of(program), family.name, program.label) for family in FAMILIES
             for program in [*make_programs.right_programs(family), *make_programs.wrong_programs(family),
                             *make_programs.other_tasks(family, FAMILIES)]]
    wrong = untrue(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} programs:\n" + "\n".join(wrong[:10])


def test_labels_of_rows_are_true(rows):
    wrong = untrue([(row["candidate"], row["group"], row["label"]) for row in rows])
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong[:10])


def test_a_false_label_is_found():
    program = make_programs.right_programs(BY_NAME["clamp"])[0]
    forever = "def f(x, low, high):\n    while True:\n        pass\n"
    assert outcomes([(forever, "clamp")]) == [["late"]]
    assert len(untrue([(text_of(program), "clamp", 0), (forever, "clamp", 0), (text_of(program), "clamp", 1)])) == 2


def test_rows_have_the_documented_fields(rows):
    assert len(rows) == 2000 and len({row["id"] for row in rows}) == 2000
    assert len({(row["group"], row["candidate"]) for row in rows}) == 2000
    for row in rows:
        assert list(row) == ["id", "task", "language", "candidate", "label", "group", "fault", "severity", "subset"]
        assert row["language"] == "python" and row["task"] in BY_NAME[row["group"]].wordings
        assert row["fault"] in ({None, *HARMLESS} if row["label"] else KINDS)
        assert row["severity"] == (row["fault"] and SEVERITY[row["fault"]])
    assert {row["fault"] for row in rows} == {None, *SEVERITY}
    assert {row["fault"] for row in rows if row["subset"] == "test"} >= KINDS


def test_subsets_share_no_task_and_are_balanced(rows):
    subsets, labels = collections.defaultdict(set), collections.defaultdict(list)
    for row in rows:
        subsets[BY_NAME[row["group"]].kin or row["group"]].add(row["subset"])
        labels[row["group"]].append(row["label"])
    assert all(len(found) == 1 for found in subsets.values()) and len(labels) == len(FAMILIES)
    assert all(np.mean(values) == 0.5 and 18 <= len(values) <= 22 for values in labels.values())
    test = sum(row["subset"] == "test" for row in rows) / len(rows)
    assert 0.17 <= test <= 0.23


def test_faults_of_other_tasks_are_from_the_same_subset():
    subsets = make_programs.split(FAMILIES, 0.2, make_programs.random.Random(0))
    assert collections.Counter(subsets.values())["test"] == round(0.2 * len(FAMILIES))
    family = BY_NAME["count_words"]
    assert not make_programs.other_tasks(family, [family])
    assert {program.fault for program in make_programs.other_tasks(family, FAMILIES)} == {"other_task"}
    # A related task can have the same result where its condition is the same.
    assert not make_programs.other_tasks(BY_NAME["clamp"], [BY_NAME["middle_of_three"]])


def test_names_of_attributes_and_keyword_arguments_stay():
    body = "out = sorted(xs, key=lambda key: out.count(key))\nreturn out"
    assert make_programs.renamed(body, {"out": "a", "key": "b", "count": "c", "xs": "d"}) == \
        "a = sorted(d, key=lambda b: a.count(b))\nreturn a"


def threshold(values: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """The cut, and whether values above it are right, with the best accuracy."""
    scored = [(np.mean((values >= cut) == labels), cut) for cut in np.unique(values)]
    (high, above), (low, below) = max(scored), min(scored)
    return (above, 1) if high >= 1 - low else (below, 0)


@pytest.mark.parametrize("measure", [
    len, lambda text: text.count("\n"), lambda text: len(WORD.findall(text)), lambda text: "#" in text,
    lambda text: '"""' in text, lambda text: "->" in text, lambda text: text.count("def ")],
    ids=["length", "lines", "tokens", "comment", "docstring", "annotation", "functions"])
def test_the_look_does_not_predict_the_label(rows, measure):
    texts, labels = of_subset(rows, "train")
    cut, right_above = threshold(np.array([measure(text) for text in texts]), labels)
    for subset in ("train", "test"):
        texts, labels = of_subset(rows, subset)
        accuracy = np.mean((np.array([measure(text) for text in texts]) >= cut) == (labels == right_above))
        assert abs(accuracy - 0.5) <= 0.04, (subset, accuracy)


def bag_of_words(texts: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    counts = np.zeros((len(texts), len(vocabulary)))
    for row, text in zip(counts, texts, strict=True):
        for word in WORD.findall(text):
            if word in vocabulary:
                row[vocabulary[word]] += 1
    return counts


def logistic(features: np.ndarray, labels: np.ndarray, penalty: float = 30.0) -> np.ndarray:
    """Weights of a logistic regression by gradient descent."""
    weights = np.zeros(features.shape[1])
    for _ in range(150):
        error = 1 / (1 + np.exp(-features @ weights)) - labels
        weights -= 0.1 * (features.T @ error + penalty * weights) / len(labels)
    return weights


@pytest.mark.parametrize("present", [False, True], ids=["counts", "presence"])
def test_single_words_do_not_predict_the_label(rows, present):
    (train, labels), (test, held_back) = of_subset(rows, "train"), of_subset(rows, "test")
    frequent = collections.Counter(word for text in train for word in set(WORD.findall(text)))
    vocabulary = {word: i for i, word in enumerate(sorted(word for word, count in frequent.items() if count >= 3))}
    train, test = bag_of_words(train, vocabulary), bag_of_words(test, vocabulary)
    if present:
        train, test = np.minimum(train, 1), np.minimum(test, 1)
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    right, wrong = train[labels].mean(0), train[~labels].mean(0)
    nearest = np.square(test - right).sum(1) < np.square(test - wrong).sum(1)
    for name, found in (("centroid", nearest), ("logistic", test @ logistic(train, labels) > 0)):
        accuracy = np.mean(found == held_back)
        print(f"{name}: {accuracy:.3f}")
        assert accuracy < 0.6, (name, accuracy)


def test_command_writes_reproducible_rows(tmp_path, monkeypatch, capsys):
    texts = []
    for name in ("a.jsonl", "b.jsonl"):
        monkeypatch.setattr(sys, "argv", ["make_programs.py", str(tmp_path / name), "--count", "250", "--seed", "3",
                                          "--held_back", "0.5"])
        make_programs.main()
        texts.append((tmp_path / name).read_text())
    rows = [json.loads(line) for line in texts[0].splitlines()]
    assert texts[0] == texts[1] and len(rows) == 250
    assert 0.4 <= np.mean([row["subset"] == "test" for row in rows]) <= 0.6
    assert set(json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}")) == {"train", "test"}
    monkeypatch.setattr(sys, "argv", ["make_programs.py", str(tmp_path / "c.jsonl"), "--count", "7"])
    with pytest.raises(SystemExit):
        make_programs.main()


def test_repeated_programs_are_refused(monkeypatch):
    monkeypatch.setattr(make_programs, "render", lambda program, *_: f"label {program.label}")
    assert len(make_programs.make_rows(2, 0, 0.0, [BY_NAME["sign"]])) == 2
    with pytest.raises(ValueError, match="sign: the table has too few programs"):
        make_programs.make_rows(4, 0, 0.0, [BY_NAME["sign"]])
