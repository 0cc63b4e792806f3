"""Random command lines: none ends in a traceback; a bad one is exit code 2, one line, and nothing written.

All of them: ATTN_LAB_FUZZ=1000 pytest tests/test_command_line_fuzz.py.
"""

import os
import random
import shlex

import pytest
from test_cli import OPTIONS, assert_nothing_written

LINES = int(os.environ.get("ATTN_LAB_FUZZ", "60"))
SEED = 20261128
KEYS = (
    "name", "device", "seed", "round", "passes", "resume", "table", "aa_repeat", "baseline", "is_aa_repeat",
    "shape.seq_len", "shape.batch_size", "shape.num_heads", "shape.emb_dim", "shape.dtype", "shape.head_dim",
    "shape.num_kv_heads", "measure.warmup", "measure.max_samples", "measure.min_samples", "measure.max_seconds",
    "measure.timeout", "measure.rest_ratio",
    "mask.window", "subject.bias", "backend.table", "backend.forward", "report.enabled", "report.language",
    "logger.jsonl.file_mb", "logger.wandb.mode", "logger.wandb.project", "probe.timing.warmup",
    "probe.timing.gpu_monitor", "hydra.launcher.count", "hydra.sweeper", "hydra.sweeper.params", "hydra.verbose",
    "hydra.sweep.dir", "hydra.sweep.subdir", "backend._target_", "mask._target_", "subject._target_",
    "logger.jsonl._target_", "nonsense", "shape.seq_lenn", "shape", "backend",
)  # fmt: skip
VALUES = (
    "null", "", "NaN", "inf", "-inf", "1e400", "1e308", "-1", "0", "1", "2.5", "true", "abc", "9" * 30, "9" * 500,
    "[]", "[1,2]", "[[[1]]]", "{}", "{a:1}", "{_target_:os.getcwd}", "${name}", "${nope}", "${nope:1}",
    "${.seed}", "${by:1,2}",
    "range(0)", "range(3)", "glob(*)", "glob(flsh*)", "choice(1,2)", "interval(0,1)", "shuffle(1,2)", "sort(2,1)",
    "tag(a,1)", "cast(1)", "int(a)", "'a", '"', "a,b", ",", "a b", "..", "../x", "/etc/passwd", "a\nb", "é", "‮x",
    "x" * 256, "%", "\\", "naive+sdpa_flash", "1/0", "os.system", "nope.Nope", "[forward]", "[accuracy,timing]",
)  # fmt: skip
FLAGS = ("--cfg", "--cfg=job", "-m", "--nonsense", "--config-name", "--config-dir", "-sc", "--info", "--package",
         "--jsn", "--experimental-rerun", "-p", "--resolve", "-o", "--fail-on", "--tool", "--json", "--",
         "-", "-1")  # fmt: skip
COMMANDS = ("status", "show", "explain", "diff", "report", "tune", "doctor", "ls", "nsight", "dashboard", "wandb",
            "wandb-sync", "selfcheck", "plan", "why", "plan-backends", "docter", "runs", "x")  # fmt: skip


def words_of(chance: random.Random) -> list[str]:
    """A few random words, from valid to absurd."""
    words = []
    for _ in range(chance.randint(1, 4)):
        kind = chance.random()
        if kind < 0.55:
            words.append(
                f"{chance.choice(('', '', '', '', '+', '++', '~'))}{chance.choice(KEYS)}={chance.choice(VALUES)}"
            )
        elif kind < 0.8:
            group = chance.choice(list(OPTIONS))
            option = chance.choice([*OPTIONS[group], *VALUES])
            words.append(f"{group}={option}")
        elif kind < 0.93:
            words.append(chance.choice(FLAGS))
        else:
            words.append(chance.choice(VALUES))
    return words


def line_of(number: int) -> list[str]:
    """Command line `number`: a sweep's words to `status`, which composes and plans as a sweep does, or a command's."""
    chance = random.Random(SEED * 10_000 + number)
    command = "status" if chance.random() < 0.7 else chance.choice(COMMANDS)
    words = words_of(chance)
    if command == "selfcheck":
        words.append("nonsense=1")  # the real one takes a minute
    if command in ("status", "explain"):
        words.append("device=cpu")
    return [command, *words]


def test_no_command_line_ends_in_a_traceback_and_a_bad_one_is_one_line_and_writes_nothing(door):
    wrong = []
    for number in range(LINES):
        words = line_of(number)
        line = shlex.join(words)
        try:
            said = door(*words)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{number}: {line[:300]}: {type(error).__name__}: {str(error)[:300]}")
            continue
        one_line = (
            said.code == 0 or (said.code == 1) or (said.code == 2 and said.err.strip().count("\n") == 0 and said.err)
        )
        if not one_line or "Traceback" in said.err:
            wrong.append(f"{number}: {line[:300]}: exit {said.code}: {said.err[-400:]!r}")
        try:
            assert_nothing_written(said)
        except AssertionError:
            written = [path.name for path in said.folder.iterdir()]
            wrong.append(f"{number}: {line[:300]}: wrote {written}")
            for path in said.folder.iterdir():
                path.rename(said.folder.parent / f"{said.folder.name}-{number}-{path.name[:50]}")
    assert not wrong, f"{len(wrong)} of {LINES}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("number", [0, 7])
def test_the_generator_gives_the_same_line_for_the_same_number(number):
    assert line_of(number) == line_of(number)
