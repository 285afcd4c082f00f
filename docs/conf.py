"""Sphinx configuration of the documentation."""

import importlib.metadata

project = "lightning-compress"
author = "The lightning-compress developers"
try:
    release = importlib.metadata.version("lightning-compress")
except importlib.metadata.PackageNotFoundError:  # built from a checkout that is not installed
    release = "0.1.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lightning-compress"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
