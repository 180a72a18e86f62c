"""The progress bar in a log."""

from jaxllm.progress import bar


def test_a_log_has_a_line_for_every_state(capsys):
    with bar(10, "rows", "rows") as show:
        show(3)
        show(10, "loss 0.5")
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert lines[0].startswith("rows:   0%") and lines[-1].startswith("rows: 100%") and "loss 0.5" in lines[-1]
