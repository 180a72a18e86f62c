"""Numbers computed from records, by hand."""

import numpy as np
import pytest

from jaxllm.self_param import metrics
from jaxllm.self_param.data import Document, Question
from jaxllm.self_param.metrics import Record, result_rows, summarize

# Three injections of a document each; F[i][j].
MATRIX = np.array([[0.0, 0.1, 0.2], [1.0, 0.3, 0.0], [0.8, 0.9, 0.1], [0.5, 0.7, 0.6]])


def test_sequential_retention():
    written = [1, 2, 3]
    assert metrics.efficacy(MATRIX, written).tolist() == [1.0, 0.9, 0.6]
    assert metrics.retention_by_lag(MATRIX, written) == pytest.approx([2.5 / 3, 1.5 / 2, 0.5])
    assert metrics.mean_seen(MATRIX, written) == pytest.approx([1.0, 0.85, 0.6])
    assert metrics.before_injection(MATRIX, written) == pytest.approx((0.0 + 0.1 + 0.3 + 0.2 + 0.0 + 0.1) / 6)


def test_batch_retention():
    matrix = MATRIX[[0, 3]]
    assert metrics.efficacy(matrix, [1, 1, 1]).tolist() == [0.5, 0.7, 0.6]
    assert metrics.retention_by_lag(matrix, [1, 1, 1]) == pytest.approx([0.6])
    assert metrics.mean_seen(matrix, [1, 1, 1]) == pytest.approx([0.6])


def test_injection_groups():
    assert metrics.injection_groups("batch", 3) == [[0, 1, 2]]
    assert metrics.injection_groups("single", 2) == metrics.injection_groups("sequential", 2) == [[0], [1]]


def record(method, step, f1, documents=None, **more):
    documents = [*range(len(f1))] if documents is None else documents
    return Record(method, step, documents, [[f"{method}{number}"] for number in documents], f1, [1.0] * len(f1),
                  more.pop("f1_paraphrased", [None] * len(f1)), **more)


BASE = [record("closed_book", 0, [0.0, 0.2], kl=[3.0, 1.0], probe_answers=["Yes.", "no"], perplexity=8.0,
               f1_paraphrased=[0.5, None], f1_portability=[None, 0.25]),
        record("open_book", 0, [1.0, 0.8], f1_paraphrased=[1.0, None])]
DRIFT = {"drift_kl": 0.2, "drift_sums": [1.0, 3.0], "drift_tokens": [10, 10]}


def test_sequential_summary():
    """The last record of a method is the end of the run; locality has a value per probe, drift per text."""
    steps = [record("self_param", 1, [0.9, 0.1], probe_answers=["yes", "no"], perplexity=8.5, drift_kl=0.1,
                    drift_sums=[1.0, 1.0], drift_tokens=[10, 10], probe_tokens=[1.0, 1.0]),
             record("self_param", 2, [0.7, 0.9], kl=[0.5, 0.1], probe_answers=["yes", "never"], perplexity=9.0,
                    f1_paraphrased=[0.25, None], probe_tokens=[1.0, 0.25], **DRIFT),
             record("retrieval", 1, [1.0, 0.0], probe_answers=["yes", "no"], perplexity=8.0),
             record("retrieval", 2, [1.0, 0.9], probe_answers=["yes", "no"], perplexity=8.0)]
    result = summarize([*BASE, *steps], False, [1, 2], 0)
    for metric in metrics.METRICS:
        assert list(result[metric]) == ["closed_book", "open_book", "self_param", "retrieval"]
        assert all(list(own) == ["mean", "ci_low", "ci_high", "n"] for own in result[metric].values())
    mean = lambda metric: {name: own["mean"] for name, own in result[metric].items()}
    assert mean("f1") == pytest.approx({"closed_book": 0.1, "open_book": 0.9, "self_param": 0.8, "retrieval": 0.95})
    assert mean("f1_paraphrased") == {"closed_book": 0.5, "open_book": 1.0, "self_param": 0.25, "retrieval": None}
    assert mean("f1_portability") == {"closed_book": 0.25, "open_book": None, "self_param": None, "retrieval": None}
    assert mean("kl") == {"closed_book": 2.0, "open_book": None, "self_param": pytest.approx(0.3), "retrieval": None}
    assert mean("locality") == {"closed_book": None, "open_book": None, "self_param": 0.5, "retrieval": 1.0}
    assert mean("locality_tokens") == {"closed_book": None, "open_book": None, "self_param": 0.625, "retrieval": None}
    assert mean("drift_kl") == {"closed_book": None, "open_book": None, "self_param": 0.2, "retrieval": None}
    assert result["locality"]["self_param"]["n"] == result["drift_kl"]["self_param"]["n"] == 2
    assert result["drift_kl"]["retrieval"] == {"mean": None, "ci_low": None, "ci_high": None, "n": 0}
    assert result["drift_kl"]["self_param"]["ci_low"] == pytest.approx(0.1)
    assert result["drift_kl"]["self_param"]["ci_high"] == pytest.approx(0.3)

    assert result["f1_matrix"] == [[0.0, 0.2], [0.9, 0.1], [0.7, 0.9]]
    assert result["efficacy"]["mean"] == pytest.approx(0.9) and result["mean_seen"] == pytest.approx([0.9, 0.8])
    assert result["locality_by_step"] == [1.0, 0.5] and result["drift_kl_by_step"] == [0.1, 0.2]
    assert result["perplexity_by_step"] == [8.0, 8.5, 9.0]
    assert result["share_of_open_book"] == pytest.approx(0.8 / 0.9)
    other = result["baselines"]["retrieval"]
    assert other["f1_matrix"][-1] == [1.0, 0.9] and other["drift_kl_by_step"] == [0.0, 0.0]
    assert other["f1_self_param_minus_this"]["mean"] == pytest.approx(-0.15)


def test_single_summary():
    """Every record is a document in its own copy of the model; locality and drift have a value per document."""
    steps = [record("self_param", 2, [0.9], [1], kl=[0.1], probe_answers=[None, "NO"], probe_tokens=[None, 1.0],
                    drift_kl=0.4, perplexity=9.0),
             record("self_param", 1, [0.7], [0], kl=[0.5], probe_answers=["yes", "never"], probe_tokens=[0.5, 0.0],
                    drift_kl=0.2, perplexity=8.5)]
    result = summarize([*BASE, *steps], True, [1, 2], 0)
    assert result["f1_matrix"] == [[0.0, 0.2], [0.7, 0.9]] and result["f1"]["self_param"]["mean"] == pytest.approx(0.8)
    assert result["kl"]["self_param"]["mean"] == pytest.approx(0.3)
    assert result["locality_by_step"] == [0.5, 1.0] and result["locality"]["self_param"]["mean"] == 0.75
    tokens = result["locality_tokens"]["self_param"]
    assert tokens["mean"] == 0.625 and tokens["n"] == 2
    assert result["drift_kl_by_step"] == [0.2, 0.4]
    assert result["drift_kl"]["self_param"]["mean"] == pytest.approx(0.3) and result["drift_kl"]["self_param"]["n"] == 2
    assert result["efficacy"] == result["f1"]["self_param"] and result["mean_seen"] == pytest.approx([0.8])

    documents = [Document("a", (Question("q?", ("self_param0",)),)), Document("b", (Question("r?", ("x",)),))]
    rows = result_rows(documents, [*BASE, *steps], True)
    assert rows[0] == {"document": 0, "question": "q?", "answers": ["self_param0"],
                       "closed_book": {"text": "closed_book0", "f1": 0.0},
                       "open_book": {"text": "open_book0", "f1": 0.0},
                       "self_param": {"text": "self_param0", "f1": 1.0}}
    assert rows[1]["self_param"] == {"text": "self_param1", "f1": 0.0}
