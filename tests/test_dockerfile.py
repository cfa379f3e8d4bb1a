"""Dockerfiles: hadolint's findings, what hadolint does not see, and what would go into the image."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from helpers.dockerfile import (
    compare,
    find_hadolint,
    instructions,
    lint,
    read,
    review,
    stages,
    started_by,
    what_goes_in,
)
from helpers.errors import TutorialError
from helpers.images import build_image

OBVIOUS = """\
FROM node:latest
WORKDIR /app
COPY . .
RUN npm ci
EXPOSE 3000
CMD ["npm", "start"]
"""
SMALL = """\
FROM node:24-slim
WORKDIR /app
COPY package*.json ./
RUN npm ci --omit=dev
COPY . .
USER 1000
CMD ["node", "server.js"]
"""
BUILT = """\
FROM node:24-slim AS build
WORKDIR /app
COPY . .
RUN npm ci
RUN npm run build
FROM node:24-slim
WORKDIR /app
COPY package*.json ./
RUN npm ci --omit=dev
COPY --from=build /app/dist dist
USER 1000
CMD ["node", "dist/server.js"]
"""
BROUGHT = """\
FROM node:24-slim AS packages
WORKDIR /app
COPY package*.json ./
RUN npm ci
FROM node:24-slim AS build
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY . .
RUN npm run build
FROM node:24-slim
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
USER 1000
CMD ["node", "dist/server.js"]
"""
ROWS = ["a version of its own", "runs as", "process 1", "dev dependencies", "a changed line of code"]


def marks(text: str) -> str:
    return "".join(review(text)[row][0] for row in ROWS)


# --- hadolint ---------------------------------------------------------------------------------------------------------


def test_hadolint_sees_one_fault_of_the_obvious_file():
    found = lint(OBVIOUS)
    assert list(found.columns) == ["line", "rule", "level", "says"]
    assert found[["line", "rule", "level"]].values.tolist() == [[1, "DL3007", "warning"]]


def test_hadolint_finds_nothing_in_the_sample_apps_file():
    assert lint("sample-app/Dockerfile").empty
    assert lint(read("sample-app")).empty


def test_a_shell_form_and_an_apt_get_are_found_with_their_lines():
    found = lint("FROM node:24-slim\nCMD npm start\nRUN apt-get install curl\n")
    assert set(zip(found["line"], found["rule"], strict=True)) >= {(2, "DL3025"), (3, "DL3008")}


def test_a_line_that_does_not_parse_is_shown_with_its_number():
    with pytest.raises(TutorialError, match=r"line 3\.\nSeen: 'RUM npm ci': unexpected 'R'"):
        lint("FROM node:24-slim\n# a comment\nRUM npm ci\n")


@pytest.mark.parametrize("text", ["\n", "# only a comment\n", "RUN npm ci\n"])
def test_a_file_without_from_is_no_dockerfile(text):
    with pytest.raises(TutorialError, match="it has no FROM"):
        lint(text)


def test_letters_of_any_language_are_no_obstacle():
    assert lint("# größer — 船\nFROM node:24-slim\n").empty


def test_settings_of_whoever_runs_it_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / ".hadolint.yaml").write_text("ignored: [DL3007]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HADOLINT_IGNORE", "DL3007")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert list(lint(OBVIOUS)["rule"]) == ["DL3007"]


def test_no_hadolint_is_told_with_where_to_get_it():
    with pytest.raises(TutorialError, match="on the PATH"):
        lint(OBVIOUS, find=lambda: None)


@pytest.mark.parametrize("does", ["echo 'cannot execute' >&2; exit 126", "exit 1"])
def test_a_hadolint_that_does_not_run_is_told(tmp_path, does):
    program = tmp_path / "hadolint"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    with pytest.raises(TutorialError, match=r"does not run here.\nSeen: (cannot execute|exit code 1)"):
        lint(OBVIOUS, find=lambda: str(program))


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(TutorialError, match="no Dockerfile at sample-app/elsewhere"):
        lint("sample-app/elsewhere")


def test_hadolint_comes_with_the_set_up():
    assert find_hadolint()


# --- reading instructions ---------------------------------------------------------------------------------------------


def test_comments_and_continued_lines_are_understood():
    text = '# syntax\nfrom node:24\nRUN npm ci \\\n  # why\n  --omit=dev\n\nCMD ["node"]\n'
    assert [str(step) for step in instructions(text)] == [
        "FROM node:24",
        "RUN npm ci --omit=dev",
        'CMD ["node"]',
    ]


def test_arguments_and_stages_that_build_on_stages_are_followed():
    text = (
        "ARG NODE=node:24-slim\nFROM --platform=linux/amd64 ${NODE} AS Base\nUSER 1000\n"
        'FROM base AS tests\nRUN npm test\nFROM base\nCMD ["node", "a.js"]\n'
    )
    every = stages(text)
    assert [stage.base for stage in every] == ["node:24-slim"] * 3
    assert [step.name for step in every[-1].steps] == ["USER", "CMD"]


# --- what hadolint does not see ---------------------------------------------------------------------------------------


def test_the_obvious_file_has_every_fault_and_the_good_ones_none():
    assert marks(OBVIOUS) == "✗✗✗✗✗"
    assert marks(SMALL) == "✓✓✓✓✓"
    assert marks(read("sample-app")) == "✓✓✓✓✓"


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ("node:24-slim", "node", "a version of its own"),
        ("node:24-slim", "registry:5000/node", "a version of its own"),
        ("node:24-slim", "node:lts", "a version of its own"),
        ("USER 1000\n", "", "runs as"),
        ("USER 1000", "USER root", "runs as"),
        ("USER 1000", "USER 1000\nUSER 0:0", "runs as"),
        ('["node", "server.js"]', "node server.js", "process 1"),
        ('["node", "server.js"]', '["sh", "-c", "node server.js"]', "process 1"),
        ('["node", "server.js"]', '["yarn", "start"]', "process 1"),
        ('CMD ["node"', 'ENTRYPOINT ["npm"', "process 1"),
        ('CMD ["node", "server.js"]\n', "", "process 1"),
        (" --omit=dev", "", "dev dependencies"),
        ("ci --omit=dev", "install", "dev dependencies"),
        ("COPY package*.json ./", "COPY . ./", "a changed line of code"),
        ("COPY package*.json ./", "COPY server.js package.json ./", "a changed line of code"),
    ],
)
def test_each_fault_shows_in_its_row_and_only_there(old, new, row):
    assert old in SMALL
    answers = review(SMALL.replace(old, new))
    assert {name for name, answer in answers.items() if answer.startswith("✗")} == {row}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("node:24-slim", "node@sha256:" + "0" * 64),
        ("node:24-slim", "registry:5000/node:24"),
        ("USER 1000", "USER node"),
        ("COPY package*.json ./", 'COPY ["package.json", "package-lock.json", "./"]'),
        ("COPY package*.json ./", "COPY --chown=1000:1000 package.json ./"),
        ("--omit=dev", "--omit dev"),
        ("--omit=dev", "--production"),
        ("RUN npm ci --omit=dev", "ENV NODE_ENV=production\nRUN npm ci"),
        ('["node", "server.js"]', '["tini", "--", "node", "server.js"]'),
    ],
)
def test_other_ways_to_be_right_are_right(old, new):
    assert old in SMALL
    assert marks(SMALL.replace(old, new)) == "✓✓✓✓✓"


def test_what_a_build_stage_installs_for_itself_is_not_in_the_image():
    assert marks(BUILT) == "✓✓✓✓✓"


COPIED = "--from=build /app/node_modules node_modules"


@pytest.mark.parametrize(
    ("old", "new", "dev", "cached"),
    [
        ("", "", "✗", "✓"),
        ("npm ci", "npm ci --omit=dev", "✓", "✓"),
        ("RUN npm run build", "RUN npm run build\nRUN npm prune --omit=dev", "✓", "✓"),
        ("USER 1000", "RUN npm prune --omit=dev\nUSER 1000", "✗", "✓"),
        ("package*.json ./\nRUN npm ci", ". .\nRUN npm ci --omit=dev", "✓", "✗"),
        (COPIED, "--from=Packages /app/node_modules/ node_modules/", "✗", "✓"),
        (COPIED, "--from=1 /app .", "✗", "✓"),
        (COPIED, "--from=1 /app/. .", "✗", "✓"),
        (COPIED, "--from=1 /app/* .", "✗", "✓"),
        (COPIED, '--from=1 ["/app/", "."]', "✗", "✓"),
        (COPIED, "--from=0 /app/package.json .", "✓", "✓"),
        (COPIED, "--from=elsewhere/image:1 /node_modules node_modules", "✓", "✓"),
    ],
)
def test_a_stage_that_the_packages_are_copied_from_is_judged_too(old, new, dev, cached):
    assert old in BROUGHT
    answers = review(BROUGHT.replace(old, new) if old else BROUGHT)
    assert (answers["dev dependencies"][0], answers["a changed line of code"][0]) == (dev, cached)


@pytest.mark.parametrize("between", ["\nRUN ", " && "])
def test_what_is_removed_from_an_image_is_left_out_only_in_the_same_layer(between):
    pruned = SMALL.replace("npm ci --omit=dev", f"npm ci{between}npm prune --omit=dev")
    assert review(pruned)["dev dependencies"][0] == ("✓" if "&" in between else "✗")


@pytest.mark.parametrize(
    "installs",
    [
        "RUN yarn install",
        "RUN yarn --production",
        "RUN corepack pnpm install",
        "RUN corepack enable && pnpm install --prod",
        "RUN npm install -g pnpm && pnpm i",
        'RUN ["pnpm", "install"]',
    ],
)
def test_other_package_managers_are_left_to_the_reader(installs):
    answers = review(SMALL.replace("RUN npm ci --omit=dev", installs))
    for row in ("dev dependencies", "a changed line of code"):
        assert answers[row] == "– not npm: look yourself"


def test_a_file_of_another_package_manager_that_is_removed_is_no_use_of_it():
    assert marks(SMALL.replace("RUN npm", "RUN rm -rf /opt/yarn-v1 && npm")) == "✓✓✓✓✓"


@pytest.mark.parametrize("user", ['"root"', "'root'", '"0"', '"root:root"'])
def test_root_in_quotes_is_root(user):
    assert review(SMALL.replace("USER 1000", f"USER {user}"))["runs as"] == "✗ root"


@pytest.mark.parametrize(
    ("started", "answer"),
    [
        ('ENTRYPOINT ["docker-entrypoint.sh"]', "– docker-entrypoint.sh: does it exec?"),
        ('ENTRYPOINT ["/usr/bin/tini", "--", "/start.sh"]', "– /start.sh: does it exec?"),
        ('ENTRYPOINT ["bash", "/start"]', "– /start: does it exec?"),
        ('ENTRYPOINT ["docker-entrypoint.sh", "npm", "start"]', "✗ npm, which starts node"),
    ],
)
def test_what_an_entry_point_script_does_is_left_to_the_reader(started, answer):
    assert review(SMALL.replace("CMD", f"{started}\nCMD"))["process 1"] == answer


def test_looking_leaves_the_settings_of_pandas_alone():
    with pd.option_context("display.max_colwidth", 33):
        lint(OBVIOUS)
        assert pd.get_option("display.max_colwidth") == 33


def test_files_stand_side_by_side_with_hadolints_word_first():
    table = compare(obvious=OBVIOUS, good="sample-app/Dockerfile")
    assert list(table.columns) == ["obvious", "good"]
    assert list(table.index) == ["hadolint", *ROWS]
    assert list(table.loc["hadolint"]) == ["✗ DL3007", "✓ finds nothing"]
    assert table["good"].str.startswith("✓").all()


# --- what would go in -------------------------------------------------------------------------------------------------


def test_every_file_of_the_directory_is_counted_once_by_kind(tmp_path):
    files = {
        "package.json": json.dumps({"scripts": {"start": "node server.js"}, "dependencies": {"a": "1"}}),
        "package-lock.json": json.dumps({"packages": {"node_modules/t": {"dev": True}}}),
        "server.js": "x" * 1000,
        "tests/one.test.js": "",
        ".env": "secret",
        ".dockerignore": "tests\n.env*\n.dockerignore\n",
        "node_modules/a/index.js": "x" * 2000,
        "node_modules/t/index.js": "x" * 4000,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    table = what_goes_in(tmp_path)
    assert table["files"].to_dict() == {
        "packages that it needs": 1,
        "the app's own files": 3,
        "left out by .dockerignore": 3,
        "packages for development only": 1,
    }
    assert table.loc["packages for development only", "kB"] == 4.0
    assert table["files"].sum() == len(files)
    inside = table[table["in the image"] == "yes"]
    assert inside["files"].sum() == build_image(tmp_path, "v1").files


def test_the_sample_app_has_every_kind_in_the_table():
    assert len(what_goes_in("sample-app")) == 4


# --- what it starts


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ('CMD ["node", "server.js"]', ["node", "server.js"]),
        ("CMD npm start", ["/bin/sh", "-c", "npm start"]),
        ('ENTRYPOINT ["node"]\nCMD ["server.js", "--fast"]', ["node", "server.js", "--fast"]),
        ('ENTRYPOINT node a.js\nCMD ["ignored"]', ["/bin/sh", "-c", "node a.js"]),
        ('CMD ["node", "a.js"]\nCMD ["node", "b.js"]', ["node", "b.js"]),
        ('CMD ["node", "a.js"]\nFROM x\nCMD ["node", "last.js"]', ["node", "last.js"]),
    ],
)
def test_what_an_image_starts_is_what_its_last_stage_says(lines, command):
    assert started_by(f"FROM x\n{lines}\n").command == command


def test_a_dockerfile_that_starts_nothing_is_told():
    with pytest.raises(TutorialError, match="does not say what to start"):
        started_by('FROM x AS built\nCMD ["node"]\nFROM y\nCOPY . .\n')


def test_settings_are_those_of_env_in_both_its_forms_and_refer_to_earlier_ones():
    text = 'FROM x AS a\nENV A=1 B="two words"\nFROM a\nENV C ${B} and $A\nENV D=$NOTHING A=3\nCMD ["node"]\n'
    assert started_by(text).environment == {"A": "3", "B": "two words", "C": "two words and 1", "D": ""}


def test_a_quotation_mark_without_its_pair_is_told():
    with pytest.raises(TutorialError, match=r"(?s)could not read.*ENV A="):
        started_by('FROM x\nENV A="1\nCMD ["node"]\n')


def test_the_sample_app_starts_node_by_its_own_dockerfile():
    started = started_by(read("sample-app"))
    assert started.command == ["node", "server.js"]
    assert started.environment == {"NODE_ENV": "production"}
