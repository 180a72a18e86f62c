"""The progress bar in a log, and what is printed of texts."""

from jaxllm.cli import main
from jaxllm.progress import bar, notice


def test_a_log_has_a_line_for_every_state(capsys):
    with bar(10, "rows", "rows") as show:
        show(3)
        show(10, "loss 0.5")
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert lines[0].startswith("rows:   0%") and lines[-1].startswith("rows: 100%") and "loss 0.5" in lines[-1]


def test_messages_do_not_rewrite_the_terminal(tmp_path, capsys):
    notice("row \x1b[2J\u202e of\n\ta file")
    assert main(["check", str(tmp_path / "none\x1b[2J.jsonl")]) == 2
    printed = capsys.readouterr().err
    assert "\n\ta file" in printed and "[2J.jsonl" in printed and not {"\x1b", "\u202e"} & set(printed)
