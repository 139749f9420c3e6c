"""What is displayed of pictures that Pillow saves: a Pillow that is played, in a Python of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = (
    Path(__file__).parents[3]
    / "templates/code-interpreter-v1/files/usr/local/lib/python3.13/dist-packages/atoll_pictures.py"
)
PILLOW = """
class Image:
    def save(self, fp, format=None, **options):
        "Save."
        if format == "bad":
            raise ValueError(format)
        return fp, format, options
"""
# A shell like IPython's, and what it published.
BEGIN = """
import io, json, pathlib, sys
import atoll_pictures

class Shell:
    class events:
        @staticmethod
        def register(name, function): Shell.cell = (name, function)
    class display_formatter:
        @staticmethod
        def format(picture): return {"text/plain": "p", "image/png": b"12345"}, {"width": 1}
    class display_pub:
        told = []
        @staticmethod
        def publish(data, metadata): Shell.display_pub.told.append([sorted(data), metadata])

told = Shell.display_pub.told
atoll_pictures.watch(Shell)
"""


@pytest.fixture
def python(tmp_path: Path) -> Any:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").touch()
    (tmp_path / "PIL" / "Image.py").write_text(PILLOW)
    (tmp_path / "atoll_pictures.py").write_text(SOURCE.read_text())

    def run(code: str) -> Any:
        script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{BEGIN}\n{code}"
        done = subprocess.run(
            [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_picture_saved_to_a_path_is_displayed_and_one_saved_elsewhere_is_not(python: Any) -> None:
    code = """
from PIL import Image
answers = [Image.Image().save("a.png", "PNG", quality=3)]
first = list(told)
Image.Image().save(io.BytesIO(), "PNG")
print(json.dumps([answers, first, len(told), Image.Image.save.__doc__]))
"""

    assert python(code) == [
        [["a.png", "PNG", {"quality": 3}]],
        [[["image/png", "text/plain"], {"width": 1}]],
        1,
        "Save.",
    ]


def test_a_picture_that_is_not_saved_is_not_displayed(python: Any) -> None:
    code = """
from PIL import Image
try:
    Image.Image().save("a.xyz", format="bad")
except ValueError as error:
    print(json.dumps([str(error), told]))
"""

    assert python(code) == ["bad", []]


def test_a_cell_that_saves_many_pictures_displays_the_first_and_the_next_cell_begins_anew(
    python: Any,
) -> None:
    code = """
atoll_pictures.MOST_BYTES = 14
name, begin = Shell.cell
from PIL import Image
counts = []
for cell in range(2):
    begin(None)
    for number in range(10):
        Image.Image().save("a.png")
    counts.append(len(told))
print(json.dumps([name, counts]))
"""

    # Each is of six bytes.
    assert python(code) == ["pre_run_cell", [2, 4]]


def test_a_process_that_code_forks_displays_nothing(python: Any) -> None:
    code = """
import os
from PIL import Image
child = os.fork()
if not child:
    Image.Image().save("a.png")
    os._exit(len(told))
print(json.dumps(os.waitpid(child, 0)[1]))
"""

    assert python(code) == 0


def test_pillow_is_not_imported_for_it_and_may_be_missing_or_imported_anew(python: Any) -> None:
    code = """
before = "PIL" in sys.modules
import importlib, PIL
path, PIL.__path__ = PIL.__path__, []
try:
    import PIL.Image
except ImportError:
    missing = True
PIL.__path__ = path
import PIL.Image
importlib.reload(PIL.Image).Image().save("a.png")
print(json.dumps([before, missing, len(told)]))
"""

    assert python(code) == [False, True, 1]
