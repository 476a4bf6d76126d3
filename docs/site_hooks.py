"""What `make docs` does to pages that are read on GitHub too.

The same files make two sites, one for each language: page.zh.md stands for page.md in the Chinese
one. mkdocs-static-i18n would do that, but its links from one language to the other are absolute,
and so lead nowhere in a site that is opened from a disk.
"""

import html
import json
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PICTURES = "images"
NO_CHINESE = "\n\n（本页暂无中文版，以下为英文。）"
CATALOGUE = "porting_bugs.md"
FIELDS = {
    "en": ("field", "type", "meaning"),
    "zh": ("字段", "类型", "含义"),
}

FIELDS_OF = {"en": "All fields of report.json", "zh": "report.json 的全部字段"}


def on_files(files, config):
    """Takes the pages of one language. Adds the pictures, which lie in images/, beside docs/."""
    chinese = {file.src_uri for file in files if file.src_uri.endswith(".zh.md")}
    kept = []
    for file in files:
        translated = file.src_uri.removesuffix(".md") + ".zh.md"
        if file.src_uri in chinese:
            continue
        if config.extra["language"] == "zh" and translated in chinese:
            text = Path(config.docs_dir, translated).read_text(encoding="utf-8")
            file = File.generated(config, file.src_uri, content=text)
        kept.append(file)
    for picture in sorted((ROOT / PICTURES).glob("*.png")):
        path = f"{PICTURES}/{picture.name}"
        kept.append(File.generated(config, path, abs_src_path=str(picture)))
    return Files(kept)


def on_page_markdown(markdown, page, config, files):
    """Links that hold in the repository become those that hold in the site."""
    # The site has no source files.
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./(?!images/)[^)]*\)", _as_code, markdown)
    markdown = markdown.replace("../images/", f"{PICTURES}/")
    # In links alone: a command that writes page.zh.md stays as it is.
    markdown = re.sub(r"(\]\([^)\s]*)\.zh\.md", r"\1.md", markdown)
    if page.file.src_uri == CATALOGUE:
        page.meta["hide"] = ["toc"]  # the table needs the room
    if page.file.src_uri == "report.md":
        markdown += _fields(json.loads((ROOT / "docs/report.schema.json").read_text()), config)
    if config.extra["language"] == "zh" and not re.search("[\u4e00-\u9fff]", markdown):
        heading, rest = markdown.split("\n", 1)
        markdown = f"{heading}{NO_CHINESE}\n{rest}"
    # In code, in a table: GitHub takes the backslash away, Python-Markdown leaves it.
    return re.sub(r"`([^`\n]*\\\|[^`\n]*)`", _with_bars, markdown)


def on_page_context(context, page, config, nav):
    """The switch of languages leads to the same page, by a relative link."""
    other = {"en": f"zh/{page.url}", "zh": f"../{page.url}"}[config.extra["language"]]
    links = {"en": page.url, "zh": page.url, _other(config): other}
    config.extra["alternate"] = [
        {"name": "English", "link": links["en"], "lang": "en"},
        {"name": "简体中文", "link": links["zh"], "lang": "zh"},
    ]
    return context


def _other(config):
    return "en" if config.extra["language"] == "zh" else "zh"


def _with_bars(code):
    text = html.escape(code[1].replace("\\|", "|"))
    return f"<code>{text.replace('|', '&#124;')}</code>"


def _as_code(link):
    return link[1] if "`" in link[1] else f"`{link[1]}`"


def _fields(schema, config):
    """Tables of all fields of report.json, from its schema."""
    names = FIELDS[config.extra["language"]]
    lines = ["", f"## {FIELDS_OF[config.extra['language']]}"]
    for title, about in [("report.json", schema), *schema["$defs"].items()]:
        if "properties" not in about:
            continue
        lines += ["", f"### {title}", "", f"| {' | '.join(names)} |", "| --- | --- | --- |"]
        lines += _rows(about, "")
    return "\n".join(lines) + "\n"


def _rows(about, prefix):
    for name, field in about.get("properties", {}).items():
        inner = field.get("items", field)
        what = field.get("description", "").replace("|", "\\|")
        yield f"| `{prefix}{name}` | {_type(field)} | {what} |"
        yield from _rows(inner, f"{prefix}{name}.")


def _type(field):
    if "$ref" in field:
        return f"`{field['$ref'].rsplit('/', 1)[1]}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    types = field.get("type", "")
    text = " or ".join(types) if isinstance(types, list) else types
    return f"{text} of {_type(field['items'])}" if "items" in field else text
