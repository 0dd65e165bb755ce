"""The trained model at work in the reader's browser: what a page of the book shows and loads.

``layout`` writes the scripts that a built page loads, `Live` is the figure in a notebook.
"""

from .figure import Live

__all__ = ["Live"]
