"""Sections of reports on rows with ids, texts and names that are written to break out of a page."""

import base64
import re
from xml.etree import ElementTree

import pytest

from jaxllm.evaluate import task_job
from jaxllm.evaluate.recommend import job as recommend_job
from jaxllm.evaluate.recommend.scores import CUTS
from jaxllm.generate import report as generate_report
from jaxllm.report import Table, markdown, render
from jaxllm.self_param import report as inject_report

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=y>]]> ' </td></table></style>"
VALUE = {"mean": 0.5, "ci_low": 0.25, "ci_high": 0.75, "n": 4}
COUNTS = {"rows": 1, "rejected": 0, "tokens": 1}
CALIBRATION = {"log_loss": 0.5, "brier": 0.5, "ece": 0.5, "reliability": []}
TURNS = [{"role": HOSTILE, "content": HOSTILE}]

REPORTS = {
    "generate": (generate_report.generated(COUNTS | {"finished": {"stop": 1}}, [1], [{
        "id": HOSTILE, "prompt": TURNS,
        "completions": [{"text": HOSTILE, "logprob": -1.0, "finish_reason": "stop"}]}]), 4),
    "score": (generate_report.scored(COUNTS | {"nats_per_token": 1.0}, [{"id": HOSTILE, "logprob": -1.0, "tokens": 1}],
                                     [(HOSTILE, HOSTILE)]), 3),
    "score, classes": (generate_report.classified(COUNTS | {
        "labels": [HOSTILE, "b"], "mean_score": [0.5, 0.5], "accuracy": VALUE, "macro_f1": 0.5,
        "calibration": CALIBRATION, "classes": {HOSTILE: {"n": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5}}},
        [{"id": HOSTILE, "score": [0.5, 0.5]}], [{"text": HOSTILE, "text_pair": HOSTILE}]), 7),
    "score, answers": (generate_report.compared(COUNTS | {
        "accuracy": VALUE, "ties": 0, "margin": VALUE, "calibration": CALIBRATION, "length": {
            "longer_is_better": 0.5, "chosen_longer": {"accuracy": None}, "chosen_shorter": {"accuracy": None}},
        "subsets": {HOSTILE: {"accuracy": VALUE, "ties": 0, "n": 1}}, "missing": [HOSTILE],
        "sections": {HOSTILE: VALUE}, "overall": VALUE}, [{"id": HOSTILE, "chosen": 1.0, "rejected": 0.5}],
        [{"prompt": HOSTILE, "chosen": TURNS, "rejected": HOSTILE}]), 8),
    "evaluate": (task_job._sections({
        "exact_match": VALUE, "pass_at_k": {"1": VALUE}, "finished": {"stop": 1}, "empty": 0}, [{
        "id": HOSTILE, "question": HOSTILE, "answers": [{"text": HOSTILE, "right": True}]}]), 3),
    "recommend": (recommend_job._sections(
        {"settings": {}, "all": {f"recall@{k}": VALUE for k in CUTS}, "targets": 1, "targets_discussed": 0,
         "titles_per_reply": 1.0, "known_titles": 1.0, "turns_without_reply": 0},
        [{"turn": HOSTILE, "targets": [HOSTILE], "titles": [HOSTILE, HOSTILE]}]), 4),
    "inject": ([inject_report._answers([{"document": 0, "question": HOSTILE, "answers": [HOSTILE, HOSTILE],
                                         "self_param": {"text": HOSTILE}}], {"self_param": "SELF-PARAM"})], 4)}


@pytest.mark.parametrize("verb", REPORTS)
def test_text_of_rows_stays_text(verb):
    sections, places = REPORTS[verb]
    tables = [part for section in sections for part in section.parts if isinstance(part, Table)]
    page = render("Title", "lead", sections, "seed: 0\n", {"jaxllm": "1"})
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= places
    assert page.count("</table>") == len(tables) and page.count("</style>") == 1
    assert "<script" not in page and "]]>" not in page
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert page.count("<img") == len(images)
    for image in images:
        drawn = base64.b64decode(image).decode()
        ElementTree.fromstring(drawn)
        assert "<script" not in drawn
    for table in tables:
        assert not re.search(r"(?<!\\)<", markdown("Title", "lead", table))
