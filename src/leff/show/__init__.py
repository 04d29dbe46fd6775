"""A page to look at runs with: curves, which layers were trained, devices, texts; runs side by side.

    leff show runs/a runs/b                 # serves the page; it follows runs that still go on
    leff show runs/a --export a.html        # one file that needs no server and no network

`sources.py` says what is shown.  `run_view.py`, `clients.py` and `runs_view.py` make the JSON values
that the page draws; `server.py` serves them, and `export.py` puts them into one file.  The page
itself is in `static/`: plain HTML, CSS and JavaScript modules, without libraries.
"""
