"""bootstrap.py, without network: each test works on a project of its own in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import bootstrap
from tests.conftest import LONG


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bootstrap.Environment:
    """The environment, not yet made, of a project that holds nothing but what bootstrap.py looks for."""
    (tmp_path / "llm_attr").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\n')
    (tmp_path / "constraints.txt").touch()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    return bootstrap.Environment(tmp_path)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The steps that were to be run; none is."""
    steps: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "run", lambda title, command, **_: steps.append(command))
    return steps


def make(environment: bootstrap.Environment) -> None:
    """An environment with a stand-in for pip, which is quicker than pip."""
    venv.create(environment.folder, with_pip=False, symlinks=os.name != "nt")
    pip = Path(
        subprocess.run(
            [str(environment.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip(),
        "pip.py",
    )
    pip.touch()


def installed(environment: bootstrap.Environment, *extras: str) -> None:
    environment.write_note("installed", fingerprint=environment.fingerprint(), extras=list(extras))


class TestInstall:
    def test_is_done_once(self, environment: bootstrap.Environment, commands: list[list[str]]) -> None:
        make(environment)
        bootstrap.install(environment, ["demo"])
        bootstrap.install(environment, ["demo"])
        assert len(commands) == 1
        assert commands[0][-1] == ".[demo]"
        assert str(environment.root / "constraints.txt") in commands[0]

    def test_fewer_extras_need_nothing_and_more_need_an_install(self, environment: bootstrap.Environment) -> None:
        make(environment)
        installed(environment, "demo", "test")
        assert environment.has(["demo"])
        assert environment.has(["test", "demo"])
        assert not environment.has(["demo", "lint"])

    @pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
    def test_a_changed_file_needs_an_install(self, environment: bootstrap.Environment, name: str) -> None:
        make(environment)
        installed(environment, "demo")
        with (environment.root / name).open("a") as file:
            file.write("# changed\n")
        assert not environment.has(["demo"])

    def test_a_moved_project_needs_an_install(self, environment: bootstrap.Environment, tmp_path: Path) -> None:
        make(environment)
        installed(environment, "demo")
        moved = tmp_path.with_name(f"{tmp_path.name}-moved")
        tmp_path.rename(moved)
        assert not bootstrap.Environment(moved).has(["demo"])

    def test_a_failure_is_told_from_an_interruption(
        self, environment: bootstrap.Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(environment)

        def stop(*_: object, **__: object) -> None:
            raise bootstrap.Stop("no network")

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(bootstrap, "run", stop)
        with pytest.raises(bootstrap.Stop):
            bootstrap.install(environment, ["demo"])
        assert environment.fault() is None
        assert not environment.has(["demo"])
        monkeypatch.setattr(bootstrap, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bootstrap.install(environment, ["demo"])
        assert environment.fault() == "its making was interrupted"

    def test_a_small_disk_is_refused(self) -> None:
        bootstrap.check_space(bootstrap.SPACE)
        with pytest.raises(bootstrap.Stop, match=r"0\.5 GB free .* free some space"):
            bootstrap.check_space(500_000_000)


class TestMakeEnvironment:
    def test_a_whole_one_is_kept(self, environment: bootstrap.Environment, commands: list[list[str]]) -> None:
        make(environment)
        bootstrap.make_environment(environment)
        assert commands == []

    @pytest.mark.parametrize("damage", ["no python", "python does not run", "no pip", "interrupted"])
    def test_a_broken_one_is_made_anew_and_said_to_be(
        self,
        environment: bootstrap.Environment,
        commands: list[list[str]],
        capsys: pytest.CaptureFixture[str],
        damage: str,
    ) -> None:
        make(environment)
        (environment.folder / "old").touch()
        if damage == "no python":
            environment.python.unlink()
        elif damage == "python does not run":
            environment.python.unlink()
            environment.python.write_text("#!/bin/sh\nexit 1\n")
            environment.python.chmod(0o755)
        elif damage == "no pip":
            next(environment.folder.rglob("pip.py")).unlink()
        else:
            environment.write_note("installing")
        bootstrap.make_environment(environment)
        assert "is made anew" in capsys.readouterr().out
        assert not (environment.folder / "old").exists()
        assert commands == [[sys.executable, "-m", "venv", str(environment.folder)]]

    def test_one_that_was_killed_at_the_start_is_made_anew(
        self, environment: bootstrap.Environment, commands: list[list[str]]
    ) -> None:
        environment.folder.mkdir()
        environment.write_note("making")
        bootstrap.make_environment(environment)
        assert len(commands) == 1

    @pytest.mark.parametrize("form", ["folder", "file", "link"])
    def test_what_is_no_environment_is_left_alone(
        self, environment: bootstrap.Environment, commands: list[list[str]], tmp_path: Path, form: str
    ) -> None:
        if form == "folder":
            environment.folder.mkdir()
            (environment.folder / "thesis.txt").write_text("precious")
        elif form == "file":
            environment.folder.write_text("precious")
        else:
            (tmp_path / "elsewhere").mkdir()
            environment.folder.symlink_to(tmp_path / "elsewhere")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(bootstrap.Stop, match="move it away"):
            bootstrap.make_environment(environment)
        assert sorted(tmp_path.rglob("*")) == before
        assert commands == []

    def test_the_one_that_runs_this_is_not_deleted(
        self, environment: bootstrap.Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(environment)
        environment.write_note("installing")
        monkeypatch.setattr(sys, "prefix", str(environment.folder))
        with pytest.raises(bootstrap.Stop, match="deactivate"):
            bootstrap.make_environment(environment)
        assert environment.python.exists()

    @pytest.mark.parametrize("note", ["", "[]", "{", '"state"'])
    def test_a_note_that_cannot_be_read_is_none(self, environment: bootstrap.Environment, note: str) -> None:
        environment.folder.mkdir()
        environment.note.write_text(note)
        assert environment.read_note() == {}
        assert not environment.is_environment()


class TestBuildSite:
    def test_pages_are_copied_afresh_and_notebooks_run_before_the_site_is_built(
        self, environment: bootstrap.Environment, commands: list[list[str]]
    ) -> None:
        notebooks = environment.root / "docs" / "notebooks"
        notebooks.mkdir(parents=True)
        (notebooks / "start.py").write_text("# %%\n1 + 1\n")
        (environment.root / "docs" / "index.md").touch()
        left = environment.root / "build" / "pages" / "removed.md"
        left.parent.mkdir(parents=True)
        left.touch()
        bootstrap.build_site(environment)
        pages = environment.root / "build" / "pages"
        assert sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*")) == ["index.md", "notebooks"]
        assert [command[2] for command in commands] == ["jupytext", "pytest", "sphinx"]
        assert commands[0][-1] == str(pages / "notebooks" / "start.py")
        assert "--overwrite" in commands[1]
        assert "-W" in commands[2]
        assert commands[2][-1] == str(environment.root / "build" / "docs")


class TestSteps:
    def test_a_quiet_step_prints_its_title_and_time(
        self, environment: bootstrap.Environment, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bootstrap.run("talking", [sys.executable, "-c", "print('much')"], quiet=True)
        printed = capfd.readouterr().out
        assert printed.startswith("== talking\n")
        assert printed.endswith(" s\n")
        assert "much" not in printed

    @pytest.mark.parametrize(("given", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
    def test_idle_threads_of_steps_sleep_where_the_user_says_nothing_else(
        self, given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        code = "import os; print(os.environ['OMP_WAIT_POLICY'])"
        bootstrap.run("step", [sys.executable, "-c", code])
        assert capfd.readouterr().out.splitlines()[1] == seen
        assert os.environ.get("OMP_WAIT_POLICY") == given

    def test_a_step_beside_another_is_one_line(
        self, environment: bootstrap.Environment, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bootstrap.run("aside", [sys.executable, "-c", "print('much')"], quiet=True, beside=True)
        assert re.fullmatch(r"== aside: \d+\.\d s\n", capfd.readouterr().out)

    @pytest.mark.parametrize("everything", [False, True])
    def test_what_takes_long_is_tested_with_all(
        self,
        environment: bootstrap.Environment,
        commands: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
        everything: bool,
    ) -> None:
        make(environment)
        installed(environment, *bootstrap.EXTRAS["test"])
        (environment.root / "docs").mkdir()
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", "test", *["--all"][:everything]])
        assert bootstrap.main() == 0
        assert {"ruff", "mypy"} <= {command[2] for command in commands}
        assert any(command[-2:] == ["fetch", bootstrap.MODEL] for command in commands)
        assert ("sphinx" in {command[2] for command in commands}) == everything
        assert commands[-1][1:5] == ["-m", "pytest", "-n", "auto"]
        assert (bootstrap.QUICK not in commands[-1]) == everything

    def test_the_quick_tests_are_all_without_a_mark_for_long_ones(self) -> None:
        """So that a mark cannot hide a test from both."""
        assert set(re.findall(r"\w+", bootstrap.QUICK)) - {"not", "or"} == {"benchmark", *LONG}

    def test_all_belongs_to_test(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", "demo", "--all"])
        with pytest.raises(SystemExit):
            bootstrap.main()
        assert "--all belongs to test" in capsys.readouterr().err

    def test_the_last_step_has_the_last_word(
        self, environment: bootstrap.Environment, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.getcwd())"
        bootstrap.run("last", [sys.executable, "-c", code], last=True, HF_HUB_OFFLINE="1")
        assert capfd.readouterr().out.splitlines() == ["== last", f"1 {environment.root.resolve()}"]

    @pytest.mark.parametrize(
        ("output", "advice"),
        [
            ("OSError: [Errno 28] No space left on device", "free some space"),
            ("ERROR: Could not find a version that satisfies", "check the network"),
            ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        ],
    )
    def test_a_failed_step_shows_its_end_and_what_to_do(
        self, environment: bootstrap.Environment, output: str, advice: str
    ) -> None:
        code = f"for i in range(100): print('line', i)\nprint({output!r})\nraise SystemExit(3)"
        with pytest.raises(bootstrap.Stop) as caught:
            bootstrap.run("install", [sys.executable, "-c", code], quiet=True)
        message = str(caught.value)
        assert message.startswith("install failed (exit code 3)\n")
        assert output in message
        assert "line 99" in message
        assert "line 50" not in message
        assert advice in message.splitlines()[-1]

    def test_the_first_failing_step_ends_the_run(
        self,
        environment: bootstrap.Environment,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        make(environment)
        installed(environment, *bootstrap.EXTRAS["test"])
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", "test"])
        assert bootstrap.main() == 1
        printed = capfd.readouterr()
        assert not [line for line in printed.out.splitlines() if line.startswith("==")]  # what failed, nor what follows
        assert "bootstrap: model: smollm2-135m failed (exit code 1)" in printed.err

    def test_ctrl_c_is_told(
        self, environment: bootstrap.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(task: str, everything: bool) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(bootstrap, "work", interrupt)
        monkeypatch.setattr(sys, "argv", ["bootstrap.py", "demo"])
        assert bootstrap.main() == 130
        assert "goes on from here" in capsys.readouterr().err


def test_an_old_python_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.check_python((3, 10))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    with pytest.raises(bootstrap.Stop, match=r"Python 3\.9, and 3\.10 or newer is needed; install"):
        bootstrap.check_python((3, 9))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name if name == "python3.12" else None)
    with pytest.raises(bootstrap.Stop, match=r"run: python3\.12 bootstrap\.py"):
        bootstrap.check_python((3, 9))


def test_a_folder_without_the_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bootstrap.Stop, match=r"has no pyproject\.toml"):
        bootstrap.check_root(tmp_path)


def test_the_extras_exist() -> None:
    tables = (bootstrap.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in {extra for extras in bootstrap.EXTRAS.values() for extra in extras}:
        assert f"\n{extra} = [" in tables
    assert json.dumps(bootstrap.MODEL) in (bootstrap.ROOT / "llm_attr/models/catalogue.py").read_text(encoding="utf-8")


def test_whoever_ran_the_tests_has_what_the_demo_and_the_docs_need() -> None:
    assert set(bootstrap.EXTRAS["demo"]) <= set(bootstrap.EXTRAS["docs"]) <= set(bootstrap.EXTRAS["test"])
