"""The store of a run folder: what is on the disk when, what is refused, and what another process may do to it."""

import json
import math
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spoilt import HOSTILE, MARK, RESULTS
from written import line, run

from attn_lab.config.trusted import _items, targets
from attn_lab.core.errors import BadRequest, StorageError
from attn_lab.records.artifacts import ArtifactStore, File, inside
from attn_lab.records.record import Record, digest
from attn_lab.records.renamed import MEASURE, PROBES, STATUSES, metric
from attn_lab.records.samples import read_samples
from attn_lab.records.schema import decode, record_of
from attn_lab.records.stats.fit import fit_exponent
from attn_lab.records.store import RunStore, find_case
from attn_lab.report import table_export
from attn_lab.report.data import read


def case(name: str = "flash2", **fields: Any) -> Record:
    given = {key: value for key, value in line(name, **fields).items() if key != "kept"}
    return record_of(given)


# What is written


def test_samples_and_files_are_on_the_disk_before_the_record_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    (tmp_path / "trace.json").write_text("{}")
    store = RunStore(tmp_path / "run")
    (tmp_path / "run").mkdir()
    files = [File("trace", tmp_path / "trace.json")]
    made = store.append(replace(case(), series={"forward/time": [1.0, 2.0]}, files=files))
    assert (
        synced[0] == f"{made.id}.part" and synced[-1] == "records.jsonl" and any("trace.json" in one for one in synced)
    )
    assert [each["kind"] for each in made.artifacts] == ["samples", "trace"]
    assert all((tmp_path / "run" / each["path"]).stat().st_size == each["size"] for each in made.artifacts)
    (read,), broken = store.records()
    assert not broken and read.as_json() == made.as_json()
    assert store.samples(read) == {"forward/time": [1.0, 2.0]}


@pytest.mark.parametrize("what", ["deleted", "renamed", "replaced", "folder renamed", "folder deleted"])
def test_a_file_that_is_no_longer_ours_takes_no_record(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    store = RunStore(folder)
    store.append(case())
    before = store.path.read_bytes()
    if what == "deleted":
        store.path.unlink()
    elif what == "renamed":
        store.path.rename(folder / "other.jsonl")
    elif what == "replaced":  # as sed -i, git and editors do
        (folder / "new").write_bytes(before)
        (folder / "new").replace(store.path)
    elif what == "folder renamed":
        folder.rename(tmp_path / "elsewhere")
    else:
        store.path.unlink()
        folder.rmdir()
    with pytest.raises(StorageError, match="expected the file that this process writes to") as raised:
        store.append(replace(case("naive"), series={"forward/time": [1.0]}))
    assert "\n" not in str(raised.value)
    left = list(tmp_path.rglob("*.jsonl"))
    assert all(path.read_bytes() == before for path in left) and not list(tmp_path.rglob("*.npz"))


def test_a_sweep_whose_records_are_replaced_ends_with_one_line(tmp_path: Path) -> None:
    from test_faults import lines_of, start, wait_until

    process = start(tmp_path, "probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "seed=range(200)", "name=x",
                    stderr=subprocess.PIPE, text=True)  # fmt: skip
    file = tmp_path / "runs/x/records.jsonl"
    wait_until(lambda: lines_of(tmp_path) >= 2)
    (tmp_path / "copy").write_bytes(file.read_bytes())
    (tmp_path / "copy").replace(file)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and err.count("\n") == 1
    assert "replaced meanwhile" in err and "of 200 cases are kept" in err


@pytest.mark.parametrize("what", ["fifo", "folder", "loop"])
def test_a_records_file_that_is_none_is_told_and_never_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "records.jsonl"
    {"fifo": lambda: os.mkfifo(path), "folder": path.mkdir, "loop": lambda: path.symlink_to(path)}[what]()
    with pytest.raises(StorageError, match="expected room for a record; got"):
        RunStore(tmp_path).append(case())
    with pytest.raises(BadRequest, match=r"expected a run folder with a records\.jsonl; got"):
        find_case("abcd", [tmp_path])


# Who may write


def test_a_folder_has_one_writer_whose_name_the_next_is_told(tmp_path: Path) -> None:
    with RunStore(tmp_path / "a/run").lock():
        with pytest.raises(BadRequest, match=rf"in use by process {os.getpid()} on {os.uname().nodename}, since"):
            RunStore(tmp_path / "a/run").lock()
        assert RunStore(tmp_path / "a/run").records().records == []
    with RunStore(tmp_path / "a/run") as store:
        store.lock()
    RunStore(tmp_path / "a/run").lock().release()
    assert [path.name for path in (tmp_path / "a/run").iterdir()] == [".lock"]


def test_a_lock_is_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "run").mkdir()
    for name in (".lock", ".lock.holder"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "thesis")
    try:
        RunStore(tmp_path / "run").lock().release()
    except BadRequest as error:
        assert "expected a folder to write to" in str(error)  # noqa: PT017  either is right
    assert (tmp_path / "thesis").read_text() == "mine"


def test_what_was_made_for_nothing_is_taken_back_and_nothing_else(tmp_path: Path) -> None:
    RunStore(tmp_path / "a/b/run").lock().discard()
    assert not list(tmp_path.iterdir())
    run(tmp_path / "run", line("naive"))
    RunStore(tmp_path / "run").lock().discard()
    assert (tmp_path / "run/records.jsonl").exists()


def test_shards_are_read_with_the_run_and_a_name_is_no_pattern(tmp_path: Path) -> None:
    store = RunStore(run(tmp_path / "run", line("naive")))
    for sweep in ("a[1]", "a1"):
        with store.shard(f"{sweep}.host-1") as shard:
            shard.append(replace(case(f"of {sweep}"), series={"forward/time": [1.0]}))
    read: dict[Path, int] = {}
    ((worker, record),) = store.follow_shards("a[1]", read)
    assert (worker, record.backend) == ("host-1", "of a[1]") and not list(store.follow_shards("a[1]", read))
    assert {each.backend for each in store.records().records} == {"naive", "of a[1]", "of a1"}
    store.drop_shards("a[1]")
    assert [path.name for path in (tmp_path / "run/shards").iterdir()] == ["a1.host-1.jsonl"]


MOVER = """
import sys
from pathlib import Path
from attn_lab.records.artifacts import ArtifactStore, File
run, name = Path(sys.argv[1]), sys.argv[2]
store = ArtifactStore(run, 1, 0.05)
for number in range(60):
    file = run.parent / f"{name}-{number}"
    file.write_bytes(bytes(5000))
    store.add(f"{name}{number % 7}", [File("trace", file)])
"""


def test_several_writers_at_the_cap_leave_each_other_alone(tmp_path: Path) -> None:
    several = [subprocess.Popen([sys.executable, "-c", MOVER, str(tmp_path / "run"), name], stderr=subprocess.PIPE)
               for name in "abc"]  # fmt: skip
    assert [each.communicate(timeout=60)[1] for each in several] == [b""] * 3
    left = list((tmp_path / "run").rglob("profile/*/*"))
    assert left and sum(path.stat().st_size for path in left) <= 0.1 * 2**20


def test_without_pruning_no_other_case_loses_a_file(tmp_path: Path) -> None:
    for name in ("other", "mine"):
        (tmp_path / name).write_bytes(bytes(600_000))
        store = ArtifactStore(tmp_path / "run", 1, 1, prune=False)
        (entry,) = store.add(name, [File("nsight", tmp_path / name)])
    assert (tmp_path / "run/profile/other/other").exists() and entry["path"] is None
    assert "more than logger.jsonl.total_mb=1" in entry["note"] and store.notices


# What is read


@pytest.mark.parametrize(("text", "why"), [
    ('"round": 1e999', "Number out of range"), ('"round": Infinity', "not a whole record"),
    ('"round": "0"', "Expected `int`"), ('"round": ' + "[" * 100_000, "not a whole record"),
    ('"round": "\\ud800"', "not a whole record"),
    ('"round": 1' + "0" * 400, "more than 64 bits"), ('"round": -1', ">= 0"),
    ('"raund": 0', "missing required field `round`"),
])  # fmt: skip
def test_what_does_not_validate_is_a_broken_line_that_says_why(tmp_path: Path, text: str, why: str) -> None:
    whole = case().line()
    assert '"round":0' in whole
    (tmp_path / "records.jsonl").write_text(whole + whole.replace('"round":0', text) + case("naive").line())
    found, broken = RunStore(tmp_path).records()
    assert [each.backend for each in found] == ["flash2", "naive"]
    assert broken.total == 1 and f"{tmp_path}/records.jsonl:2: " in broken[0] and why in broken[0]


@pytest.mark.parametrize("missing", ["schema", "case", "status", "reasons", "metrics", "provenance", "artifacts"])
def test_a_record_lacks_nothing(missing: str) -> None:
    plain = case().as_json()
    del plain[missing]
    with pytest.raises(ValueError, match=r"schema None|missing required field"):
        decode(json.dumps(plain).encode())


@pytest.mark.parametrize("id", ["../x", "", "a/b", "x" * 65, "a\n"])
def test_an_id_is_no_path(id: str) -> None:
    plain = case().as_json()
    with pytest.raises(ValueError, match="regex"):
        record_of({**plain, "case": {**plain["case"], "id": id}})


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "x" * 300, "a/" * 700 + "b", "", "a\0b"])
def test_an_artifact_lies_in_the_run_folder(path: str) -> None:
    plain = {**case().as_json(), "artifacts": [{"kind": "trace", "path": path, "size": 1}]}
    with pytest.raises(ValueError, match="expected a path"):
        record_of(plain)


def test_no_link_leads_out_of_the_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("")
    (folder / "own").write_text("")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "within").symlink_to(folder / "own")
    (folder / "loop").symlink_to(folder / "loop")
    reached = [
        path for path in ("own", "out", "up/secret", "within", "loop", "deep", "gone", None, 3) if inside(folder, path)
    ]
    assert reached == ["own", "within"]
    (tmp_path / "linked").symlink_to(folder)
    assert inside(tmp_path / "linked", "own")  # the run folder itself may be one


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06", bytes(500), np.ones((2, 2)), np.zeros(3), np.array([{}], object)]
)
def test_samples_that_cannot_be_read_are_none_and_are_named(tmp_path: Path, content: Any) -> None:
    folder = run(tmp_path / "run", line("naive", {"forward": [1.0, 2.0, 3.0]}), line("flash2", {"forward": [1.0, 2.0]}))
    path = folder / "samples" / f"{RunStore(folder).records().records[0].id}.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **{"forward/time": content})
    found, broken = RunStore(folder).records()
    assert [each.samples("forward/time") is None for each in found] == [True, False]
    assert broken.total == 1 and str(path) in broken[0] and "unreadable samples" in broken[0]
    assert RunStore(folder).samples(found[0]) == {}


def test_a_bomb_of_samples_is_not_unfolded(tmp_path: Path) -> None:
    import tracemalloc

    from spoilt import _bomb

    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.npz").write_bytes(_bomb("forward/time"))
    tracemalloc.start()
    assert read_samples(tmp_path, [{"kind": "samples", "path": "samples/a.npz"}]) == {}
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_schema_1_is_read_as_schema_2() -> None:
    oldest = (RESULTS / "h100-2026-11-22-seed/records.jsonl").read_bytes().splitlines()[0]
    newer = (RESULTS / "h100-2026-11-27-rigour/point-a/records.jsonl").read_bytes().splitlines()[0]
    for text in (oldest, newer):
        old, plain = decode(text), json.loads(text)
        again = decode(old.line().encode())
        assert json.loads(old.line())["schema"] == 2 and again.as_json() == old.as_json()
        assert old.metrics == {metric(name): {"note": "", **each} for name, each in plain["metrics"].items()}
        assert old.id == plain["case"]["id"]
    assert decode(oldest).question == decode(oldest).id
    assert decode(newer).question == digest(decode(newer).provenance["config"])


def test_every_name_of_a_published_record_is_one_of_today() -> None:
    """Metrics, statuses, probes, settings and callables: an old record is lifted to the names of new ones."""
    known = targets() | {"attn_lab.backends.xformers.XFormers"}  # removed since
    for file in sorted(RESULTS.rglob("*.jsonl")):
        for text in file.read_bytes().splitlines():
            record = decode(text)
            config = record.provenance["config"]
            assert not {name for name in record.metrics if metric(name) != name}
            assert not STATUSES.keys() & {record.status}
            assert not PROBES.keys() & config["probe"].keys()
            assert not MEASURE.keys() & config["measure"].keys()
            for key, value in _items(config):
                assert key != "_target_" or value in known, value


def test_an_id_is_found_by_its_beginning(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", line("naive"), line("flash2"), "{torn\n")
    one, other = RunStore(folder).records().records
    assert find_case(one.id[:5], [folder]).backend == "naive"
    with pytest.raises(BadRequest, match=r"which no record has in .* \(1 broken lines, the first .*records.jsonl:3"):
        find_case("zzzzzz", [folder])
    (folder / "records.jsonl").write_text("".join(replace(each, case={**each.case, "id": f"abcd{each.backend}"}).line()
                                                  for each in (one, other)))  # fmt: skip
    with pytest.raises(BadRequest, match="'abcd' begins those of abcdflash2, abcdnaive"):
        find_case("abcd", [folder])


# A record is data


def test_the_command_of_a_record_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    from attn_lab.run.repro_command import _words, command, configuration

    monkeypatch.chdir(tmp_path)
    text = (RESULTS / "h100-2026-11-27-rigour/point-a/records.jsonl").read_text().splitlines()[0]
    for bad in [
        "{_target_: distutils.spawn.spawn, cmd: [touch, PWNED]}",
        "a,b",
        "it's \\ a 'quote'",
        "x y",
        "[1]",
        "null",
        "1",
    ]:
        record = decode(text.encode())
        record.provenance["config"]["subject"]["inputs"] = bad  # type: ignore[index]
        words = list(_words(record))
        composed = configuration(words)
        assert OmegaConf.select(composed, "subject.inputs") == bad
        with pytest.raises(BadRequest, match="no command of this version asks"):
            command(record)
    for bad in ["${oc.env:HOME}", "x" * 5000]:
        record.provenance["config"]["subject"]["inputs"] = bad  # type: ignore[index]
        with pytest.raises(BadRequest, match="no command of this version asks that"):
            command(record)


def test_a_command_names_the_question_that_its_record_answers(door: Any) -> None:
    told = door(
        "backend=naive", "mask=sliding_window", "mask.window=24", "seed=3", "probe=[accuracy]", "shape.seq_len=64"
    )
    from attn_lab.run.repro_command import command

    record = find_case(told.records[0]["case"]["id"], [told.folder / "runs/adhoc"])
    assert len(record.id) == len(record.question) == 12
    again = door(*shlex.split(command(record))[1:], "name=again")
    assert again.code == 0 and {each["case"]["question"] for each in again.records} == {record.question}


@pytest.mark.parametrize("part", [*HOSTILE, {"_target_": {}}, {"_target_": [1]}])
@pytest.mark.parametrize("place", ["backend", "mask", "subject", "subject.inputs"])
def test_nsight_builds_only_what_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any], place: str
) -> None:
    from attn_lab.run.nsight import case_under_nsight

    monkeypatch.chdir(tmp_path)
    record = decode((RESULTS / "h100-2026-11-27-rigour/point-a/records.jsonl").read_bytes().splitlines()[0])
    assert case_under_nsight(record).backend_name == record.backend
    config: Any = record.provenance["config"]
    group, _, key = place.partition(".")
    (config[group] if key else config)[key or group] = part
    with pytest.raises(BadRequest, match=r"expected (parts that this version's configuration names|plain settings)"):
        case_under_nsight(record)
    assert not (tmp_path / MARK).exists()


def test_every_part_in_our_results_may_be_built() -> None:
    from attn_lab.config.trusted import check_targets

    refused = set()
    for file in RESULTS.rglob("records.jsonl"):
        for record in RunStore(file.parent).records().records:
            try:
                check_targets({**record.provenance["config"], "plan": ""})
            except BadRequest as error:
                refused.add(str(error).rpartition("=")[2])
    assert refused == {"attn_lab.backends.xformers.XFormers"}  # a backend that this version no longer has


# What is made of it


def test_a_case_whose_id_collides_with_another_question_is_run(tmp_path: Path, door: Any) -> None:
    words = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "name=x")
    (first,) = door(*words).records
    file = tmp_path / "runs/x/records.jsonl"
    assert "1 done, 0 stale, 0 todo" in door("status", *words).out
    file.write_text(file.read_text().replace(first["case"]["question"], "0123456789ab"))
    assert "0 done, 0 stale, 1 todo" in door("status", *words).out


def test_a_case_asked_twice_with_other_passes_can_be_compared(door: Any) -> None:
    words = ("backend=naive", "shape.seq_len=16")
    door(*words, "probe=[accuracy,timing]", "passes=[forward]")
    door(*words, "probe=[accuracy,timing,memory]")
    told = door("diff", "runs/adhoc", "runs/adhoc")
    assert told.code == 0 and "backward time" in told.out and "peak memory" in told.out


def test_a_fit_has_the_interval_of_its_degrees_of_freedom() -> None:
    from scipy import stats

    dice = np.random.default_rng(0)
    for count in (3, 5, 9, 13, 40):
        x = 2.0 ** np.arange(count)
        y = x**1.7 * np.exp(dice.normal(0, 0.05, count))
        found, line_ = fit_exponent(x, y), stats.linregress(np.log(x), np.log(y))
        half = stats.t.ppf(0.975, count - 2) * line_.stderr
        assert found is not None and math.isclose(found.value, line_.slope)
        assert math.isclose(found.high - found.value, half) and math.isclose(found.value - found.low, half)


def numbers_of(table: Path) -> list[Any]:
    """How many lines a tidy table has, and a hash of its numbers by case, whatever their names are."""
    import csv
    import hashlib

    with table.open(newline="") as file:
        lines = sorted("|".join(row[name] for name in ("id", "round", "value", "low", "high", "samples"))
                       for row in csv.DictReader(file))  # fmt: skip
    return [len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]]


def test_the_tables_of_our_results_hold_the_numbers_that_schema_1_gave(tmp_path: Path) -> None:
    """The golden numbers were taken from the tables of the last version that knew schema 1 alone."""

    golden = json.loads((Path(__file__).parent / "golden/tables.json").read_text())
    found = {}
    for file in sorted(RESULTS.rglob("records.jsonl")):
        table_export.write(read([file.parent], language="en", baseline="naive"), tmp_path)
        found[str(file.parent.relative_to(RESULTS))] = numbers_of(tmp_path / "table.csv")
    assert found == golden
