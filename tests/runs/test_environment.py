"""Tests of the environment variables passed to a recipe. See also test_supervisor.py."""

import re

import pytest

from config.env import BASE_DIR, VARIABLES
from runs.supervision.environment import allowed, for_recipe


def test_no_variable_of_the_product_reaches_a_recipe():
    import config.settings  # noqa: F401 - declares them

    assert len(VARIABLES) > 10
    assert for_recipe(dict.fromkeys(VARIABLES, "x")) == {}


@pytest.mark.parametrize("name", ["HF_TOKEN", "https_proxy", "LC_ALL", "CUDA_VISIBLE_DEVICES"])
def test_variables_that_libraries_need_reach_a_recipe(name):
    assert for_recipe({name: "x", "AWS_SECRET_ACCESS_KEY": "y"}) == {name: "x"}


def test_the_documentation_names_only_allowed_variables():
    text = (BASE_DIR / "docs" / "settings.md").read_text()
    section = text.partition("## Environment of training processes")[2].partition("\n## ")[0]
    listed = "\n".join(line for line in section.splitlines() if line.startswith("- "))
    names = [name for name in re.findall(r"`([A-Z_]+)\*?`", listed) if not name.islower()]
    assert len(names) > 30
    assert [name for name in names if not allowed(name)] == []
