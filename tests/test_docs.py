"""The Python examples of a page of the documentation run, in order, as a reader would run them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def examples(page):
    """Runnable code blocks of a Markdown page."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return [block for block in blocks if not block.startswith("# not run here")]


@pytest.mark.parametrize("page", ["generating-data.md", "optimization.md"])
def test_examples_of_the_page_run(page, run_python, tmp_path):
    blocks = examples(page)
    assert blocks
    code = "\n".join(blocks)
    out = run_python(f"import os; os.chdir({str(tmp_path)!r})\n{code}").stdout
    promised = re.findall(r"print\(.*\)  # (\(.*\))$", code, re.MULTILINE)
    for shape in promised:
        assert shape in out
