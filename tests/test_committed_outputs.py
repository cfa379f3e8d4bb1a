"""What counts as the same output, and what does not: with notebooks made up here, and with the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers import notebooks, run
from helpers.notebooks import label
from tests import committed_outputs
from tests.committed_outputs import IGNORED, SANITIZING

CHECK = "✓ One process saturates: latency multiplies, and much of what was asked for is not served"
LOG = '{"time":"2026-11-23T13:10:05.145Z","method":"GET","path":"/","status":200,"ms":42.3,"task":"vm/20194"}'
LOADED = "282 requests in 5 AWS minutes, none failed; 25.4 served a second; p50 542 ms, p95 721 ms"
BUILT = " 1/3 FROM node:24\n 2–3 from the cache\nimage shop:a1b2c3d4e5f6, 201.3 MB in 3 layers\n"
STACK = "CREATE_COMPLETE                60 s  Service  AWS::ECS::Service"
TABLE = "       task        zone     status\n0  8e878ecf  us-east-1a  RUNNING"
IMAGE = "sha256:32257ede68edc1c12afc6290223bb45f677827ffc67ee630989812527648e1a0"
CODE = 'ask("/")'

Differ = Callable[[object, object], list[str]]


@pytest.fixture
def differ(request: pytest.FixtureRequest, tmp_path: Path) -> Differ:
    """What differs between a cell's committed output and that of a run; each is text, or a list of outputs."""

    def differ(committed: object, shown: object, tags: tuple[str, ...] = ()) -> list[str]:
        paths = [tmp_path / name / "01-a.ipynb" for name in ("committed", "executed")]
        for path, outputs in zip(paths, (committed, shown), strict=True):
            path.parent.mkdir(exist_ok=True)
            outputs = outputs if isinstance(outputs, list) else [text(outputs)]
            cell = new_code_cell(CODE, outputs=outputs, execution_count=1, metadata={"tags": list(tags)})
            nbformat.write(new_notebook(cells=[cell]), path)
        (tmp_path / "fresh").mkdir(exist_ok=True)
        fresh = committed_outputs.as_committed(*paths, tmp_path / "fresh")
        return list(committed_outputs.differences(request.session, paths[0], fresh))

    return differ


def text(value: object, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=str(value))


def shown(**data: str) -> nbformat.NotebookNode:
    return new_output("display_data", data={name.replace("_", "/"): value for name, value in data.items()})


@pytest.mark.parametrize(
    ("committed", "executed"),
    [
        ("AWS time is 2026-11-23 13:10 UTC", "AWS time is 2027-01-02 03:04 UTC"),
        ("started 2026-11-23 13:35:51.083+00:00", "started 2026-11-23 13:35:52+00:00"),
        ("13:53:51  Alarm updated", "03:04:05  Alarm updated"),
        (LOG, LOG.replace("42.3", "7").replace("20194", "7").replace("13:10:05.145", "14:11:06.246")),
        ('{"port":39579,"task":"8e878ecf"}', '{"port":8080,"task":"12345678"}'),
        ("at http://127.0.0.1:39579 now", "at http://127.0.0.1:8080 now"),
        ("task 8e878ecf5710436db6b11821d308e5e0", "task c1b8fb7470c04ec4afdee2daa0a5a408"),
        ("'us-east-1a': 'subnet-35974648f3fc7dd40'", "'us-east-1a': 'subnet-54e3b78ca7211a1cb'"),
        ("shop-TaskRole-jY30reSrPJ7C, 2", "shop-TaskRole-2nAI7IFf2VH8, 2"),
        ("(deployment ecs-svc/3561602967144458236)", "(deployment ecs-svc/9325467418140683910)"),
        (f"{IMAGE}\n50a1b23825a7: pushed (685,789 bytes)", f"sha256:{'0' * 64}\n{'f' * 12}: pushed (7 bytes)"),
        (BUILT, " 1/3 FROM node:24\n 2/3 RUN npm ci  2.5 s\n 3/3 COPY . .\nimage shop:f" + "0" * 11 + ", 9 MB in 7 layers\n"),
        ("a1b2c3d4e5f6: pushed (39,936 bytes)\n0a1b2c3d4e5f: already there\nOnce more:\n", "a1b2c3d4e5f6: already there\nOnce more:\n"),
        (STACK, STACK.replace("    60 s", "     5 s")),
        (STACK.replace("COMPLETE", "FAILED"), STACK.replace("COMPLETE", "FAILED").replace("    60 s", "     5 s")),
        ("RequestID: fe4c958b-e56c-5853-8452-b97644db0164, x", "RequestID: 9604e965-fdb5-559a-88c3-f1456ee205df, x"),
        (LOADED, "1,277 requests in 6 AWS minutes, none failed; 1.0 served a second; p50 5 ms, p95 1,945 ms"),
        ("0 of 144 failed, exit code 0", "0 of 99 failed, exit code 0"),
        ("35 against 101 requests per second, p95 1057 against 13 ms", "9 against 8 requests per second, p95 7 against 6 ms"),
        (TABLE, TABLE.replace("     status", " status").replace("8e878ecf", "c1b8fb74")),
        ("<urlopen error [Errno 111] Connection refused>", "<urlopen error [Errno 61] Connection refused>"),
        (f"{CHECK}\n  (seen: p95 10 ms at 9 requests per second, 946 ms\n  at 36)", f"{CHECK} (seen: p95 1 ms at 9 requests per second, 9 ms at\n  3)"),
        ("✓ A process sees no other (seen: process 1, alone)", "✓ A process sees no other (seen: not allowed\n  here)"),
    ],
)  # fmt: skip
def test_what_varies_by_nature_is_the_same(differ, committed, executed):
    assert committed != executed
    assert differ(committed, executed) == []


@pytest.mark.parametrize(
    ("committed", "executed"),
    [
        ("2 tasks desired, 2 running, 2 healthy", "2 tasks desired, 2 running, 1 healthy"),
        (LOADED, LOADED.replace("none", "1")),
        ("0 of 144 failed", "1 of 144 failed"),
        ("exit code 0", "exit code 137"),
        ("account 123456789012", "account 210987654321"),
        ("CPUUtilization > 50 for 3 minutes", "CPUUtilization > 50 for 5 minutes"),
        ("'TargetValue': 50.0", "'TargetValue': 70.0"),
        ("$0.0722 an hour, $52.70 a month", "$0.0722 an hour, $52.71 a month"),
        (BUILT, BUILT.replace("shop:", "store:")),
        (BUILT, BUILT + "a1b2c3d4e5f6: already there, and this very image\n"),
        (STACK, STACK.replace("COMPLETE", "FAILED")),
        (STACK, STACK.replace("Service", "Cluster", 1)),
        (LOG, LOG.replace("200", "404")),
        (LOG, LOG.replace('"/"', '"/visits"')),
        ('"version":"1.0.0"', '"version":"1.0.1"'),
        ("revision 1", "revision 2"),
        ("'cool-nodejs-app'", "'cool-nodejs-applications'"),
        ("tags ['release-1']", "tags ['release-2']"),
        (TABLE, TABLE.replace("1a", "1b")),
        (TABLE, TABLE.replace("RUNNING", "PENDING")),
        (TABLE, TABLE + "\n1  c1b8fb74  us-east-1b  RUNNING"),
        ("172.31.0.4:3000  healthy", "172.31.0.4:3001  healthy"),
        ("617 files, 2.4 MB in 1 layer", "618 files, 2.4 MB in 1 layer"),
        ("Resources:\n  Cluster:\n    Type: A", "Resources:\n  Cluster:\n  Type: A"),
        ("INSUFFICIENT_DATA to ALARM", "OK to ALARM"),
        (f"{CHECK} (seen: 4 of 5)", f"{CHECK} (seen: 3 of 5)"),
        (f"{CHECK} (seen: p95 10 ms)", f"{CHECK.replace('One', 'No')} (seen: p95 10 ms)"),
    ],
)
def test_what_matters_is_compared(differ, committed, executed):
    (told,) = differ(committed, executed)
    assert told.startswith("01-a.ipynb, code cell 0 (")
    assert CODE in told


def test_each_kind_of_output_is_compared(differ):
    both = [shown(text_html="<b>2</b>", text_plain="2")]
    assert differ(both, both) == []
    assert differ(both, [shown(text_html="<b>3</b>", text_plain="2")])
    assert differ(both, [shown(text_plain="2")])
    assert differ(both, [])
    assert differ(both, both * 2)
    assert differ([], both)
    assert differ([text("a")], [text("a"), text("warning", "stderr")])


def test_how_a_stream_was_cut_does_not_matter(differ):
    assert differ([text("one\n"), text("two\n")], [text("one\ntwo\n")]) == []


def test_a_place_on_this_disk_is_told_as_run_write_tells_it(differ):
    assert differ("sample-app/server.js", f"{run.ROOT}/sample-app/server.js") == []


def test_a_tagged_cell_may_show_anything(differ):
    assert differ("a", "b", tags=(IGNORED,)) == []
    assert differ("a", "b", tags=("exercise",))


def test_every_rule_is_one_that_nbval_reads():
    """It overlooks what is not written just so."""
    from nbval.plugin import get_sanitize_patterns

    written = SANITIZING.read_text()
    headings = [line for line in written.splitlines() if line.startswith("[")]
    assert len(dict(get_sanitize_patterns(written))) == len(headings) == written.count("regex:")


def test_a_notebook_is_compared_only_under_the_runtime_of_its_metadata(tmp_path):
    path = tmp_path / "01-a.ipynb"
    nbformat.write(new_notebook(metadata={"tutorial": {"runtime": "process"}}), path)
    assert committed_outputs.other_runtime(path, "process") == ""
    why = committed_outputs.other_runtime(path, "docker")
    assert why == "the outputs of 01-a.ipynb are of tasks that ran as process, here they run as docker"
    nbformat.write(new_notebook(), path)
    assert "ran as None" in committed_outputs.other_runtime(path, "process")


REAL = notebooks.journey(run.NOTEBOOKS) + notebooks.labs(run.NOTEBOOKS)


@pytest.mark.parametrize("path", REAL, ids=label)
def test_any_changed_line_of_a_real_notebook_is_found(path, request, tmp_path):
    """A word more in each cell that is compared: each is told. Of a notebook as it stands none is."""
    session = request.session
    assert list(committed_outputs.differences(session, path, path)) == []
    notebook, changed = run.read(path), set()
    for cell in notebook.cells:
        if cell.get("outputs") and IGNORED not in cell.metadata.get("tags", []):
            last = cell.outputs[-1]
            kinds = last.get("data", last)
            kind = next(kind for kind in ("text/html", "text/plain", "text") if kind in kinds)
            kinds[kind] = f"Otherwise: {kinds[kind]}"
            changed.add(cell.id)
    other = tmp_path / path.name
    nbformat.write(notebook, other)
    told = list(committed_outputs.differences(session, path, other))
    assert {cell for cell in changed if any(f"({cell})" in text for text in told)} == changed
    assert len(told) == len(changed) >= 5
