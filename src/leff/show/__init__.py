"""A page to look at runs with: curves, layers, devices, texts; and runs beside each other.

    leff show runs/a runs/b                 # serves the page; it follows runs that still go on
    leff show runs/a --export a.html        # one file that needs no server and no network

`sources.py` finds what is shown, and `followed.py` reads a run that may grow.  `pages.py` has the
JSON values of each page; `server.py` serves them, and `export.py` puts them into one file.  The
page itself is in `static/`: plain HTML, CSS and JavaScript modules, without libraries.
"""
