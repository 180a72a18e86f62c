"""The recipes of `configs/feedback` are taken, with the published values."""

from jaxllm.evaluate.comparison.config import Config as CompareConfig
from jaxllm.feedback.config import AuditConfig
from jaxllm.finetune.tune.config import Config as TuneConfig
from jaxllm.parsing import parse
from tests.conftest import ROOT


def read(config, name, *more):
    return parse(config, ["--config", str(ROOT / "configs" / "feedback" / f"{name}.yaml"), "--data.path", "rows.jsonl",
                          "--out", "runs/out", *more])


def test_the_settings_of_prefcleanbench():
    sft, dpo = read(TuneConfig, "prefcleanbench_sft"), read(TuneConfig, "prefcleanbench_dpo")
    assert (sft.method, sft.lora, sft.train.epochs, sft.train.lr, sft.train.batch_size) == ("sft", None, 1, 1e-5, 96)
    assert (dpo.train.epochs, dpo.train.lr, dpo.train.schedule, dpo.train.batch_size) == (1, 5e-5, "constant", 64)
    assert (dpo.lora.rank, dpo.lora.alpha, dpo.lora.dropout, dpo.preference.beta, dpo.seed) == (16, 32, 0.1, 0.1, 14)
    compare = read(CompareConfig, "prefcleanbench_compare", "--model_a", "a", "--model_b", "b", "--judge.model", "j")
    assert (compare.data.limit, compare.form, compare.disagreement, compare.verdict.attempts) == (200, "rating", "mean",
                                                                                                10)
    template = " ".join(str(compare.verdict.template).split())
    assert "helpfulness, harmlessness, relevance, accuracy, depth, creativity and level of detail" in template


def test_a_committee_to_start_with():
    members = read(AuditConfig, "committee").committee.members
    assert [member.kind for member in members] == ["words", "head"]
