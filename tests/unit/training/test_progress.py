from __future__ import annotations

from multivi_nf.training import progress
from multivi_nf.training.progress import NOTICE, Reporter


def row(epoch):
    return {"epoch": epoch, "train_loss": 9.0, "validation_loss": 8.25, "seconds": 1.0}


def test_one_line_for_nextflow_while_training_runs(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    path = tmp_path / NOTICE
    reporter = Reporter(notice=path)
    reporter.start(10, 0)
    now[0] += 4
    reporter.epoch(row(1), 10)
    assert path.read_text() == "epoch 1 of 10, validation loss 8.25, at most 36 s left\n"
    now[0] += 4
    reporter.epoch(row(2), 10)
    assert path.read_text().startswith("epoch 1 "), "not more often than every ten seconds"
    now[0] += 8
    reporter.epoch(row(3), 10)
    assert path.read_text().startswith("epoch 3 ")
    reporter.stop()
    assert not any(tmp_path.iterdir()), "or the checkpoint folder could not go"


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    reporter = Reporter(notice=tmp_path / "file" / NOTICE)
    reporter.start(2, 0)
    reporter.epoch(row(1), 2)
    reporter.stop()
    quiet = Reporter(quiet=True, notice=tmp_path / NOTICE)
    quiet.start(2, 0)
    quiet.epoch(row(1), 2)
    assert not (tmp_path / NOTICE).exists()


def test_on_a_terminal_a_bar_with_the_losses(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    reporter = Reporter()
    reporter.start(4, 1)
    reporter.epoch(row(3), 4)
    reporter.say("a line above it")
    reporter.stop()
    told = capsys.readouterr().err
    assert "epoch" in told and "3/4" in told and "validation 8.25" in told and "a line above it" in told
    assert "at most" not in told, "lines of epochs are for logs"
