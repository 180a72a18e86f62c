"""Parsers of a judge's answers: both columns of the method's table, and answers that hide the end of a list."""

import json
import time

import hypothesis
import numpy as np
import pytest

from jaxllm.codejudge import PARSERS, fault_score, load_prompts
from jaxllm.codejudge.answers import majority
from jaxllm.judge import Invalid

STRICT, COMPAT = PARSERS["strict"], PARSERS["compat"]
TAXONOMY = load_prompts().taxonomy("default")
INVALID = None
SMALL = '{"inconsistency": "off by one", "severity": "Small"}'


def faults(*severities):
    return json.dumps([{"inconsistency": "x", "severity": severity} for severity in severities])


def score(parser, text, **options):
    found = parser.faults(text, TAXONOMY, **options)
    return INVALID if isinstance(found, Invalid) else fault_score([one.severity for one in found], TAXONOMY.weights)


def value(parsed):
    return INVALID if isinstance(parsed, Invalid) else parsed


@pytest.mark.parametrize(("severities", "expected"), [
    ([], 1.0), (["Negligible"] * 9, 1.0), (["Small"], 0.95), (["Major"], 0.5), (["Small", "Small", "Major"], 0.4),
    (["Major", "Major", "Small"], 0.0), (["Fatal"], 0.0), (["Small"] * 19, 0.05), (["Small"] * 21, 0.0),
    (["Small"] * 10 + ["Major"], 0.0), (["Fatal"] * 10_000, 0.0)])
def test_fault_score(severities, expected):
    assert fault_score(severities, TAXONOMY.weights) == pytest.approx(expected, abs=1e-12)


def test_weights_can_be_changed():
    weights = load_prompts().taxonomy("default", {"Small": 10}).weights
    assert fault_score(["Small", "Major"], weights) == pytest.approx(0.4)


@pytest.mark.parametrize(("text", "compat", "strict"), [
    ('[{"inconsistency": "None", "severity": "Negligible"}]', 1.0, 1.0),
    (faults("Major"), 0.5, 0.5), (faults("Small"), 0.95, 0.95), (faults("Major", "Major", "Small"), 0.0, 0.0),
    (faults("Small", "small", "Major"), 0.4, 0.4), (faults("FATAL"), 0.0, 0.0),
    (f"Here are the faults.\n```json\n{faults('Major')}\n```\nThat is all.", 0.5, 0.5),
    ('{"inconsistency": "x", "severity": "Major"}', 0.5, 0.5),
    (faults("Critical"), 1.0, INVALID),
    ('[{"inconsistency": "a logic error in line 2"}]', 0.5, 0.5),
    ('[{"inconsistency": "something odd"}]', INVALID, INVALID),
    ("[]", INVALID, 1.0),
    ('[{"inconsistency": "x", "severity": "Small"}, {"inconsistency": "y", "severity": Major}]', 0.95, 0.45),
    ('[{"inconsistency": "x", "severity": null}]', INVALID, INVALID), ('[{"severity": "Major"}]', INVALID, 0.5),
    ("The program is fine.", INVALID, INVALID), ("", INVALID, INVALID),
])
def test_lists_of_faults(text, compat, strict):
    assert (score(COMPAT, text), score(STRICT, text)) == (compat, strict)


@pytest.mark.parametrize(("text", "expected"), [
    ('[{"inconsistency": "prints [1, 2, ] and {a,}", "severity": "Small"}]', 0.95),
    ('[{"inconsistency": "x", "severity": "Major"},]', 0.5),
    ('{"faults": [{"inconsistency": "x", "severity": "Major"}, {"inconsistency": "y", "severity": "Small"}]}', 0.45),
    ('[{"inconsistency": "off by one", "severity": "Small"},{"inconsistency": "never returns", "sev', INVALID),
    ('[{"inconsistency": "off by one", "severity": "Small"},', INVALID),
    ('{"faults": [{"inconsistency": "off by one", "severity": "Small"},', INVALID),
    ("[{'inconsistency': 'x', 'severity': 'Major'}]", 0.5),
    ('[{inconsistency: "x", severity: "Small"}, {inconsistency: "y", severity: "Major"}]', 0.45),
    ('It returns [] for {"a": 1} and [1, 2]. [{"inconsistency": "x", "severity": "Major"}]', 0.5),
    (f"The program prints {faults('Negligible')}. My answer: {faults('Fatal')}", INVALID),
    (f"```json\n{faults('Negligible')}\n```\nis what it prints.\n```json\n{faults('Fatal')}\n```", INVALID),
    (f"{faults('Small')}\nAgain: {faults('Small')}", 0.95),
    (f"It prints\n```\n[]\n```\nMy answer: {faults('Fatal')}", 0.0),
    (f"```\n{faults('Negligible')}\n```\nbut {faults('Fatal')}", INVALID),
    ('```\n{"result": []}\n```\nis printed: ' + faults("Fatal"), 0.0),
    ("```\n[]\n```\nis what it prints, a fatal fault", INVALID), ("```json\n[]\n```", 1.0),
    ("```json\n[{'inconsistency': 'x', 'severity': 'Major'},]\n```", 0.5),
    ("[{'inconsistency': 'index ] off', 'severity': 'Small'}, {'inconsistency': 'b', 'severity': 'Fatal'}]", INVALID),
    ("[{'inconsistency': 'missing }', 'severity': 'Negligible'}, {'inconsistency': 'b', 'severity': 'Major'}]",
     INVALID),
    ('[{"inconsistency": "a", "severity": "Small"},]\n\n' + faults("Fatal"), INVALID),
    ('{"inconsistency": "a", "severity": "Small",}\n{"inconsistency": "b", "severity": "Fatal"}', INVALID),
    ('[{"inconsistency": "a", "severity": "Small"}}, {"inconsistency": "b", "severity": "Fatal"}]', INVALID),
    ('```\n[{"inconsistency": "a", "severity": "Fatal"},]\n```\n```\n' + faults("Negligible") + "\n```", INVALID),
    ('{"severity": "Fatal", "inconsistency": "a", "severity": "Negligible"}', INVALID),
    ('{"inconsistency": "a", "severity": "Major"}\n{"inconsistency": "a", "severity": "Major"}', 0.0),
    ('```json\n{"inconsistency": "a", "severity": "Small"}\n```\nThe JSON list is:\n```json\n'
     '{"inconsistency": "a", "severity": "Small"}\n```', 0.95),
    ('{"inconsistency": "a", "severity": "Small"}\n{"inconsistency": "b", "severity": "Small"}\nAgain:\n'
     '{"inconsistency": "a", "severity": "Small"}, {"inconsistency": "b", "severity": "Small"}', 0.9),
    ('{"inconsistency": "a", "severity": "Small"}\nand\n{"inconsistency": "b", "severity": "Small"}', 0.9),
    ('{"uncertain_points": []}', INVALID), ('{"faults": []}', 1.0), ("severity: Fatal. []", INVALID),
    ("[" * 100_000 + "]" * 100_000, INVALID), ('[{"a":' * 150 + "1," + "}]" * 150, INVALID),
    ('[{"inconsistency": "not a logic error: Incompletion"}]', INVALID),
    ('[[{"inconsistency": "x", "severity": "Major"}]]', INVALID), ("[1, 2]", INVALID), ('{"a": 1}', INVALID),
    ('[{"inconsistency": ["x"], "severity": "Major"}]', INVALID), ("[" * 10_000, INVALID), ("{" * 10_000, INVALID),
    ('[{"inconsistency": "None", "severity": "None"}]', 1.0), ('[{"inconsistency": null, "severity": ""}]', 1.0),
    ('[{"Inconsistency": "x", "Severity": " major "}]', 0.5), (faults(*["Small"] * 10_000), 0.0),
    ('<think>[{"inconsistency": "x", "severity": "Fatal"}]</think>[]', 1.0),
    ('[{"inconsistency": "x", "severity": "Negligible", "Fatal"}]', INVALID),
    ('[{"inconsistency": "x", "severity": "Small" "Major"}]', INVALID),
    ('[{"inconsistency": "x", "severity": "Small", severity2: "Major"}]', INVALID),
    ('[{"inconsistency": "x", "severity": "Small", "level": "Major"}]', INVALID),
    ("[{'inconsistency': 'a\\nb', 'severity': 'Major', 'line': 3}]", 0.5),
    ("[{'inconsistency': None, 'severity': 'Negligible'}]", 1.0),
    ('[{"inconsistency": "None", "severity": "Fatal"}]', INVALID), ('[{"inconsistency": "", "severity": ""}]', 1.0),
    (SMALL + ",\n{", INVALID), (SMALL + ",\n", INVALID), (f"[\n// faults\n{SMALL},\n", INVALID),
    (f'["x", {SMALL}, ', INVALID), (f"[ /* list */ {SMALL} ]", 0.95), (f"```json\n{SMALL}\n```\n", 0.95),
    (SMALL + "\n2. Fatal: it never returns", INVALID), (SMALL + "\nThis (Small) fault is rare.", 0.95),
    (SMALL + '\n{"description": "never returns", "level": "Fatal"}', INVALID),
    ('The program prints {"errors": []} and never returns.', INVALID),
    ('{"issues": []} is printed. The loop never ends.', INVALID), ('```json\n{"faults": []}\n```', 1.0),
    ('It prints {"errors": []}. My answer: ' + faults("Fatal"), 0.0),
])
def test_strict_lists(text, expected):
    assert score(STRICT, text) == expected


def test_no_repaired_list_scores_better_than_it_was_meant():
    """Lists with one slip each: the score is right, or there is none."""
    random = np.random.default_rng(0)
    severities, texts = list(TAXONOMY.weights), [
        "x", "index ] off", "missing }", "it's {a, b]", 'says \\"no\\"', "a: b, c"]
    slips = [lambda text: text.replace('"', "'"), lambda text: text[:-1] + ",]", lambda text: text.replace("},", "}"),
             lambda text: text.replace('"severity"', "severity"), lambda text: text[: random.integers(1, len(text))],
             lambda text: text.replace("}", "}}", 1), lambda text: text.replace('": "', '" "', 1),
             lambda text: text[1:], lambda text: text.replace("}", ', "Fatal"}', 1),
             lambda text: text.replace("}", ' "Major"}', 1)]
    read = 0
    for _ in range(750):
        own = random.choice(severities, random.integers(1, 4))
        entries = [f'{{"inconsistency": "{random.choice(texts)}", "severity": "{one}"}}' for one in own]
        whole = f"[{', '.join(entries)}]"
        found = score(STRICT, slips[random.integers(len(slips))](whole))
        assert found is None or found == fault_score(own, TAXONOMY.weights), whole
        read += found is not None
    assert read > 150


def test_the_time_of_compat_is_linear():
    started = time.monotonic()
    assert score(COMPAT, '{"a":' * 20_000) is INVALID and score(COMPAT, "[{" * 20_000) is INVALID
    assert time.monotonic() - started < 5


def test_a_text_is_kept_to_the_letter():
    [fault] = STRICT.faults('[{"inconsistency": "prints [1, 2, ] and {a,}", "severity": "Small"}]', TAXONOMY)
    assert fault.inconsistency == "prints [1, 2, ] and {a,}" and not fault.inferred
    [fault] = STRICT.faults('[{"inconsistency": "A Logic Error"}]', TAXONOMY)
    assert fault.severity == "Major" and fault.inferred


def test_kinds_are_whole_words():
    conala = load_prompts().taxonomy("conala")
    for text in ("it uses another undefined variable", "it fails otherwise", "great inefficiency"):
        assert conala.named(text) == []
    assert conala.named("an out of bounds access") == ["Fatal"]


@hypothesis.given(hypothesis.strategies.text(), hypothesis.strategies.sampled_from(
    ["Yes", "No", "[{", "}]", '"severity": "Major"', "```", "Score: \u00bd", "score \u00b2", "9" * 5000, "<think>"]))
@hypothesis.settings(max_examples=150, deadline=None)
def test_every_text_has_a_value_or_a_reason(text, part):
    for parser in PARSERS.values():
        for answer in (text, part, f"{text}{part}", f"{part}\n{text}", f"score {part}{text}"):
            for parse in (parser.verdict, parser.grade, parser.helpfulness):
                assert isinstance(parse(answer), bool | int | float | Invalid)
            assert isinstance(parser.faults(answer, TAXONOMY), list | Invalid)


def test_a_list_that_the_limit_cut_is_not_repaired():
    damaged = '[{"inconsistency": "x", "severity": "Small"},]'
    assert score(STRICT, damaged) == 0.95
    assert score(STRICT, damaged, cut=True) is INVALID
    assert score(STRICT, f"{SMALL}\n") == 0.95 and score(STRICT, f"{SMALL}\n", cut=True) is INVALID
    assert score(STRICT, f"[ /* list */ {SMALL}, ", cut=True) is INVALID
    assert score(STRICT, f"[{SMALL}]\nThe", cut=True) == 0.95


def test_aliases(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("aliases: {Critical: Fatal}\n")
    taxonomy = load_prompts(file).taxonomy("default")
    [fault] = STRICT.faults(faults("critical"), taxonomy)
    assert fault.severity == "Fatal"


@pytest.mark.parametrize(("text", "compat", "strict"), [
    ("Yes", True, True), ("No.", False, False), ("**NO**", False, False), ("yes, it is", True, True),
    ("I do not know", False, INVALID), ("The code is incorrect", INVALID, INVALID),
    ("The code is correct", INVALID, INVALID), ("Eyes on it: wrong", True, INVALID), ("", INVALID, INVALID),
    ("No errors were found", False, INVALID), ("No, the loop is wrong", False, False), ("no the loop", False, False),
    ("There is no doubt.\nAnswer: Yes", True, True), ("Yes\nNo", True, INVALID), ("Yes, but then:\nno", True, INVALID),
    ("Reasons follow.\nThe answer is no.", False, False), ("noon", False, INVALID), ("yesterday", True, INVALID),
    ("Yes/No", True, INVALID), ("Yes|No", True, INVALID), ("Is the program right? Answer Yes or No.", True, INVALID),
    ("Not yes", True, INVALID), ("I cannot say yes", True, INVALID), ("Yes, the program is incorrect.", True, INVALID),
    ("The answer is not no", False, INVALID), ("The answer is: Yes. It works", True, True),
    ("\\boxed{Yes}", True, True),
    ("No. The program is correct.", False, INVALID), ("The verdict: **No**, it fails", False, False),
    ("NO YES", True, INVALID), ("No *major* issues were found.", False, INVALID),
    ("I would hardly say yes", True, INVALID),
    ('No "bug" was found.', False, INVALID), ("Far from a yes", True, INVALID), ("No - errors found", False, INVALID),
    ("Ye\u017f", INVALID, INVALID), ("Yes. No errors.", True, True), ("Yes, there is no error", True, True),
    ("Yes, it does not fail", True, True), ("It does not fail. Yes.", True, True), ("Yes, no, maybe", True, INVALID),
    ("Yes, all requirements are met, but naming could be better.", True, True), ("Yes, but it fails", True, INVALID),
    ("The program cannot fail, so yes", True, True), ("No, it is not correct", False, False),
    ("<think>No, wait</think>\nYes", True, True), ("<think>Yes, it", True, INVALID),
    ("<think>wait</think>No", False, False),
    ("wait\n</think>\nNo", False, False), ('No: it prints "</think>Yes"', True, False),
])
def test_yes_and_no(text, compat, strict):
    assert (value(COMPAT.verdict(text)), value(STRICT.verdict(text))) == (compat, strict)


@pytest.mark.parametrize(("expected", "texts"), [
    (True, """Yes. The code is correct.|Yes, it handles all cases.|Yes, the program correctly returns the sum.
        Yes. All requirements are met.|Yes, there are no bugs.|Yes, it does not contain any errors.|Yes, it never fails.
        Yes, the program raises an error for negative n.|Yes. It has error handling for empty lists.
        Yes, it returns an error message for wrong input.|Yes, but the naming could be better.
        Yes. However, a docstring would improve it.|Yes, it works for all inputs, since the loop ends at n.
        Yes, it is not only correct but fast.|Final answer: yes.|Yes because it visits each element.
        **Answer:** Yes/ **Explanation:** The loop visits each element.|The loop is right./ Answer: Yes|Overall, yes.
        The program is right, so the answer is yes.|In conclusion: yes|Is the program right? Yes.|Correct: Yes
        Is the program right?/Yes, it is.|Yes./Any bugs? No.|Yes. Errors: no.|Yes, nothing is wrong with it.
        Yes, it isn't wrong.|Yes. It does not need to handle negative numbers.|Yes, the review found no issues.
        Yes, checks of the input prevent crashes.|Yes, it never crashes.|Yes, it would not crash.
        Yes. There are minor issues with naming only.|Faulty: No. Correct: Yes.|**Verdict**: Yes, all is fine."""),
    (False, """no!|No, because the loop stops at n - 1.|No, the program is not correct.|No, it isn't right.
        No. It handles all positive numbers, but not zero.|No, not all requirements are met.|Answer: No
        No, it fails for empty lists.|No. The program is correct for positive n only.|No: the sum starts at 1.
        No. The base case is correct. The loop is wrong.|No, there is no error handling for an empty list.
        No, it does not work for all inputs.|No, it would be correct with n + 1.|Is the program right? No.
        No, no errors are raised for invalid input.|The answer is no, since it ignores n.|Therefore, the answer is no.
        **Verdict:** No/It never returns.|The loop is off by one./ Final answer: No|No, there are several bugs.
        The review finds that it fails for 0. So no.|No/The program is correct for n > 0, but not for 0.
        No. Any bugs? Yes.|No, the logic is correct, but the format is not."""),
    (INVALID, """Yes/The program is incorrect.|Yes./The program is wrong.|No/The program is correct.|Errors found: No
        Any bugs? No.|Is the program wrong? Yes.|Faulty: Yes|Incorrect: yes|The review says it is wrong: yes
        It prints: no|It prints yes, no|Yes, there are several bugs in it.|Yes, it has a bug.|No. Everything is fine.
        Yes, the program does not meet the requirements.|Yes, but it does not handle the empty list.|Maybe.
        No, there are no errors.|No, no errors were found.|No, the program meets all requirements.
        No; it works for every input.|The program is incorrect./Answer: Yes|Yes; the loop never terminates.
        Yes, however it skips the last element.|Yes/No, wait.|Yes./Any bugs? Yes.|Yes. It doesn't return the sum.
        No errors were found./Answer: No|Errors:/No|Yes, no doubt it is wrong.|Yes. It crashes for 0.
        Yes, though the program will crash for an empty list.|Yes. It has a serious issue.""")])
def test_usual_answers_in_sentences(expected, texts):
    for text in texts.replace("\n", "|").split("|"):
        assert value(STRICT.verdict(text.strip().replace("/", "\n"))) == expected, text


@pytest.mark.parametrize("text", ["so " * 30_000, "answer" + " " * 100_000 + "x", "Yes " + "it has a " * 30_000,
                                  "No, " + "no x " * 30_000, "Is it " * 30_000 + "?", "not very " * 30_000])
def test_the_time_of_verdicts_is_linear(text):
    started = time.monotonic()
    STRICT.verdict(text), STRICT.verdict(f"Yes. {text}"), STRICT.verdict(f"{text}\nNo")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("text", "compat", "strict"), [
    ("Score: 3", 3, 3), ("4", 4, 4), ("3/4", INVALID, 3), ("Score (0-4): 2", 2, 2), ("Score: 7", 7, INVALID),
    ("On a scale of 0 to 4, I give this a 3.", INVALID, 3), ("Score: -1", INVALID, INVALID), ("N/A", 0, INVALID),
    ("Score: 3.5", INVALID, INVALID), ("It fails 2 of 9 cases. Score: 1", 1, 1), ("0", 0, 0),
    ("0 to 4", INVALID, INVALID),
    ("Score: 2 or 3", 2, INVALID), ("2, perhaps 3", INVALID, INVALID), ("", INVALID, INVALID),
    ("none", INVALID, INVALID)])
def test_grades(text, compat, strict):
    assert (value(COMPAT.grade(text)), value(STRICT.grade(text))) == (compat, strict)


@pytest.mark.parametrize(("text", "expected"), [
    ("Rating: 4/10", INVALID), ("Score: 3/5", INVALID), ("Score: 2 out of 10", INVALID),
    ("Score (1 to 10): 8", INVALID), ("Rating (1-5): 4", INVALID), ("Score (0-5): 3", INVALID),
    ("Score: \u22121", INVALID), ("Score: \u20131", INVALID),
    ("\u22121", INVALID), ("Score: 3%", INVALID), ("3%", INVALID), ("Score: 2-3", INVALID), ("1e2", INVALID),
    ("Score: 4, no wait, 2", INVALID), ("Score: 4 - 1 = 3", INVALID), ("Score: 3\n\nFinal: 2", INVALID),
    ("Score (4 is best): 3", INVALID), ("0x3", INVALID), ("3\u00b2", INVALID), ("\u00bd", INVALID), ("v3", INVALID),
    ("There are 3 bugs.", INVALID), ("It fails in 2 cases.", INVALID), ("I found 0 problems with it", INVALID),
    ("3 percent", INVALID), ("3 %", INVALID), ("3 bugs", INVALID), ("The final answer prints 3 lines", INVALID),
    ("It passes 2 of 4 cases.", INVALID), ("1. It ignores n.", INVALID), ("I give it 3/4.", 3), ("Score: 3/4.", 3),
    ("Score: 4 of 4", 4), ("3 out of 4 points", 3), ("4 - all cases work", 4), ("3: it ignores n", 3),
    ("3, since it ignores n", 3), ("4. The program is right.", 4), ("I would rate it 2 because it ignores n.", 2),
    ("**3**\n\nIt ignores n.", 3), ("$\\boxed{3}$", 3), ("The grade is 2.", 2), ("It deserves a 1.", 1),
    ("Score: 3\nIt fails for 2 inputs.", 3), ("**Score: 3**", 3), ("Final score: 3.", 3), ("3.", 3), ("score = 2", 2),
    ("score" + " " * 100_000 + "x", INVALID), ("score " * 20_000, INVALID), ("9" * 5000, INVALID)])
def test_strict_grades(text, expected):
    started = time.monotonic()
    assert value(STRICT.grade(text)) == expected
    assert time.monotonic() - started < 5, "the time of a parser grows with the square of the text"


@pytest.mark.parametrize("text", ["Rating: 9/10", "Score: 3 out of 4", "Score (0-4): 2", "Score: 85-90", "\u221285",
                                  "I have 3 remarks.", "It helps in 85 cases"])
def test_ratings_of_another_scale(text):
    assert isinstance(STRICT.helpfulness(text), Invalid)


def test_the_scale_of_ratings_in_other_forms():
    for text in ("Score (0..100): 85", "Score: 85%", "Score: 85 %.", "85 percent", "I rate it 85 of 100."):
        assert STRICT.helpfulness(text) == 0.85


@pytest.mark.parametrize(("text", "compat", "strict"), [
    ("85", 0.85, 0.85), ("85%", 0.85, 0.85), ("3", 0.03, 0.03), ("3.5", 0.03, INVALID), ("(0-4) 2", 0.02, INVALID),
    ("185", 1.85, INVALID), ("0.85", 0.0, INVALID), ("85 out of 100", 0.85, 0.85), ("Rating (0-100): 40", 0.0, 0.4),
    ("100", 1.0, 1.0), ("none", INVALID, INVALID)])
def test_helpfulness(text, compat, strict):
    assert (value(COMPAT.helpfulness(text)), value(STRICT.helpfulness(text))) == (compat, strict)


@pytest.mark.parametrize(("votes", "expected"), [
    ([True, False], (None, 0.5)), ([True], (True, 1.0)), ([True, True, False], (True, 2 / 3)), ([], (None, None)),
    ([False] * 3, (False, 1.0))])
def test_majorities(votes, expected):
    assert majority(votes) == expected
