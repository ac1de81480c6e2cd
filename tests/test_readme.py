"""What the documentation says exists, exists: targets, verbs, options, links."""

from __future__ import annotations

import configparser
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

import gpavatar
from gpavatar.__main__ import VERBS, main
from gpavatar.assets import shipped_manifest

ROOT = Path(gpavatar.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@cache
def help_of(verb: str) -> str:
    """What `gpavatar VERB --help` prints."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    return printed.getvalue()


def targets() -> dict[str, str]:
    """The Makefile's targets and their one line, as `make help` prints them."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    return dict(re.findall(r"^  ([\w-]+):\s+(\S.*)$", done.stdout, re.MULTILINE))


def test_the_two_commands_stand_at_the_very_top():
    commands = [line.strip().split("  ")[0] for line in README.splitlines() if line.startswith("    ")]
    assert commands[:2] == ["make demo", "make test"]


def test_make_help_has_a_line_for_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert set(targets()) == set(phony.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_and_links_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z]+)(?=`|\s\s|$|[ ]ARGS|[ ]EXTRAS)", text, re.MULTILINE)) <= set(targets())
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_commands_of_the_readme_exist_with_their_options():
    commands = re.findall(r"^    gpavatar (\w+)(.*)$", README, re.MULTILINE)
    assert {verb for verb, _ in commands} == set(VERBS)
    for verb, arguments in commands:
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", arguments):
            assert re.search(rf"(?<!\S){option}\b", help_of(verb)), f"gpavatar {verb} {option}"
    for verb, sub in re.findall(r"gpavatar (assets) (\w+)", README):
        assert sub in help_of(verb)


def test_every_option_that_the_readme_names_exists():
    helps = "".join(map(help_of, VERBS))
    for option in re.findall(r"`(--[a-z][\w-]*)`", README):
        assert option == "--help" or re.search(rf"(?<!\S){option}\b", helps), option


def test_the_readmes_python_names_exist():
    for name in re.findall(r"gpavatar\.([a-z_]+)\(", README):
        assert callable(getattr(gpavatar, name))


def test_the_readmes_extras_and_system_packages_are_those_of_the_build():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(re.findall(r"`\[(\w+)\]`", README)) == set(setup["options.extras_require"])
    makefile = re.search(r"^SYSTEM_LIBRARIES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    packages = [pair.split(":")[1] for pair in makefile.split()]
    assert f"apt-get install {' '.join(packages)} " in README


def test_the_licences_page_lists_every_asset_and_says_whether_it_is_free():
    rows = re.findall(r"^\| (\w+) \|.*\| (yes|no)\b", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    assert dict(rows) == {name: "yes" if a.permissive else "no" for name, a in shipped_manifest().assets.items()}


def test_the_command_names_its_verbs_and_refuses_others(capsys):
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"  {verb} ") == 2 for verb in VERBS)
    assert main(["reenect"]) == 2
    assert "reenact" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    code = "import sys; from gpavatar.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
