"""Charts that the released code interpreter client reads off figures: each kind, its scales, and none."""

from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import (
    BarChart,
    BoxAndWhiskerChart,
    Chart,
    ChartType,
    LineChart,
    PieChart,
    ScaleType,
    ScatterChart,
    SuperChart,
)


def test_a_plot_is_a_picture_and_data(interpreter: Sandbox) -> None:
    execution = interpreter.run_code(
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2, 3], [4, 5, 6], label='up')\nplt.title('T')\nplt.xlabel('X (s)')\nplt.show()"
    )

    (result,) = execution.results
    assert result.png is not None
    assert result.png.startswith("iVBOR")
    assert isinstance(result.chart, LineChart)
    assert (result.chart.title, result.chart.x_label) == ("T", "X (s)")
    (line,) = result.chart.elements
    assert [tuple(point) for point in line.points] == [(1, 4), (2, 5), (3, 6)]


def charted(interpreter: Sandbox, code: str) -> Chart:
    """Draw, and return what the client makes of the chart."""
    execution = interpreter.run_code(f"import matplotlib.pyplot as plt\nplt.close('all')\n{code}\nplt.show()")
    (result,) = execution.results
    assert result.png is not None
    assert result.chart is not None
    return result.chart


def test_points_are_those_of_a_scatter_with_their_scales(interpreter: Sandbox) -> None:
    chart = charted(
        interpreter,
        "plt.scatter([1, 10], [4, 5], label='a')\nplt.scatter([2], [float('nan')], label='b')\n"
        "plt.xscale('log')\nplt.ylabel('Y [m]')",
    )

    assert isinstance(chart, ScatterChart)
    assert (chart.type, chart.x_scale, chart.y_scale) == (ChartType.SCATTER, ScaleType.LOG, ScaleType.LINEAR)
    assert (chart.y_label, chart.y_unit) == ("Y [m]", "m")
    assert len(chart.x_ticks) == len(chart.x_tick_labels) > 0
    first, second = chart.elements
    assert (first.label, first.points) == ("a", [(1, 4), (10, 5)])
    assert second.label == "b"


def test_days_and_words_are_scales_too(interpreter: Sandbox) -> None:
    days = charted(
        interpreter, "import datetime as d\nplt.plot([d.date(2026, 1, 1), d.date(2026, 1, 2)], [1, 2])"
    )
    words = charted(interpreter, "plt.plot(['a', 'b'], [1, 2])")

    assert isinstance(days, LineChart)
    assert isinstance(words, LineChart)
    assert (days.x_scale, words.x_scale) == (ScaleType.DATETIME, ScaleType.CATEGORICAL)
    assert days.elements[0].points == [("2026-01-01", 1), ("2026-01-02", 2)]
    assert words.elements[0].points == [("a", 1), ("b", 2)]


def test_a_pie_has_angles(interpreter: Sandbox) -> None:
    chart = charted(interpreter, "plt.pie([1, 3], labels=['a', 'b'])\nplt.title('T')")

    assert isinstance(chart, PieChart)
    assert chart.title == "T"
    assert [(one.label, one.angle, one.radius) for one in chart.elements] == [("a", 90, 1), ("b", 270, 1)]


def test_boxes_have_quartiles_whiskers_and_outliers(interpreter: Sandbox) -> None:
    two = charted(
        interpreter,
        "plt.boxplot([[1, 2, 3, 4, 5, 6, 7, 50, 60], [11, 12, 13, 14, 15]], tick_labels=['a', 'b'], "
        "patch_artist=True)\n"
        "plt.ylabel('mass (kg)')",
    )
    lone = charted(interpreter, "import seaborn\nseaborn.boxplot(x=[1, 2, 3, 4, 5])\nplt.xlabel('v')")

    assert isinstance(two, BoxAndWhiskerChart)
    assert isinstance(lone, BoxAndWhiskerChart)
    assert (two.y_label, two.y_unit) == ("mass (kg)", "kg")
    numbers = [
        (box.label, box.min, box.first_quartile, box.median, box.third_quartile, box.max, box.outliers)
        for box in (*two.elements, *lone.elements)
    ]
    assert numbers == [
        ("a", 1, 3, 5, 7, 7, [50, 60]),
        ("b", 11, 12, 13, 14, 15, []),
        ("", 1, 2, 3, 4, 5, []),
    ]
    # What the boxes lie along is what their values are.
    assert lone.y_label == "v"


def test_a_figure_of_several_axes_is_charts_of_their_kinds(interpreter: Sandbox) -> None:
    chart = charted(
        interpreter,
        "figure, axes = plt.subplots(1, 4)\nfigure.suptitle('S')\naxes[0].plot([1, 2], [3, 4])\n"
        "axes[1].bar(['x', 'y'], [1, 2])\naxes[2].pie([1])\naxes[3].imshow([[1]])",
    )

    assert isinstance(chart, SuperChart)
    assert chart.title == "S"
    assert [type(one) for one in chart.elements] == [LineChart, BarChart, PieChart, Chart]
    assert chart.elements[3].type == ChartType.UNKNOWN
    bars = [(bar.label, bar.value, bar.group) for bar in chart.elements[1].elements]
    assert bars == [("x", 1, "Group 0"), ("y", 2, "Group 0")]


def test_what_has_no_data_has_no_chart(interpreter: Sandbox) -> None:
    blank = interpreter.run_code("plt.close('all')\nplt.title('nothing')\nplt.show()")

    assert [result.chart for result in blank.results] == [None]
