"""Dockerfiles for apps that have none: what is read from a package.json, and that the four foreign apps run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from helpers import builds, containers, started_app
from helpers.dockerfile import lint, review
from helpers.errors import TutorialError
from helpers.proposal import dockerfile_of, majors, propose_dockerfile

APPS = Path(__file__).parent / "apps"
FOREIGN = {"plain": "/healthcheck", "fastify": "/healthcheck", "typescript": "/healthcheck"} | {
    "other-health": "/api/status/live"
}


@pytest.fixture
def propose(tmp_path):
    def run(package: dict, **files: str):
        (tmp_path / "package.json").write_text(json.dumps({"scripts": {"start": "node server.js"}} | package))
        for name, text in files.items():
            (tmp_path / name.replace("__", ".").replace("_", "-")).write_text(text)
        return propose_dockerfile(tmp_path)

    return run


NEEDS = {"dependencies": {"express": "5"}}


@pytest.mark.parametrize(
    ("wanted", "fitting"),
    [  # majors of 18 to 25 of which some version is in the range, by npm's rules
        (">=20", {20, 21, 22, 23, 24, 25}),
        ("20", {20}),
        ("20.x", {20}),
        ("^18.17 || ^20.3", {18, 20}),
        (">=18 <21", {18, 19, 20}),
        (">=18 <21.1", {18, 19, 20, 21}),
        ("18 - 20", {18, 19, 20}),
        (">20", {21, 22, 23, 24, 25}),
        (">20.1", {20, 21, 22, 23, 24, 25}),
        ("<=22", {18, 19, 20, 21, 22}),
        ("~22.4.1", {22}),
        ("*", {18, 19, 20, 21, 22, 23, 24, 25}),
        ("v24.1.0", {24}),
    ],
)
def test_a_range_is_read_as_npm_reads_it(wanted, fitting):
    assert {major for major in range(18, 26) if majors(wanted)(major)} == fitting


@pytest.mark.parametrize(
    ("package", "files", "base"),
    [
        ({}, {}, "node:24-slim"),
        ({"engines": {"node": "20.x"}}, {}, "node:20-slim"),
        ({"engines": {"node": "<23"}}, {}, "node:22-slim"),
        ({"engines": {"npm": "10"}}, {"__nvmrc": "v22.1.0\n"}, "node:22-slim"),
        ({"engines": {"node": "16"}}, {}, "node:16-slim"),
    ],
)
def test_the_base_image_is_the_newest_that_the_app_allows(propose, package, files, base):
    assert f"ARG NODE_IMAGE=public.ecr.aws/docker/library/{base}\n" in propose(package, **files).dockerfile


@pytest.mark.parametrize(
    ("lock", "install"),
    [
        ("package_lock.json", "npm ci --omit=dev"),
        ("npm_shrinkwrap.json", "npm ci --omit=dev"),
        ("yarn.lock", "yarn install --frozen-lockfile --production"),
        ("pnpm_lock.yaml", "pnpm install --frozen-lockfile --prod"),
        (None, "npm install --omit=dev"),
    ],
)
def test_packages_come_by_the_lock_files_own_manager(propose, lock, install):
    proposal = propose(NEEDS, **({lock: "{}"} if lock else {}))
    assert install in proposal.dockerfile
    name = lock.replace("_", "-") if lock else None
    copied = f"COPY package.json{f' {name}' if name else ''} ./\n"
    assert copied in proposal.dockerfile
    assert any("commit the lock" in doubt for doubt in proposal.doubts) is (lock is None)


def test_an_app_without_packages_installs_none(propose):
    assert "RUN" not in propose({}).dockerfile


def test_what_only_development_needs_is_not_installed_for_the_image(propose):
    text = propose({"devDependencies": {"eslint": "9"}}, package_lock__json="{}").dockerfile
    assert "RUN" not in text


def test_a_script_for_who_develops_does_not_run(propose):
    prepared = propose(NEEDS | {"scripts": {"start": "node a.js", "prepare": "husky"}}).dockerfile
    assert "RUN npm pkg delete scripts.prepare && npm install --omit=dev" in prepared


def test_a_build_has_a_stage_of_its_own_and_only_its_output_goes_on(propose):
    scripts = {"build": "tsc", "start": "node dist/server.js"}
    text = propose(NEEDS | {"scripts": scripts}, package_lock__json="{}").dockerfile
    stages = text.split("FROM ")
    assert "npm ci --no-audit" in stages[2]
    assert "RUN npm run build" in stages[2]
    assert "COPY --from=build /app/dist ./dist" in stages[3]
    assert "RUN" not in stages[3]


def test_where_the_output_cannot_be_told_all_goes_on_without_what_development_needs(propose):
    scripts = {"build": "next build", "start": "next start"}
    text = propose(NEEDS | {"scripts": scripts}, package_lock__json="{}").dockerfile
    assert "RUN npm run build && npm prune --omit=dev" in text
    assert "COPY --from=build /app ./" in text
    assert 'CMD ["node_modules/.bin/next", "start"]' in text
    assert review(text)["dev dependencies"].startswith("✓")


def test_tsconfig_tells_where_a_build_goes(propose):
    package = NEEDS | {"scripts": {"build": "tsc", "start": "node compiled/server.js"}}
    text = propose(package, tsconfig__json='{"compilerOptions": {"outDir": "./compiled"}}').dockerfile
    assert "COPY --from=build /app/compiled ./compiled" in text


@pytest.mark.parametrize(
    ("start", "command", "doubt"),
    [
        ("node server.js --fast", ["node", "server.js", "--fast"], None),
        ("NODE_ENV=production SHOP='a b' node server.js", ["node", "server.js"], None),
        ("node a.js && node b.js", ["sh", "-c", "node a.js && node b.js"], "needs a shell"),
        ("npm run serve", ["npm", "run", "serve"], "loses SIGTERM"),
        ("nodemon server.js", ["node_modules/.bin/nodemon", "server.js"], "tool for development"),
    ],
)
def test_the_start_script_becomes_the_command_without_npm(propose, start, command, doubt):
    proposal = propose({"scripts": {"start": start}})
    assert f"CMD {json.dumps(command)}\n" in proposal.dockerfile
    assert ('ENV SHOP="a b"' in proposal.dockerfile) is ("SHOP" in start)
    assert sum(bool(doubt and doubt in each) for each in proposal.doubts) == bool(doubt)


def test_without_a_start_script_the_main_file_is_taken(propose, tmp_path):
    with pytest.raises(TutorialError, match="no script `start`"):
        propose({"scripts": {}})
    (tmp_path / "app.js").write_text("")
    assert 'CMD ["node", "app.js"]' in propose({"scripts": {}, "main": "app.js"}).dockerfile


def test_nothing_is_written_until_it_is_asked_for_and_nothing_over_what_is_there(propose, tmp_path):
    proposal = propose({})
    assert {path.name for path in tmp_path.iterdir()} == {"package.json"}
    assert "until then nothing is changed" in repr(proposal)
    assert proposal.dockerfile.strip() in repr(proposal)
    assert proposal.write() == [tmp_path / "Dockerfile", tmp_path / ".dockerignore"]
    assert (tmp_path / "Dockerfile").read_text() == proposal.dockerfile
    assert "node_modules" in (tmp_path / ".dockerignore").read_text().split()
    (tmp_path / "Dockerfile").write_text("mine")
    with pytest.raises(TutorialError, match="stays as it is"):
        proposal.write()
    assert (tmp_path / "Dockerfile").read_text() == "mine"


def test_the_apps_own_dockerfile_goes_before_a_proposal_which_is_written_when_asked_for(
    propose, tmp_path, capsys
):
    text = propose({}).dockerfile
    assert dockerfile_of(tmp_path) == text
    assert "Nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "Dockerfile").exists()
    assert dockerfile_of(tmp_path, write=True) == text
    assert "written: Dockerfile, .dockerignore" in capsys.readouterr().out
    (tmp_path / "Dockerfile").write_text("mine")
    assert dockerfile_of(tmp_path, write=True) == "mine"
    assert capsys.readouterr().out == ""


def test_a_dockerignore_of_the_apps_own_stays_and_is_looked_at(propose, tmp_path):
    (tmp_path / ".dockerignore").write_text("*.md\n")
    proposal = propose(NEEDS)
    assert proposal.dockerignore == ""
    assert any("does not name node_modules" in doubt for doubt in proposal.doubts)
    assert proposal.write() == [tmp_path / "Dockerfile"]


def test_what_is_no_app_is_told(tmp_path):
    with pytest.raises(TutorialError, match=r"no package\.json"):
        propose_dockerfile(tmp_path)
    (tmp_path / "package.json").write_text("{")
    with pytest.raises(TutorialError, match="is not JSON"):
        propose_dockerfile(tmp_path)
    (tmp_path / "package.json").write_text("[]")
    with pytest.raises(TutorialError, match="no object"):
        propose_dockerfile(tmp_path)


# --- the four foreign apps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_apps_proposal_has_every_good_answer(name):
    text = propose_dockerfile(APPS / name).dockerfile
    assert lint(text).empty
    assert all(answer.startswith("✓") for answer in review(text).values()), review(text)


def test_the_apps_bring_no_packages_and_name_no_registry():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=APPS,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {name.split("/")[0] for name in listed} == set(FOREIGN)
    assert not [name for name in listed if "node_modules" in name or name.endswith("Dockerfile")]
    for name in listed:
        text = (APPS / name).read_text()
        assert '"resolved"' not in text, name
        hosts = set(re.findall(r"https?://([^/\"']+)", text))
        assert hosts <= {"github.com", "opencollective.com", "paulmillr.com", "tidelift.com"}, name


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_app_runs_from_its_proposal(engine, engine_labels, name, monkeypatch, tmp_path):
    monkeypatch.setattr(started_app, "_running", None)
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "state"))
    proposal = propose_dockerfile(APPS / name)
    image = builds.build(
        APPS / name,
        name,
        dockerfile=proposal.dockerfile,
        dockerignore=proposal.dockerignore,
        name=f"foreign-{os.getpid()}",
        labels=engine_labels,
    )
    try:
        app = containers.run_container(image)
        assert (app.status(), app.status(FOREIGN[name])) == (200, 200)
        assert app.log
        app.stop()
        assert app.exit_code == 0
    finally:
        builds.remove(image)
