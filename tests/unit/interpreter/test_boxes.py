"""What is read off a box plot: axes as matplotlib fills them, which is not installed here."""

import importlib.util
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SOURCE = (
    Path(__file__).parents[3]
    / "templates/code-interpreter-v1/files/usr/local/lib/python3.13/dist-packages/atoll_boxes.py"
)
Numbers = Sequence[float]


@pytest.fixture(scope="module")
def boxes() -> Any:
    spec = importlib.util.spec_from_file_location("atoll_boxes", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Axes:
    """Holds what ``boxplot(..., patch_artist=True)`` draws, in its order."""

    def __init__(self, labels: Sequence[str] = (), lying: bool = False) -> None:
        self.patches: list[Any] = []
        self._lines: list[Any] = []
        # How often data were read off a line.
        self.reads = 0
        self._lying = lying
        named, plain = self._axis(labels), self._axis(())
        self.xaxis, self.yaxis = (plain, named) if lying else (named, plain)

    def get_lines(self) -> list[Any]:
        return self._lines

    def draw(
        self,
        place: float,
        five: tuple[float, float, float, float, float],
        outliers: Numbers = (),
        mean: Numbers = (),
    ) -> "Axes":
        """Draw a box of the five numbers from the least to the most."""
        low, first, median, third, high = five
        left, right = place - 0.075, place + 0.075
        corners = [(left, first), (right, first), (right, third), (left, third), (left, first)]
        turned = [corner[::-1] if self._lying else corner for corner in corners]
        path = types.SimpleNamespace(vertices=turned)
        self.patches.append(types.SimpleNamespace(get_path=lambda: path))
        for across, along in (
            ([place, place], [first, low]),
            ([place, place], [third, high]),
            ([place - 0.0375, place + 0.0375], [low, low]),
            ([place - 0.0375, place + 0.0375], [high, high]),
            ([left, right], [median, median]),
            *(([left, right], [one, one]) for one in mean),
        ):
            self._line(across, along, "-")
        self._line([place] * len(outliers), outliers, "None")
        return self

    def _line(self, across: Numbers, along: Numbers, style: str) -> None:
        x, y = (along, across) if self._lying else (across, along)

        def get_xdata() -> Numbers:
            self.reads += 1
            return x

        line = types.SimpleNamespace(get_xdata=get_xdata, get_ydata=lambda: y, get_linestyle=lambda: style)
        self._lines.append(line)

    def _axis(self, labels: Sequence[str]) -> Any:
        texts = [types.SimpleNamespace(get_text=lambda text=text: text) for text in labels]
        places = list(range(1, len(labels) + 1))
        return types.SimpleNamespace(get_ticklocs=lambda: places, get_ticklabels=lambda: texts)


def data(label: str, five: Numbers, outliers: Numbers = ()) -> dict[str, Any]:
    names = ("min", "first_quartile", "median", "third_quartile", "max")
    return {"label": label, **dict(zip(names, five, strict=True)), "outliers": list(outliers)}


@pytest.mark.parametrize("lying", [False, True])
def test_a_lone_box_is_read_whichever_way_it_lies(boxes: Any, lying: bool) -> None:
    axes = Axes(["a"], lying).draw(1, (1, 2, 3, 4, 5))

    assert boxes.boxes(axes) == ([data("a", (1, 2, 3, 4, 5))], lying)


def test_boxes_of_one_height_have_their_own_labels_and_all_their_outliers(boxes: Any) -> None:
    axes = Axes(["a", "b"]).draw(1, (1, 2, 3, 4, 5), [50, -60]).draw(2, (11, 12, 13, 14, 15), [70])

    found, _ = boxes.boxes(axes)

    assert found == [data("a", (1, 2, 3, 4, 5), [50, -60]), data("b", (11, 12, 13, 14, 15), [70])]


@pytest.mark.parametrize("five", [(1, 2, 3, 4, 4), (2, 2, 3, 4, 5), (3, 3, 3, 3, 3), (1, 1, 1, 4, 4)])
def test_whiskers_may_have_no_length_and_a_median_be_at_an_edge(boxes: Any, five: Any) -> None:
    found, _ = boxes.boxes(Axes(["a"]).draw(1, five, [100]))

    assert found == [data("a", five, [100])]


def test_a_mean_is_no_median(boxes: Any) -> None:
    found, _ = boxes.boxes(Axes(["a"]).draw(1, (1, 2, 2.5, 4, 5), mean=[3]))

    assert found[0]["median"] == 2.5


def test_boxes_beside_each_other_share_the_label_that_is_nearest(boxes: Any) -> None:
    axes = Axes(["a", "b"])
    for place in (0.8, 1.2, 1.8, 2.2):
        axes.draw(place, (1, 2, 3, 4, 5))

    assert [one["label"] for one in boxes.boxes(axes)[0]] == ["a", "a", "b", "b"]


def test_the_lines_of_many_boxes_are_not_read_for_each_of_them(boxes: Any) -> None:
    axes = Axes()
    for place in range(20):
        axes.draw(place, (1, 2, 3, 4, 5))

    boxes.boxes(axes)

    assert axes.reads == len(axes.get_lines())


def test_what_is_no_box_plot_is_refused(boxes: Any) -> None:
    axes = Axes().draw(1, (1, 2, 3, 4, 5))
    axes.get_lines().clear()

    with pytest.raises(ValueError, match="no box plot"):
        boxes.boxes(axes)


def test_the_chart_is_filled_and_its_labels_follow_the_boxes(boxes: Any) -> None:
    class Chart2D:
        turned = False

        def _extract_info(self, axes: Any) -> None:
            self.title = "T"

        def _change_orientation(self) -> None:
            self.turned = True

    class BoxChart(Chart2D):
        elements: list[Any]

    boxes.teach(BoxChart, dict)
    chart = BoxChart()
    chart._extract_info(Axes(["a"], lying=True).draw(1, (1, 2, 3, 4, 5)))

    assert (chart.title, chart.turned) == ("T", True)
    assert chart.elements == [data("a", (1, 2, 3, 4, 5))]
