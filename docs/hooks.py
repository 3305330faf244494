"""For MkDocs: the figures of results/ become part of the site, tutorials' code of their page.

Pages link them as ../results/NAME, which is right where docs/ is read in the repository.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    for path in sorted((ROOT / "results").iterdir()):
        if path.suffix in (".png", ".jpg"):
            files.append(
                File(f"results/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls)
            )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == "tutorials.md":
        for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
            code = path.read_text(encoding="utf-8")
            title = (ast.get_docstring(ast.parse(code)) or path.stem).split("\n")[0]
            markdown += f"\n\n## {title}\n\n```python\n{code}```\n"
    return markdown.replace("](../results/", "](results/").replace("](tutorials/", "](#")
