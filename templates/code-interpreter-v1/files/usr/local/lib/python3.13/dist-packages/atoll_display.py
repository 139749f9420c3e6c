"""
What the Python kernel does beside IPython's own: it shows the data of charts and of DataFrames, and pictures
that are saved, and sends what is printed in pieces.

An extension of IPython, loaded when the kernel starts. It imports nothing that code may not need: it waits
until somebody imports pandas, matplotlib or Pillow.
"""

import json
import sys

import atoll_boxes
import atoll_pictures
from ipykernel.iostream import OutStream
from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

# A DataFrame with more is shown as text and HTML only, which pandas cuts short.
MOST_CELLS = 1_000_000
# Characters. Messages of hundreds of megabytes would be all memory, several times over, where they are read.
MOST_WAITING = 1_000_000


class DataFormatter(BaseFormatter):
    """A DataFrame's columns."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):
    """What a figure of matplotlib shows."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, obj):
        """Look at the figure itself: matplotlib takes figures out of every formatter's table."""
        matplotlib = sys.modules.get("matplotlib.figure")
        if matplotlib is not None and isinstance(obj, matplotlib.Figure):
            return _chart(obj)
        return None


def _data(frame):
    """Return columns as lists that JSON can hold, times as ISO 8601; nothing for too large a frame."""
    if frame.size > MOST_CELLS:
        return None
    return {str(name): _values(frame.iloc[:, number]) for number, name in enumerate(frame.columns)}


def _values(column):
    if column.dtype.kind == "M" or hasattr(column.dtype, "tz"):
        return [None if value != value else value.isoformat() for value in column]
    return json.loads(column.to_json(orient="values", default_handler=str))


def _chart(figure):
    """Return the chart as data; nothing if it cannot be read: the picture is there all the same."""
    try:
        from e2b_charts import chart_figure_to_dict
        from e2b_charts.charts import bars

        atoll_boxes.teach(bars.BoxAndWhiskerChart, bars.BoxAndWhiskerData)
        return chart_figure_to_dict(figure) or None
    except Exception:
        return None


def _sent_in_pieces(stream):
    """Have what is printed sent when so much waits; the kernel itself collects all of a fifth of a second."""
    write, waiting = stream.write, 0

    def counted(text):
        nonlocal waiting
        written = write(text)
        waiting += len(text)
        if waiting >= MOST_WAITING:
            waiting = 0
            stream.flush()
        return written

    stream.write = counted


def load_ipython_extension(shell):
    """Add the formatters, show what is saved, and bound what is printed at once."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, OutStream):
            _sent_in_pieces(stream)
    atoll_pictures.watch(shell)
    formatters = shell.display_formatter.formatters
    formatters["e2b/data"] = DataFormatter(parent=shell.display_formatter)
    formatters["e2b/chart"] = ChartFormatter(parent=shell.display_formatter)
    for module in ("pandas.core.frame", "pandas"):
        formatters["e2b/data"].for_type_by_name(module, "DataFrame", _data)
