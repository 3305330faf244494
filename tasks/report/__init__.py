"""One static HTML page of all results: ``python -m tasks.report --out DIR``.

markup (escaped HTML, Markdown tables) <- charts (inline SVG) <- sections (of a table, of run
directories) <- __main__; page.css and page.js are put into the page.
"""
