"""The report's plot of reward against KL, on numbers made for it, of which some were not finite."""

import math

import pytest

from jaxllm.cory import Config, report
from jaxllm.parsing import parse
from jaxllm.report import Points, markdown, render
from jaxllm.report.plots import svg

ROLES = ("pioneer", "observer")


def run(names, kls, evaluated, **more):
    """Metrics and result of a run: KL of every iteration, and the held-back ones before, between and after."""
    value = lambda mean: {"mean": mean, "ci_low": mean, "ci_high": mean, "n": 4}
    numbers = lambda kl: {"task_reward": value(kl / 2), "kl": value(kl), "length": value(3.0)} | more
    agent = lambda kl, role: {"role": role, "task_reward": 0.5, "kl": kl, "combined_reward": kl, "entropy": 1.0,
                              "length": 3.0}
    metrics = [{"iteration": i, "exchanged": False, "agents": {
        name: agent(kl, role) for name, role in zip(names, ROLES, strict=False)}} for i, kl in enumerate(kls)]
    for i, kl in list(enumerate(evaluated))[1:-1]:
        metrics[i]["held_back"] = {name: numbers(kl) for name in names}
    ends = {"before": numbers(evaluated[0]), "after": numbers(evaluated[-1])} if evaluated else {
        "before": {}, "after": {}}
    result = {"agents": dict.fromkeys(names, ends),
              "held_back_rows": 4 if evaluated else 0, "seconds_per_iteration": {}, "iterations": len(kls)}
    return metrics, result


def sections(names, kls, evaluated, *arguments, **more):
    config = parse(Config, ["--data.path=x", "--out=y", f"--agents={len(names)}", *arguments])
    metrics, result = run(names, kls, evaluated, **more)
    return {section.title: section for section in report.sections(config, result, metrics, [])}


@pytest.mark.parametrize("names", [["llm1"], ["llm1", "llm2"]])
def test_reward_against_kl(names):
    found = sections(names, [0.0, 0.5, 1.0], [0.0, 0.75, 2.0])
    [plot] = found["Reward against KL"].parts
    assert isinstance(plot, Points) and list(plot.series) == list(plot.joined) == names
    for name in names:
        assert plot.series[name] == ([0.0, 0.5, 1.0], [0.5, 0.5, 0.5])
        assert plot.joined[name] == ([0.0, 0.75, 2.0], [0.0, 0.375, 1.0])
    [plot] = sections(names, [0.0, 0.5], [])["Reward against KL"].parts
    assert not plot.joined and len(plot.series) == len(names)


def test_numbers_that_were_not_finite_are_left_out():
    """metrics.jsonl has null for them."""
    found = sections(["llm1", "llm2"], [0.0, None, 1.0], [])
    [plot] = found["Reward against KL"].parts
    assert math.isnan(plot.series["llm1"][0][1])
    assert all("<svg" in svg(plot) for plot in [plot, *found["By agent"].parts, *found["By role"].parts])


def test_exchanges_are_marked_in_the_curves():
    config = parse(Config, ["--data.path=x", "--out=y", "--agents=2"])
    metrics, result = run(["llm1", "llm2"], [0.0, 0.5, 1.0], [])
    for exchanged, note in ((True, "Roles are exchanged after iterations 1, at the dotted lines."),
                            (False, "Roles are not exchanged.")):
        metrics[1]["exchanged"] = exchanged
        found = {section.title: section for section in report.sections(config, result, metrics, [])}
        plots = [plot for title in ("By agent", "By role") for plot in found[title].parts]
        assert len(plots) == 10 and all(plot.marks == [1.5] * exchanged for plot in plots)
        assert found["By agent"].text == note


def test_pass_at_k_is_in_the_table():
    rate = {"mean": 0.25, "ci_low": 0.0, "ci_high": 0.5, "n": 4}
    found = sections(["llm1"], [0.0], [0.0, 1.0], "--held_back.samples=4", "--held_back.pass_at=[1, 4]",
                     pass_at_k={"1": rate, "4": rate})
    [table] = found["Held-back queries"].parts
    assert table.rows[-2:] == [["pass@1", rate, rate], ["pass@4", rate, rate]]
    assert "| pass@4 | 0.250 [0.000, 0.500] | 0.250 [0.000, 0.500] |" in markdown("t", "l", table)


def test_text_of_samples_stays_text():
    hostile = "<script>alert(1)</script>\"><img src=x onerror=y>]]>"
    config = parse(Config, ["--data.path=x", "--out=y"])
    samples = [{"step": 0, "agent": "llm1", "prompt": prompt, "response": hostile, "task_reward": 0.5}
               for prompt in ([{"role": "user", "content": hostile}], hostile)]
    for sample in samples:
        page = render("Title", "lead", report.sections(config, *run(["llm1"], [0.0], [])[::-1], [sample]), "", {})
        assert "<script" not in page and "<img src=x" not in page and "]]>" not in page
        assert page.count("&lt;script&gt;alert(1)") == 2
