"""Notebooks (Jupyter, Colab, VS Code): whether this is one, how pictures and bars get into it.

Nothing of IPython is imported here unless it is running already, and ipywidgets is optional.
"""

from __future__ import annotations

import sys
import warnings


def is_notebook() -> bool:
    """Whether this code runs in a notebook's kernel, as opposed to a terminal or a program."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def display(picture) -> None:
    """Show a PIL picture below the cell; only in a notebook."""
    from IPython.display import display

    display(picture)


def progress_bar(**options):
    """A tqdm bar with its ``options``: a widget in a notebook with ipywidgets, otherwise text."""
    if not is_notebook():
        from tqdm import tqdm
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm's warning that ipywidgets is missing
            from tqdm.auto import tqdm
    return tqdm(**options)
