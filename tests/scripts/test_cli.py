"""The `worldmodel` command: quick where it only talks, plain where something is wrong."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fork_server import Started

from scripts import doctor
from scripts.help import verbs

ROOT = Path(__file__).parents[2]
VERBS = ["train", "evaluate", "record", "collect"]


def surroundings(**environment: str) -> dict[str, str]:
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    everything.pop("WORLDMODEL_TRACEBACK", None) if "WORLDMODEL_TRACEBACK" not in environment else None
    return everything


def start(*arguments: str, folder: Path = ROOT) -> subprocess.Popen:
    """A new process, which imports all that it needs, and which Ctrl-C stops: what a shell puts in the background, and so
    its children, would ignore it."""
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=surroundings(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))  # fmt: skip


def run(*arguments: str, folder: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, output and errors of `worldmodel <arguments>`, of a process that has imported what is heavy."""
    return Started("-m", "scripts.cli", *arguments, folder=folder, environment=surroundings()).wait(120)


def run_job(body: str, folder: Path, *overrides: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `worldmodel train` with a job of our own."""
    write_job(body, folder)
    return Started("job.py", *overrides, folder=folder, environment=surroundings(**environment)).wait(60)


def write_job(body: str, folder: Path) -> None:
    """`folder/job.py`: `worldmodel train` with a job of our own."""
    program = [
        "import sys, time",
        "from pathlib import Path",
        "from scripts.verb import verb",
        "@verb('train')",
        "def main(config, folder, overrides):",
        textwrap.indent(body, "    "),
        "if __name__ == '__main__':",
        "    main()",
    ]
    (folder / "job.py").write_text("\n".join(program))


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


# Help


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_without_a_verb_the_verbs_are_listed(arguments):
    code, out, _ = run(*arguments)
    assert code == 0 and all(name in out for name in [*VERBS, "doctor"])


@pytest.mark.parametrize("verb", [*VERBS, "doctor"])
def test_help_imports_nothing_heavy(verb):
    program = (
        "import sys; sys.argv = ['worldmodel', sys.argv[1], '--help']; from scripts.cli import main; main();"
        "heavy = {'torch', 'mujoco', 'gymnasium', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    code, out, errors = finished(start("-c", program, verb))
    assert code == 0, errors
    assert f"worldmodel {verb}" in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_tells_every_key_with_its_comment_and_every_choice(verb):
    _, out, _ = run(verb, "--help")
    assert "env.id" in out and "any Gymnasium id" in out
    assert "mppi" in out and "Examples" in out


def test_help_follows_the_choices_beside_it():
    assert "planner.temperature" in run("train", "--help")[1]
    assert "planner.temperature" not in run("train", "planner=cem", "--help")[1]


def test_each_verb_is_a_module_too():
    assert run("record", "--help")[1] == finished(start("-m", "scripts.record", "--help"))[1]


def test_every_verb_says_in_a_line_what_it_is_for():
    assert list(verbs())[:4] == VERBS
    assert all(what.endswith(".") and len(what) < 120 for what in verbs().values())


# Mistakes


def test_an_unknown_verb_names_the_near_miss():
    code, _, errors = run("trian")
    assert code == 2 and "did you mean train?" in errors


@pytest.mark.parametrize("arguments, said", [
    (("train", "env.idd=x"), "did you mean env.id"),
    (("evaluate", "policy=actr"), "did you mean actor"),
    (("train", "-m", "model=tiny,smal"), "did you mean small"),
    (("train", "--resume"), "settings are written key=value"),
    (("train", "hydra.jobs.chdir=true"), "jobs"),
    (("doctor", "seed=1"), "takes no keys"),
])  # fmt: skip
def test_a_wrong_command_line_is_answered_in_a_few_lines_and_exit_code_2(arguments, said):
    code, out, errors = run(*arguments)
    assert code == 2 and said in errors
    assert "Traceback" not in errors and len(errors.splitlines()) < 8 and not out


def test_flags_and_settings_stand_in_any_order():
    code, out, errors = run("train", "seed=4", "--cfg", "job", "env.image_size=32")
    assert code == 0, errors
    assert "seed: 4" in out and "image_size: 32" in out


# What happens around a job


def test_the_run_folder_is_where_run_says_and_the_working_directory_stays(tmp_path):
    job = "(folder / 'made').touch(); print(folder, Path.cwd(), overrides)"
    code, out, errors = run_job(job, tmp_path, "run=here/it")
    assert code == 0, errors
    assert out.split(maxsplit=2) == ["here/it", str(tmp_path), "['run=here/it']\n"]
    assert [path.name for path in (tmp_path / "here" / "it").iterdir()] == ["made"]


def test_a_sweep_names_a_folder_for_every_job_after_what_differs(tmp_path):
    sweep = ["-m", "seed=0,1", "env.id=dmc/a-b,dmc/c", "env.image_size=16", "run=here"]
    code, _, errors = run_job("(folder / 'made').touch()", tmp_path, *sweep)
    assert code == 0, errors
    made = sorted(path.parent.name for path in tmp_path.glob("here/*/made"))
    assert made == ["env.id-dmc-a-b_seed-0", "env.id-dmc-a-b_seed-1", "env.id-dmc-c_seed-0", "env.id-dmc-c_seed-1"]


def test_an_expected_error_is_its_message_and_leaves_no_empty_folder(tmp_path):
    code, _, errors = run_job("raise FileNotFoundError('no bread at home')", tmp_path)
    assert code == 1 and "no bread at home" in errors and "WORLDMODEL_TRACEBACK=1" in errors
    assert "Traceback" not in errors and not (tmp_path / "outputs").exists()


def test_a_traceback_is_shown_when_it_is_asked_for_and_when_it_is_our_bug(tmp_path):
    job = "raise FileNotFoundError('no bread at home')"
    _, _, errors = run_job(job, tmp_path, WORLDMODEL_TRACEBACK="1")
    assert "Traceback" in errors and "job.py" in errors
    code, _, errors = run_job("{}['bread']", tmp_path)
    assert code == 1 and "Traceback" in errors and "KeyError" in errors


def test_a_failed_job_of_a_sweep_fails_the_command_after_the_others_ran(tmp_path):
    job = "(folder / 'made').touch()\nif config.seed == 0: raise ValueError('not this one')"
    code, _, errors = run_job(job, tmp_path, "-m", "seed=0,1", "run=here")
    assert code == 1 and "not this one" in errors
    assert len(list(tmp_path.glob("here/*/made"))) == 2


def test_ctrl_c_tells_how_to_go_on(tmp_path):
    job = "(folder / 'config.yaml').touch()\nprint('begun', flush=True)\ntime.sleep(60)"
    write_job(job, tmp_path)
    process = start("job.py", "run=here", folder=tmp_path)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    code, _, errors = finished(process)
    assert code == 130 and "worldmodel train resume=true run=here" in errors and "Traceback" not in errors


def test_a_run_folder_is_not_overwritten_and_resuming_needs_one(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("seed: 3\n")
    code, _, errors = run("train", "run=old", folder=tmp_path)
    assert code == 1 and "resume=true run=old" in errors
    code, _, errors = run("train", "resume=true", "run=new", folder=tmp_path)
    assert code == 1 and "there is no run in new" in errors


# Verbs that need no checkpoint


def test_baselines_are_evaluated_and_the_result_runs_again_to_the_same_numbers(tmp_path):
    small = ["env.max_episode_steps=8", "env.image_size=16", "eval.episodes=2"]
    code, out, errors = run("evaluate", "policy=random", "run=first", *small, folder=tmp_path)
    assert code == 0, errors
    result = json.loads((tmp_path / "first" / "eval.json").read_text())
    assert list(result["policies"]) == ["random", "hold_still"] and "first/eval.json" in out
    code, out, errors = run("evaluate", "from=first/eval.json", "run=second", folder=tmp_path)
    assert code == 0, errors
    assert "agrees" in out


def test_a_policy_without_its_checkpoint_says_what_to_give(tmp_path):
    code, _, errors = run("evaluate", "policy=actor", folder=tmp_path)
    assert code == 1 and "checkpoint=" in errors


def test_collecting_twice_appends_and_reads_back(tmp_path):
    small = ["data=episodes", "collect.steps=20", "collect.envs=2", "env.max_episode_steps=10", "env.image_size=16"]
    for _ in range(2):
        code, _, errors = run("collect", *small, folder=tmp_path)
        assert code == 0, errors
    from worldmodel.data import EpisodeStore

    store = EpisodeStore.open(tmp_path / "episodes")
    assert len(store) == 4 and len({info["seed"] for info in store.infos}) == 4
    code, _, errors = run("collect", *small[:-1], "env.image_size=32", folder=tmp_path)
    assert code == 1 and "don't fit" in errors


def test_a_policy_is_filmed(tmp_path):
    code, _, errors = run("record", "policy=random", "run=film", "env.max_episode_steps=5", folder=tmp_path)
    assert code == 0, errors
    assert (tmp_path / "film" / "videos" / "random_10000.mp4").stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_policy_is_evaluated_until_a_signal_ends_the_server(tmp_path, number):
    pytest.importorskip("websockets", reason="the extra [serve] is not installed")
    small = ["env.max_episode_steps=8", "env.image_size=16"]
    server = start("-m", "scripts.cli", "serve", "policy=random", "port=0", *small, folder=tmp_path)
    try:
        address = server.stdout.readline().split()[3].rstrip(";")
        assert address.startswith("ws://127.0.0.1:"), server.stderr.read()
        if number == signal.SIGINT:
            remote = [
                "policy=remote",
                f"policy.url={address}",
                "run=first",
                "eval.episodes=2",
                "eval.baselines=[random]",
            ]
            code, _, errors = run("evaluate", *remote, *small, folder=tmp_path)
            assert code == 0, errors
            scores = json.loads((tmp_path / "first" / "eval.json").read_text())["policies"]
            assert scores["remote"]["episodes"] == scores["random"]["episodes"]
        server.send_signal(number)
        _, errors = server.communicate(timeout=30)
        assert server.returncode == 0 and not errors
    finally:
        server.kill()


@pytest.mark.parametrize("arguments, said", [
    (("policy=actor",), "checkpoint="),
    (("policy=expert", "env.id=worldmodel/Tabletop-v0"), "where the env is"),
])  # fmt: skip
def test_what_can_not_be_served_says_so_before_a_client_comes(tmp_path, arguments, said):
    code, out, errors = run("serve", *arguments, folder=tmp_path)
    assert code == 1 and said in errors and not out


# The doctor


def test_the_doctor_looks_at_everything():
    code, out, errors = run("doctor")
    assert all(name in out for name in doctor.CHECKS)
    assert (code == 1) == ("PROBLEM" in out), errors


def test_a_crash_in_a_check_is_a_problem_and_not_the_end():
    def crashes():
        return doctor.in_subprocess("import os; os.abort()")

    def fails():
        raise RuntimeError("no such luck")

    found = doctor.examine({"crashing": crashes, "failing": fails, "python": doctor.check_python})
    assert [finding.state for finding in found] == ["problem", "problem", "ok"]
    assert "signal 6" in found[0].text and found[1].text == "no such luck"


def test_gl_that_does_not_work_names_the_command_that_mends_it(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(doctor, "render_one_frame", lambda backend: (_ for _ in ()).throw(RuntimeError("no library")))
    finding = doctor.check_rendering()
    assert finding.state == "problem" and "libosmesa6" in finding.mend and "no library" in finding.text


@pytest.mark.parametrize(("free_gb", "state"), [(0.2, "problem"), (3, "note"), (50, "ok")])
def test_a_disk_too_small_for_a_run_is_a_problem_and_one_too_small_for_many_a_note(monkeypatch, free_gb, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_gb * 1e9))
    assert doctor.check_disk().state == state
