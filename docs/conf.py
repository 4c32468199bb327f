"""The site of the documentation: `make docs` builds it, without network, into `docs/_build/html`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import generated  # noqa: E402

from multivi_nf import __version__  # noqa: E402

project = "multivi-nf"
author = "The multivi-nf developers"
copyright = "2026, the multivi-nf developers, BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "**/.ipynb_checkpoints"]
suppress_warnings = ["mystnb.unknown_mime_type"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
smartquotes_action = "qe"  # no dashes: `--` begins an option, also in tables that are written from the schema

# Tutorials run in the clone, as their reader would; what they gave is kept by what it was made from (generated.py).
nb_execution_mode = generated.execution_mode()
nb_execution_cache_path = str(generated.outputs_folder())
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 3600
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
autosummary_generate = True
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "multivi-nf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_persistent": [],  # the search stands in the side bar
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def setup(app):
    """Write the pages that say what the code says, before sphinx looks for pages."""
    generated.make_clone()
    app.connect("builder-inited", generated.write_pages)
    app.connect("build-finished", generated.note_complete)
