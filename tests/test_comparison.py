"""Images side by side: what is measured of them, in a real engine where there is one."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import pytest

from helpers import builds, comparison, session
from helpers.builds import DockerImage, Layer
from helpers.errors import TutorialError
from helpers.proposal import propose_dockerfile
from tests.engine.base_images import SLIM, WHOLE
from tests.sandbox.live import PAGE, write_app

OBVIOUS = f"""\
FROM {WHOLE[0]}
WORKDIR /app
COPY . .
RUN npm ci && npm run build
EXPOSE 3000
CMD ["npm", "start"]
"""


@pytest.mark.parametrize(
    ("files", "start", "changed"),
    [
        (["server.js", "app.js"], "node server.js", "server.js"),
        (["a.js", "src/server.ts", "src/deep/a.ts"], "node dist/server.js", "a.js"),
        (["tests/a.js", "src/index.mjs", "node_modules/x/index.js"], "node src/index.mjs", "src/index.mjs"),
        (["types.d.ts", "src/z.ts"], "node dist/z.js", "src/z.ts"),
    ],
)
def test_the_changed_line_is_in_the_apps_own_code(tmp_path, files, start, changed):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("code\n")
    (tmp_path / "package.json").write_text(json.dumps({"scripts": {"start": start}}))
    (tmp_path / ".dockerignore").write_text("tests\n")
    assert comparison.change_a_line(tmp_path) == tmp_path / changed
    first = (tmp_path / changed).read_text()
    assert first.startswith("code\n\n// ")
    comparison.change_a_line(tmp_path)
    assert (tmp_path / changed).read_text().startswith(first)
    assert all((tmp_path / name).read_text() == "code\n" for name in files if name != changed)


def test_an_app_without_code_is_told(tmp_path):
    (tmp_path / "page.html").write_text("")
    with pytest.raises(TutorialError, match="no line of code"):
        comparison.change_a_line(tmp_path)


def test_the_layers_that_hold_something_are_shown_from_the_base_on():
    image = DockerImage(
        "shop:v1",
        "sha256:0",
        "amd64",
        0,
        "",
        [],
        layers=(Layer(198_900_000, "base"), Layer(0, "USER 1000"), Layer(2_346_000, "COPY . .")),
    )
    assert comparison.layers(image).values.tolist() == [[198.9, "base"], [2.35, "COPY . ."]]
    assert comparison.layers(image, all=True)["made by"].tolist() == ["base", "USER 1000", "COPY . ."]


def test_where_nothing_is_built_the_images_are_snapshots_and_the_table_says_why(tmp_path, monkeypatch):
    lab = SimpleNamespace(name="shop", runtime="process", running=SimpleNamespace(why="no <engine> answers"))
    monkeypatch.setattr(session, "_current", lab)
    app = write_app(tmp_path / "app", PAGE % "x")
    found = comparison.compare_builds(app, obvious=OBVIOUS, good='FROM x\nCMD ["node", "server.js"]\n')
    assert found.table.to_dict("index") == {"image": {"obvious": "not built", "good": "not built"}}
    assert {name: image.command for name, image in found.images.items()} == {
        "obvious": ["npm", "start"],
        "good": ["node", "server.js"],
    }
    assert found["size, MB"] == {}
    assert repr(found).endswith("Not built: no <engine> answers")
    assert "Not built: no &lt;engine&gt; answers" in found._repr_html_()
    assert comparison.layers(found.images["good"])["made by"].tolist() == [
        "a snapshot of the app's directory"
    ]


@pytest.fixture
def shop(engine, tmp_path, monkeypatch, checkout):
    """The TypeScript app with its proposal written, in a lab of its own."""
    lab = SimpleNamespace(name=f"compared-{os.getpid()}", runtime="container")
    monkeypatch.setattr(session, "_current", lab)
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "state"))
    app = shutil.copytree(checkout / "tests" / "apps" / "typescript", tmp_path / "app")
    propose_dockerfile(app).write()
    (app / ".env").write_text("SECRET=1\n")
    made: list[DockerImage] = []
    build = builds.build

    def recorded(*arguments, **options) -> DockerImage:
        made.append(build(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(builds, "build", recorded)
    yield SimpleNamespace(app=app, name=lab.name)
    for image in made:
        builds.remove(image)


def test_two_dockerfiles_are_measured_and_their_images_stay(engine, shop, capsys):
    found = comparison.compare_builds(
        shop.app, obvious=OBVIOUS, good="Dockerfile", without_dockerignore=["obvious"]
    )
    assert (found.skipped, found.images["good"].name) == ("", f"{shop.name}:good")
    obvious, good = found.table["obvious"], found.table["good"]
    assert found["size, MB"] == {"obvious": obvious["size, MB"], "good": good["size, MB"]}
    assert (good["runs as"], good["process 1"], good["processes"]) == ("user 1000", "node dist/server.js", 1)
    assert (obvious["runs as"], obvious["process 1"], obvious["processes"]) == ("root", "npm start", 3)
    assert good["size, MB"] <= obvious["size, MB"] / 3
    assert good["packages for development only"] == 0
    assert obvious["packages for development only"] >= 2
    assert (obvious["files that .dockerignore names"] > 0, good["files that .dockerignore names"]) == (
        True,
        0,
    )
    assert all(found.table.loc["build from nothing, s"] > 0)
    assert "building good" in capsys.readouterr().out
    tags = {tag for image in engine.images.list(shop.name) for tag in image.tags}
    assert tags == {f"{shop.name}:obvious", f"{shop.name}:good"}
    assert builds.image(f"{shop.name}:good").size == pytest.approx(good["size, MB"] * 1e6, rel=0.01)


def test_an_image_that_does_not_start_is_a_result(shop):
    text = f'FROM {SLIM[0]}\nWORKDIR /app\nCOPY . .\nCMD ["node", "-e", "process.exit(3)"]\n'
    found = comparison.compare_builds(shop.app, broken=text).table["broken"]
    assert "did not start: it ended with exit code 3" in found["process 1"]


def test_a_dockerfile_that_does_not_build_is_told(shop):
    with pytest.raises(TutorialError, match="line 2 of the Dockerfile failed"):
        comparison.compare_builds(shop.app, broken=f"FROM {SLIM[0]}\nRUN exit 1\n")
