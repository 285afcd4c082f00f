"""Sphinx configuration of the documentation."""

from importlib.metadata import PackageNotFoundError, version

project = "lightning-compress"
author = "The lightning-compress developers"
try:
    release = version("lightning-compress")
except PackageNotFoundError:  # built from a checkout that is not installed
    release = "0.1.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lightning-compress"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Third-party bases and generics have no page here.
nitpicky = False
suppress_warnings = ["ref.python", "autosummary"]
