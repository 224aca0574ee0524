"""What the tests of figures share."""

import matplotlib as mpl
import numpy as np

from seglib.data import ClassMap

mpl.use("Agg")

RNG = np.random.default_rng(0)
CLASSES = ClassMap(("sky", "road $x_", "pole"))


def drawn(thing):
    """Lay a figure out, draw it, and check that nothing in it reaches over its edges."""
    fig = thing if isinstance(thing, mpl.figure.Figure) else thing.figure
    fig.draw_without_rendering()
    box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert min(box.x0, box.y0) > -0.02
    assert max(box.x1 - width, box.y1 - height) < 0.02
    return thing


def words(thing) -> str:
    """All texts of a drawn figure."""
    drawn(thing)
    return " | ".join(text.get_text() for text in thing.figure.findobj(mpl.text.Text))


def told(ax) -> list[str]:
    """The entries of a legend."""
    return [t.get_text() for t in ax.get_legend().get_texts()]


def many(count: int) -> ClassMap:
    return ClassMap(tuple(f"class {k} " + "with a very long name " * (k % 9 == 0) for k in range(count)))
