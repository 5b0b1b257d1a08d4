"""How Sphinx builds the documentation; ``nox -s docs`` runs it with every warning an error."""

import unio

project = "unio"
author = "the unio authors"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = unio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["_build", "performance"]  # the latter is what a run of the benchmark wrote; a page includes it
html_theme = "furo"
html_title = f"unio {release}"

# A fence of the language "doctest" is an example that the doctest builder runs.
myst_fence_as_directive = ["doctest"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

# Handle is abstract for the backends only: a reader is given handles.
for member in vars(unio.Handle).values():
    function = getattr(member, "fget", member)
    if getattr(function, "__isabstractmethod__", False):
        function.__isabstractmethod__ = False

# Every reference to a name of unio must resolve. Python's own are not looked up: the build needs no network.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!unio\.).*")]
nitpick_ignore = [("py:class", "unio.awaiting.Within")]  # what `within` gives to `await`, and nobody else needs
