"""Messages reach the console, and the log of the run that they belong to."""

from __future__ import annotations

import logging

from shared.logs.console import setup_logging


def test_messages_before_a_run_has_a_folder_are_shown_and_kept_for_its_log(tmp_path, capsys):
    setup_logging(hold=True)
    logging.getLogger("pretrain.data").info("indexing a shard")
    assert capsys.readouterr().out == "indexing a shard\n"
    setup_logging(tmp_path)
    logging.getLogger("pretrain").info("step 1")
    setup_logging()
    assert [line.split("INFO")[1].strip() for line in (tmp_path / "train.log").read_text().splitlines()] == [
        "indexing a shard",
        "step 1",
    ]
    assert capsys.readouterr().out == "step 1\n"
