"""The configuration: every file composes, every experiment answers its question, the study's ranges are the study's."""

import re
from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_module
from hydra.utils import get_class
from omegaconf import OmegaConf

from attn_lab.config.build import build
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.core.machine import detect
from attn_lab.core.shape import Shape

CONF = ROOT / "conf"
GROUPS = ("backend", "shape", "mask", "subject", "measure", "probe")
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = sorted(str(file.relative_to(CONF / "experiment").with_suffix(""))
                     for file in (CONF / "experiment").glob("**/*.yaml"))  # fmt: skip
AXES = {
    "batch_size": [1, 2, 4, 8, 16, 32, 64],
    "seq_len": [256, 512, 1024, 2048, 4096, 8192],
    "num_heads": [8, 16, 32, 64],
    "emb_dim": [1024, 2048, 4096, 8192],
}
POINT = {"batch_size": 16, "seq_len": 1024, "num_heads": 32, "emb_dim": 2048}
TINY = [
    "shape.batch_size=1", "shape.seq_len=16", "shape.num_heads=2", "shape.emb_dim=32",
    "shape.num_kv_heads=null", "shape.seq_len_kv=null", "shape.head_dim=null",
]  # fmt: skip


@pytest.fixture
def composed():
    """composed(*overrides): the configuration Hydra makes of them, its own part included."""
    register()
    register_resolvers()
    with initialize_config_module("attn_lab.conf", version_base="1.3"):
        yield lambda *overrides: compose("config", ["device=cpu", *overrides], return_hydra_config=True)


def first_comment(file: Path) -> str:
    return "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))


def text(experiment: str) -> str:
    return (CONF / "experiment" / f"{experiment}.yaml").read_text()


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_builds_a_case(group, option, composed):
    config = composed(f"{group}=[accuracy,{option}]" if group == "probe" else f"{group}={option}")
    case = build(config, detect("cpu"))
    if group == "shape":
        plain = OmegaConf.to_container(OmegaConf.load(CONF / "shape" / f"{option}.yaml"), resolve=False)
        for name, value in plain.items():
            expected = config.shape[name] if "${" in str(value) else value
            assert getattr(case.request.shape, name) == expected
    elif group == "probe":
        assert option in case.probes
    elif group != "measure":
        assert getattr(case, f"{group}_name") == {"paired": "sdpa_cudnn+flash4"}.get(option, option)


def test_no_folder_of_conf_is_left_out_here():
    folders = {path.name for path in CONF.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders == {*GROUPS, "experiment", "hydra", "logger", "profile"}


@pytest.mark.parametrize(("option", "added"), [
    ("trace", ["trace"]), ("phases", ["phases"]), ("memory", ["snapshot"]), ("nsight", ["nvtx"]),
    ("all", ["trace", "phases", "snapshot", "nvtx"]), ("[phases,memory]", ["phases", "snapshot"]),
])  # fmt: skip
def test_a_profile_is_appended_to_the_probes_whatever_they_are(option, added, composed):
    for probes in ([], ["probe=[accuracy,timing]"]):
        usual = list(composed(*probes).probe)
        config = composed(*probes, f"+profile={option}")
        assert list(build(config, detect("cpu")).probes) == [*usual, *added]
    assert {file.stem for file in (CONF / "profile").glob("*.yaml")} == {"trace", "phases", "memory", "nsight", "all"}


@pytest.mark.parametrize("file", sorted((CONF / "logger").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_logger_is_a_logger(file, composed):
    settings = composed(f"logger=[{file.stem}]").logger[file.stem]
    logger = get_class(settings._target_)
    assert callable(logger.write) and callable(logger.close)


@pytest.mark.parametrize("file", sorted(set(CONF.glob("**/*.yaml")) - set(CONF.glob("hydra/**/*.yaml"))),
                         ids=lambda file: str(file.relative_to(CONF)))  # fmt: skip
def test_every_file_says_what_it_is(file):
    assert first_comment(file)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_says_its_question_and_its_own_command(experiment):
    header = text(experiment)
    assert re.search(r"^# Question: .*\?", header, flags=re.MULTILINE | re.DOTALL)
    command = re.search(r"^# Command: +(attn-lab .*)$", header, flags=re.MULTILINE)
    assert command and re.search(rf"experiment={re.escape(experiment)}(\s|$)", command.group(1))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs_shrunk_on_the_cpu_into_its_own_folder(experiment, door):
    shallow = ("subject.layers=2", "subject.vocab_size=99") if experiment.startswith("models/") else ()
    told = door(f"experiment={experiment}", *TINY, *shallow, "backend=naive,sdpa_flash", "measure.max_samples=3",
                "measure.warmup=0")  # fmt: skip
    assert told.code == 0, told.err
    assert told.statuses and set(told.statuses) <= {"ok", "unsupported"}, [record["reasons"] for record in told.records]
    assert (told.folder / "runs" / experiment / "records.jsonl").exists(), list(told.folder.glob("runs/**/*.jsonl"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_case_of_an_experiment_is_admitted_as_written(experiment, door, tmp_path):
    """Composed, built and checked at its full sizes; only a file in the way keeps it from being run."""
    (tmp_path / "runs").write_text("in the way")
    told = door(f"experiment={experiment}", "backend=naive")
    assert told.code == 2
    assert "run folder" in told.err, told.err


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_names_backends_there_are(experiment, composed):
    known = {file.stem for file in (CONF / "backend").glob("*.yaml")}
    named = str((composed(f"experiment={experiment}").hydra.sweeper.params or {}).get("backend", "naive"))
    assert named.startswith("glob(*") or set(named.replace("+", ",").split(",")) <= known


def test_auto_is_measured_where_the_question_is_on_a_gpu(composed):
    """Its shapes as a GPU would have them, of which there is none here."""
    OmegaConf.register_new_resolver("by_device", lambda device, values: values["cuda"], replace=True)
    params = {
        key: str(value).split(",") for key, value in composed("experiment=auto/check").hydra.sweeper.params.items()
    }
    known = {file.stem for file in (CONF / "backend").glob("*.yaml")}
    assert {half for name in params.pop("backend") for half in name.split("+")} <= known
    shapes = set()
    for values in product(*params.values()):
        config = composed(
            "experiment=auto/check", *(f"{key}={value}" for key, value in zip(params, values, strict=True))
        )
        shape = Shape(**OmegaConf.to_container(config.shape, resolve=True))
        assert shape.batch_size * shape.seq_len == 2**15 and shape.head_dim * shape.num_heads == 1024
        shapes.add((config.hydra.runtime.choices.mask, shape))
    assert len(shapes) == 28
    assert {mask for mask, _ in shapes} == {"causal", "full"}
    for name, values in {"head_dim": {64, 128}, "group_size": {1, 4, 8}, "dtype": {"float16", "bfloat16"}}.items():
        assert {getattr(shape, name) for _, shape in shapes} == values
    assert {shape.seq_len for _, shape in shapes} == {2**power for power in range(9, 16)}
    assert len({(shape.head_dim, shape.group_size, shape.dtype) for _, shape in shapes}) == 4  # flash4 compiles each


@pytest.mark.parametrize("axis", AXES)
def test_the_study_s_axes_have_its_ranges_and_fixed_point(axis, composed):
    params = OmegaConf.load(CONF / f"experiment/seed/{axis}.yaml").hydra.sweeper.params
    assert [int(value) for value in params[f"shape.{axis}"].split(",")] == AXES[axis]
    assert {key for key in params if key != "backend"} == {f"shape.{axis}"}
    assert POINT[axis] in AXES[axis]
    config = composed(f"experiment=seed/{axis}")
    shape = Shape(**OmegaConf.to_container(config.shape, resolve=True))
    assert {name: getattr(shape, name) for name in POINT} == POINT
    assert (shape.dtype, shape.head_dim, shape.num_kv_heads) == ("float16", 64, 32)
    assert config.hydra.runtime.choices.mask == "causal"
    assert list(config.passes) == ["forward", "backward", "forward_backward"]
    assert {"naive", "flash2"} <= set(params.backend.split(","))


def test_the_study_s_axes_sweep_what_they_say(door, tmp_path):
    (tmp_path / "runs").mkdir()
    told = door(
        "experiment=seed/num_heads", "shape.batch_size=1", "shape.seq_len=16", "backend=naive", "probe=[accuracy]"
    )
    assert [record["case"]["shape"]["num_heads"] for record in told.records] == AXES["num_heads"]


@pytest.mark.parametrize("order", [1, -1])
def test_backends_vary_fastest_whatever_the_order_of_words(order, door):
    words = ["backend=naive,sdpa_flash", "shape.seq_len=16,32"][::order]
    told = door(*words, "probe=[accuracy]")
    asked = [(record["case"]["shape"]["seq_len"], record["case"]["backend"]) for record in told.records]
    assert asked == [(16, "naive"), (16, "sdpa_flash"), (32, "naive"), (32, "sdpa_flash")]


def test_the_command_line_replaces_an_experiment_s_ranges_and_settings(door):
    told = door("experiment=seed/seq_len", *TINY, "shape.dtype=float32", "mask=full", "backend=sdpa_math",
                "probe=[accuracy]", "name=mine")  # fmt: skip
    (record,) = told.records
    case = record["case"]
    assert (case["backend"], case["mask"]) == ("sdpa_math", "full")
    assert case["shape"] == {"batch_size": 1, "seq_len": 16, "num_heads": 2, "emb_dim": 32, "num_kv_heads": 2,
                             "seq_len_kv": 16, "head_dim": 16, "dtype": "float32"}  # fmt: skip
    assert (told.folder / "runs/mine/records.jsonl").exists()
