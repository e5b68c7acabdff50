"""A refusal is one sentence on stderr and an exit code that a script can act on."""

from __future__ import annotations

import pytest

from shared.errors import BadSample, DataError, Refusal, Stopped, UsageError, WeightsError, guarded

CODES = {Refusal: 1, UsageError: 2, DataError: 3, WeightsError: 4, Stopped: 75}


def command(error: BaseException | None):
    @guarded("prog")
    def main(argv: list[str]) -> int:
        assert "--debug" not in argv
        if error is not None:
            raise error
        return len(argv)

    return main


@pytest.mark.parametrize("kind", CODES)
def test_refusal_is_printed_as_one_sentence_with_its_exit_code(kind: type, capsys: pytest.CaptureFixture) -> None:
    assert command(kind("it is so; do that"))(["train"]) == CODES[kind]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "prog: it is so; do that\n")


def test_anything_else_is_told_without_a_traceback(capsys: pytest.CaptureFixture) -> None:
    assert command(KeyError("lost\nmore"))([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("prog: KeyError: ") and "--debug" in err and "Traceback" not in err and err.count("\n") == 1
    assert command(RuntimeError("first line\nsecond line"))([]) == 1
    assert capsys.readouterr().err == "prog: RuntimeError: first line (run again with --debug for the traceback)\n"


@pytest.mark.parametrize("error", [DataError("no"), RuntimeError("no")])
def test_debug_lets_the_error_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        command(error)(["train", "--debug"])


def test_success_and_interruption_have_their_codes(capsys: pytest.CaptureFixture) -> None:
    assert command(None)(["a", "b", "--debug"]) == 2
    assert command(KeyboardInterrupt())([]) == 130
    assert capsys.readouterr().err == "prog: interrupted\n"


def test_arguments_of_the_process_are_taken_when_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prog", "one", "two", "three"])
    assert command(None)() == 3


def test_bad_sample_survives_the_way_from_a_worker() -> None:
    import pickle

    told = pickle.loads(pickle.dumps(BadSample("a.jpg", "cut short")))  # noqa: S301 - as workers do
    assert (told.name, told.reason, str(told)) == ("a.jpg", "cut short", "a.jpg: cut short")
