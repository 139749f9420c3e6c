"""
Has a picture that Pillow saves to a path displayed too, as at E2B.

It does not import Pillow: it waits until somebody does.
"""

import functools
import importlib.machinery
import os
import sys

# Of pictures that one cell saves, as they are displayed. Code that saves thousands is to go on, and what a
# cell puts out has a bound: 64 MiB, as base64.
MOST_BYTES = 32 << 20


class Saves:
    """Displays what is saved, as long as that is not too much for a cell."""

    def __init__(self, shell):
        self._shell = shell
        self._left = MOST_BYTES
        # Processes that code forks have no connection to clients.
        self._pid = os.getpid()

    def new_cell(self, *_):
        """Begin to count anew."""
        self._left = MOST_BYTES

    def watch(self, module):
        """Have a module's pictures displayed: it is PIL.Image."""
        save = module.Image.save

        @functools.wraps(save)
        def saved(picture, fp, *args, **kwargs):
            result = save(picture, fp, *args, **kwargs)
            if isinstance(fp, str):
                self._display(picture)
            return result

        module.Image.save = saved

    def _display(self, picture):
        if self._left <= 0 or os.getpid() != self._pid:
            return
        data, metadata = self._shell.display_formatter.format(picture)
        self._left -= sum(len(value) for value in data.values() if isinstance(value, (bytes, str)))
        if self._left >= 0:
            self._shell.display_pub.publish(data=data, metadata=metadata)


class Finder:
    """Finds PIL.Image where it is, and looks at it when it has been imported."""

    def __init__(self, then):
        self._then = then

    def find_spec(self, name, path=None, target=None):
        """Find it, and nothing else."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == "PIL.Image" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module):
                execute(module)
                self._then(module)

            spec.loader.exec_module = executed
        return spec


def watch(shell):
    """Display what Pillow saves in this kernel."""
    saves = Saves(shell)
    sys.meta_path.insert(0, Finder(saves.watch))
    shell.events.register("pre_run_cell", saves.new_cell)
