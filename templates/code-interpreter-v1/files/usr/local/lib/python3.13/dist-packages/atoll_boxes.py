"""
Reads box plots off the axes of matplotlib, for the charts that clients get as data.

e2b_charts cannot read a lone box, boxes of one height or whiskers of no length, and loses outliers of which a
box has several. It imports nothing.
"""

# Of a box's width: what is drawn at its centre is there but for rounding.
TOLERANCE = 1e-6


class Box:
    """A box, and what is drawn around it; *along* is the direction of the values, *across* the other one."""

    def __init__(self, patch, lines, across):
        corners = [tuple(map(float, point)) for point in patch.get_path().vertices]
        self._low, self._high = _ends(point[1 - across] for point in corners)
        self._left, self._right = _ends(point[across] for point in corners)
        self.centre = (self._left + self._right) / 2
        self._near = TOLERANCE * (self._right - self._left)
        self._lines = lines

    def _at_centre(self, places):
        return bool(places) and all(abs(place - self.centre) <= self._near for place in places)

    def whiskers(self):
        """Return where the whiskers end, below and above; None where the box does not lie this way."""
        below = above = None
        for style, across, along in self._lines:
            if style == "none" or len(along) != 2 or not self._at_centre(across):
                continue
            if max(along) == self._low and below is None:
                below = min(along)
            elif min(along) == self._high:
                above = max(along)
        return None if below is None or above is None else (below, above)

    def median(self):
        """Return it: the first of the longest lines. The ends of whiskers are shorter, means later."""
        found = [
            (max(across) - min(across), along[0])
            for style, across, along in self._lines
            if style != "none"
            and len(along) == 2
            and along[0] == along[1]
            and self._low <= along[0] <= self._high
            and self._left - self._near <= min(across) < max(across) <= self._right + self._near
        ]
        return max(found, key=lambda one: one[0])[1]

    def read(self, label):
        """Return its numbers."""
        low, high = self.whiskers()
        outliers = [
            value
            for style, across, along in self._lines
            if style == "none" and self._at_centre(across)
            for value in along
            if not low <= value <= high
        ]
        return {
            "label": label,
            "min": low,
            "first_quartile": self._low,
            "median": self.median(),
            "third_quartile": self._high,
            "max": high,
            "outliers": outliers,
        }


def boxes(axes):
    """
    Read all boxes; say whether their values are along x.

    Raises:
        ValueError: they lie neither way.
    """
    # Once for all boxes: each of them has some six.
    lines = [_line(line) for line in axes.get_lines()]
    for across, axis in ((0, axes.xaxis), (1, axes.yaxis)):
        turned = [(style, places[across], places[1 - across]) for style, places in lines]
        found = [Box(patch, turned, across) for patch in axes.patches]
        if all(box.whiskers() for box in found):
            return [box.read(_label(axis, box.centre)) for box in found], across == 1
    raise ValueError("no box plot")


def teach(box_chart, data):
    """Have e2b_charts read boxes as it is done here: given are its classes of a chart and of a box."""

    def extract(chart, axes):
        super(box_chart, chart)._extract_info(axes)
        found, lying = boxes(axes)
        if lying:
            chart._change_orientation()  # noqa: SLF001 - it is the chart's own method
        chart.elements = [data(**one) for one in found]

    box_chart._extract_info = extract  # noqa: SLF001 - what a chart fills itself with


def _line(line):
    """Return a line's style, and its places along x and y."""
    places = (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
    return str(line.get_linestyle()).lower(), places


def _ends(values):
    values = list(values)
    return min(values), max(values)


def _label(axis, centre):
    """Return the label that is nearest; with several boxes at one, the nearest is theirs."""
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    named = [(abs(float(place) - centre), label.get_text()) for place, label in ticks]
    return min(named)[1] if named else ""
