"""How each command line tells an error of the user."""

import runpy
import subprocess
import sys

import numpy as np
import pytest

from tera_jax.disk import require_empty
from tera_jax.methods.base import NotMergeableError
from train import command, harness, tasks


def ends(main, capsys):
    """The status and the text on stderr of a command that fails."""
    with pytest.raises(SystemExit) as caught:
        command.run(main)
    return caught.value.code, capsys.readouterr().err


def test_an_error_of_the_user_is_one_line_and_status_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["program"])
    assert ends(lambda: tasks.task("boolk"), capsys) == (
        2,
        "error: unknown task 'boolk'; did you mean 'boolq'?\n",
    )
    (tmp_path / "file").touch()
    for main in (lambda: require_empty(tmp_path), lambda: (tmp_path / "none").read_text()):
        status, text = ends(main, capsys)
        assert status == 2
        assert str(tmp_path) in text
        assert text.count("\n") == 1
    assert issubclass(NotMergeableError, ValueError)


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--debug"])
    with pytest.raises(ValueError, match="boolk"):
        command.run(lambda: tasks.task("boolk"))


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(TypeError):
        command.run(lambda: tasks.task(["unhashable"]))
    with pytest.raises(ValueError, match="broadcast"):  # NumPy's, and no word for a user
        command.run(lambda: np.zeros(2) + np.zeros(3))
    with pytest.raises(ModuleNotFoundError):
        command.run(lambda: __import__("no_such_module"))


def test_other_exit_statuses_stay(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])

    def stop():
        raise SystemExit(75)

    with pytest.raises(SystemExit) as caught:
        command.run(stop)
    assert caught.value.code == 75


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("train.evaluate", ["--workdir=none"], "none/config.json does not exist"),
        (
            "train.export",
            ["--workdir=none", "--format=hf", "--output=none"],
            "none/config.json does not exist",
        ),
        ("train.generate", ["--workdir=none", "--chat"], "none/config.json does not exist"),
        ("train.report", ["none"], "none"),
        ("train.params", ["--method=nora"], "method 'nora'; choose one of"),
        ("train.params", ["--set", "num_mods=2"], "did you mean method.num_modes?"),
        ("train.harness", ["--workdir=none", "--tasks=a", "--output=none"], "none/config.json"),
        ("benchmarks.packing", ["--records=none", "--tokenizer=none"], "none"),
    ],
)
def test_each_command_line_says_what_is_wrong(
    module, arguments, message, monkeypatch, capsys, tmp_path
):
    for name in (module, f"{module}.__main__", "train.params.count"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    text = capsys.readouterr().err
    assert caught.value.code == 2
    assert text.startswith("error: ")
    assert message in text
    assert text.count("\n") == 1


def test_the_harness_without_its_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "train.evaluation.lm_eval_model", raising=False)
    monkeypatch.delattr("train.evaluation.lm_eval_model", raising=False)
    monkeypatch.setattr(sys, "argv", ["x", "--workdir=none", "--tasks=a", "--output=none"])
    status, text = ends(harness.main, capsys)
    assert status == 2
    assert "pip install 'tera-jax[evaluate]'" in text
    assert text.count("\n") == 1


def test_the_parser_is_named_and_described_by_its_module():
    from train import report

    parser = command.parser(report.main)
    assert parser.prog == "python -m train.report"
    assert parser.description == report.__doc__
    assert parser.parse_args(["--debug"]).debug
    assert command.parser(report.main, "train.params").prog == "python -m train.params"


def test_train_main_says_what_is_wrong_and_prints_its_config():
    def main(*arguments):
        program = [sys.executable, "-m", "train.main", "--config=configs/quickstart.py"]
        return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)

    wrong = main("--config.optim.learning_rat=1")
    assert wrong.returncode == 2
    expected = "unknown config key config.optim.learning_rat; did you mean "
    assert wrong.stderr == f"error: {expected}config.optim.learning_rate?\n"
    printed = main("--config.optim.learning_rate=0.5", "--print-config")
    assert printed.returncode == 0, printed.stderr
    assert "config.optim.learning_rate = 0.5 (default: 0.001)\n" in printed.stdout
    assert "config.method.tensorizations = ('576|24x24', '576|12x16')" in printed.stdout
