"""The templates are functions that work as they stand."""

import nbformat
import pytest

from libsafe_nb import errors, template


def test_the_blank_one_comes_first():
    assert template.names()[0] == template.BLANK


@pytest.mark.parametrize("name", template.names())
def test_a_new_function_has_its_title_and_key(name):
    node = template.notebook(name, title=r"Zählen \1  der Seiten")

    nbformat.validate(node)
    assert node.cells[0].source.startswith("# Zählen \\1 der Seiten\n")
    assert node.metadata["libsafe"]["title"] == "Zählen \\1 der Seiten"
    assert sum('"key": "z-hlen-1-der-seiten"' in cell.source for cell in node.cells) == 1
    assert template.describe(name) == node.metadata["libsafe"]["description"]


def test_an_unknown_template_names_those_there_are():
    with pytest.raises(errors.UsageError, match=r"no template 'blnak'; there are: blank"):
        template.notebook("blnak")


def test_an_empty_title_is_refused():
    with pytest.raises(errors.UsageError, match="title"):
        template.notebook(title=" ")
